//! Changes of the members, and of the primary that may write, over HTTP and by `recover`.

use std::time::Duration;

use serde_json::json;
use walproposer::config::SEND_BUFFER_BYTES_MAX;

use crate::primary::{ScriptedPrimary, builder};
use crate::safekeepers::{LINEAGE_START, Safekeepers};
use crate::support::{Walproposer, fail_over};

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_dead_safekeeper_is_replaced_by_an_empty_one_while_commits_go_on() {
    let primary = ScriptedPrimary::start(LINEAGE_START).await;
    let mut safekeepers = Safekeepers::create(3).await;
    let before = safekeepers.cluster().clone();
    // With so little in memory the new one has to read from a donor.
    let walproposer = Walproposer::start_with_buffer(&primary, &before, 1 << 20).await;
    let mut wal = builder(LINEAGE_START);
    let end = primary.write(&wal.noop(3_000_000).bytes);
    primary.acknowledged(end).await;
    safekeepers.stop(3).await;

    let fourth = safekeepers.add(4, LINEAGE_START).await;
    let members = json!([safekeepers.member(1), safekeepers.member(2), fourth]);
    let (code, answer) = walproposer.put("/v1/members", &members).await;
    assert_eq!((code, &answer), (202, &json!({"generation": 2})));
    let end = primary.write(&wal.noop(300).bytes);
    primary.acknowledged(end).await;
    let status = walproposer.decided(&answer["generation"]).await;
    assert_eq!(status["configuration"]["members"], members);
    assert_eq!(status["change"]["state"], "decided");
    let (code, answer) = walproposer.put("/v1/members", &members).await;
    assert_eq!((code, answer), (200, json!({"generation": 2})));
    walproposer.until("3 to be let go", |status| status["safekeepers"].as_array().unwrap().len() == 3).await;

    // 4 counts, and 3 does not any more.
    safekeepers.stop(1).await;
    let end = primary.write(&wal.noop(300).bytes);
    primary.acknowledged(end).await;
    safekeepers.start(3).await;
    safekeepers.stop(4).await;
    let held = primary.write(&wal.noop(300).bytes);
    walproposer.blocked("2 of 3 safekeepers are unreachable (1, 4)").await;
    walproposer.stop().await;
    // One that knows only the old members finds the new ones.
    let walproposer = Walproposer::start(&primary, &before).await;
    walproposer.blocked("2 of 3 safekeepers are unreachable (1, 4)").await;
    let told = primary.read().status.map_or(LINEAGE_START, |status| status.flush);
    assert!(told < held, "acknowledged by one member and one that was removed");
    safekeepers.start(4).await;
    primary.acknowledged(held).await;
    walproposer.stop().await;
}

#[tokio::test]
async fn a_change_is_refused_in_one_sentence() {
    let primary = ScriptedPrimary::start(LINEAGE_START).await;
    let mut safekeepers = Safekeepers::create(3).await;
    safekeepers.stop(2).await;
    safekeepers.stop(3).await;
    let mut cluster = safekeepers.cluster().clone();
    let walproposer = Walproposer::start(&primary, &cluster).await;
    let all = json!([safekeepers.member(1), safekeepers.member(2), safekeepers.member(3)]);
    let (code, answer) = walproposer.put("/v1/members", &all).await;
    assert_eq!(code, 409);
    assert!(answer["error"].as_str().unwrap().contains("does not lead"), "{answer}");

    safekeepers.start(2).await;
    let mut wal = builder(LINEAGE_START);
    let end = primary.write(&wal.noop(300).bytes);
    primary.acknowledged(end).await;
    // Nobody listens there, so it never catches up.
    let nobody =
        json!([safekeepers.member(1), safekeepers.member(2), {"id": 9, "host": "127.0.0.1", "port": 1}]);
    let twice = json!([safekeepers.member(1), safekeepers.member(1)]);
    let nameless = json!([safekeepers.member(1), {"id": 9, "host": "", "port": 1}]);
    for (path, body, expected, words) in [
        ("/v1/members", &json!([]), 400, "at least one member"),
        ("/v1/members", &twice, 400, "listed twice"),
        ("/v1/members", &nameless, 400, "no usable host"),
        ("/v1/members", &json!({"id": 1}), 400, "expected"),
        ("/v1/primary", &json!({"primary": "a/b"}), 400, "as in pg-a"),
        ("/v1/members", &nobody, 202, ""),
        ("/v1/members", &all, 409, "under way"),
        ("/v1/primary", &json!({"primary": "a"}), 409, "under way"),
    ] {
        let (code, answer) = walproposer.put(path, body).await;
        let said = answer["error"].as_str().unwrap_or_default();
        assert!(code == expected && said.contains(words), "{path} {body}: {code} {answer}");
    }
    let waits = |status: &serde_json::Value| status["change"]["waits_for"][0]["id"] == 9;
    let status = walproposer.until("9 to be waited for", waits).await;
    assert_eq!(status["change"]["state"], "catching_up");
    // Commits need no one who is only on the way in.
    let end = primary.write(&wal.noop(300).bytes);
    primary.acknowledged(end).await;
    walproposer.stop().await;

    cluster.token = Some("s3cret".into());
    let guarded = Walproposer::start(&primary, &cluster).await;
    assert_eq!(guarded.put("/v1/members", &all).await.0, 401);
    assert_eq!(guarded.put_with_token("/v1/members", &all, "s3cre").await.0, 401);
    assert_ne!(guarded.put_with_token("/v1/members", &all, "s3cret").await.0, 401);
    guarded.stop().await;
}

#[tokio::test]
async fn a_log_that_was_given_away_takes_no_other_primarys_wal() {
    let primary = ScriptedPrimary::start(LINEAGE_START).await;
    let safekeepers = Safekeepers::create(3).await;
    let cluster = safekeepers.cluster();
    let start = async |name| Walproposer::start_as(&primary, cluster, SEND_BUFFER_BYTES_MAX, name).await;
    let mut wal = builder(LINEAGE_START);
    let old = start(None).await;
    let first = primary.write(&wal.noop(300).bytes);
    primary.acknowledged(first).await;

    let (code, answer) = old.put("/v1/primary", &json!({"primary": "pg-a"})).await;
    assert_eq!((code, answer), (202, json!({"generation": 1})));
    old.blocked("given to primary pg-a").await;
    assert_eq!(old.put("/v1/primary", &json!({"primary": "pg-b"})).await.0, 409);
    let second = primary.write(&wal.noop(300).bytes);
    let named = start(Some("pg-a")).await;
    primary.acknowledged(second).await;
    assert_eq!(named.leads().await["configuration"]["primary"], "pg-a");

    let recovered = fail_over(cluster, LONG, Some("pg-b")).await.unwrap();
    assert_eq!((recovered.primary.as_deref(), recovered.generation), (Some("pg-b"), 2));
    named.blocked("given to primary pg-b").await;
    let held = primary.write(&wal.noop(300).bytes);
    // Again is no change.
    assert_eq!(fail_over(cluster, LONG, Some("pg-b")).await.unwrap().generation, 2);
    assert_eq!(fail_over(cluster, LONG, None).await.unwrap().primary.as_deref(), Some("pg-b"));
    assert!(primary.read().status.unwrap().flush < held);
    for walproposer in [old, named] {
        walproposer.stop().await;
    }
}

#[tokio::test]
async fn of_two_failovers_at_once_one_wins_and_the_other_is_told() {
    let safekeepers = Safekeepers::create(3).await;
    for round in 0..5 {
        two_failovers(&safekeepers, round).await;
    }
}

#[tokio::test]
async fn two_that_split_the_votes_do_not_wait_for_the_vote_of_one_that_is_gone() {
    let mut safekeepers = Safekeepers::create(3).await;
    safekeepers.stop(3).await;
    for round in 0..5 {
        two_failovers(&safekeepers, round).await;
    }
}

async fn two_failovers(safekeepers: &Safekeepers, round: u32) {
    let cluster = safekeepers.cluster();
    let names = [format!("a{round}"), format!("b{round}")];
    let (one, other) =
        tokio::join!(fail_over(cluster, LONG, Some(&names[0])), fail_over(cluster, LONG, Some(&names[1])));
    let last = fail_over(cluster, LONG, None).await.unwrap().primary.unwrap();
    let won = [&one, &other].into_iter().flatten().filter_map(|won| won.primary.clone());
    let won: Vec<String> = won.collect();
    assert!(won.contains(&last), "{last} was not promised to anybody: {one:?} {other:?}");
    for lost in [one, other].into_iter().filter_map(Result::err) {
        assert!(lost.to_string().contains(&format!("given to primary {last}")), "{lost}");
    }
}
