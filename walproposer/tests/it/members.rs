//! Changes of the members and of the designated primary, over HTTP and by `recover`.

use std::time::Duration;

use serde_json::json;

use crate::support::{LINEAGE_START, Safekeepers, TestCluster, Walproposer, fail_over};

const LONG: Duration = Duration::from_secs(30);

/// A dead safekeeper is replaced by an empty one while commits go on.
#[tokio::test]
async fn members_change_replaces_dead_safekeeper() {
    let mut cluster = TestCluster::start(3).await;
    let before = cluster.safekeepers.cluster().clone();
    // With so little WAL in memory the new safekeeper has to read from a donor.
    let walproposer = cluster.start_walproposer_with_buffer(1 << 20).await;
    cluster.write_acknowledged(3_000_000).await;
    cluster.safekeepers.stop(3).await;

    let fourth = cluster.safekeepers.add(4, LINEAGE_START).await;
    let members = json!([cluster.safekeepers.member(1), cluster.safekeepers.member(2), fourth]);
    let (code, answer) = walproposer.put("/v1/members", &members).await;
    assert_eq!((code, &answer), (202, &json!({"generation": 2})));
    cluster.write_acknowledged(300).await;
    let status = walproposer.until_decided(&answer["generation"]).await;
    assert_eq!(status["configuration"]["members"], members);
    assert_eq!(status["change"]["state"], "decided");
    let (code, answer) = walproposer.put("/v1/members", &members).await;
    assert_eq!((code, answer), (200, json!({"generation": 2})));
    walproposer
        .until("safekeeper 3 to be disconnected", |status| {
            status["safekeepers"].as_array().unwrap().len() == 3
        })
        .await;

    // Safekeeper 4 counts, and safekeeper 3 no longer does.
    cluster.safekeepers.stop(1).await;
    cluster.write_acknowledged(300).await;
    cluster.safekeepers.start(3).await;
    cluster.safekeepers.stop(4).await;
    let held = cluster.write(300);
    walproposer.until_blocked("2 of 3 safekeepers are unreachable (1, 4)").await;
    walproposer.stop().await;
    // A walproposer that knows only the old members finds the new ones.
    let walproposer = Walproposer::start(&cluster.primary, &before).await;
    walproposer.until_blocked("2 of 3 safekeepers are unreachable (1, 4)").await;
    let acknowledged = cluster.primary.read().status.map_or(LINEAGE_START, |status| status.flush);
    assert!(acknowledged < held, "acknowledged by one member and one that was removed");
    cluster.safekeepers.start(4).await;
    cluster.primary.until_acknowledged(held).await;
    walproposer.stop().await;
}

#[tokio::test]
async fn members_change_is_refused_with_reason() {
    let mut cluster = TestCluster::start(3).await;
    cluster.safekeepers.stop(2).await;
    cluster.safekeepers.stop(3).await;
    let walproposer = cluster.start_walproposer().await;
    let member = |node| cluster.safekeepers.member(node);
    let (first, second) = (member(1), member(2));
    let all = json!([first, second, member(3)]);
    let (code, answer) = walproposer.put("/v1/members", &all).await;
    assert_eq!(code, 409);
    assert!(answer["error"].as_str().unwrap().contains("does not lead"), "{answer}");

    cluster.safekeepers.start(2).await;
    cluster.write_acknowledged(300).await;
    // Nothing listens at the address of safekeeper 9, so it never catches up.
    let absent = json!([first, second, {"id": 9, "host": "127.0.0.1", "port": 1}]);
    let twice = json!([first, first]);
    let nameless = json!([first, {"id": 9, "host": "", "port": 1}]);
    for (path, body, expected, words) in [
        ("/v1/members", &json!([]), 400, "at least one member"),
        ("/v1/members", &twice, 400, "listed twice"),
        ("/v1/members", &nameless, 400, "no usable host"),
        ("/v1/members", &json!({"id": 1}), 400, "expected"),
        ("/v1/primary", &json!({"primary": "a/b"}), 400, "as in pg-a"),
        ("/v1/members", &absent, 202, ""),
        ("/v1/members", &all, 409, "under way"),
        ("/v1/primary", &json!({"primary": "a"}), 409, "under way"),
    ] {
        let (code, answer) = walproposer.put(path, body).await;
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(code == expected && error.contains(words), "{path} {body}: {code} {answer}");
    }
    let waits = |status: &serde_json::Value| status["change"]["waits_for"][0]["id"] == 9;
    let status = walproposer.until("the change to wait for safekeeper 9", waits).await;
    assert_eq!(status["change"]["state"], "catching_up");
    // Commits do not need a safekeeper that is still catching up.
    cluster.write_acknowledged(300).await;

    let (code, answer) = walproposer.delete("/v1/members/change").await;
    assert_eq!((code, answer), (200, json!({"generation": 0})));
    let status = walproposer.status().await;
    assert_eq!(status["change"]["state"], "failed");
    let (code, answer) = walproposer.delete("/v1/members/change").await;
    assert!(
        code == 409 && answer["error"].as_str().unwrap().contains("no change of members"),
        "{code} {answer}"
    );
    walproposer.stop().await;

    let mut with_token = cluster.safekeepers.cluster().clone();
    with_token.token = Some("s3cret".into());
    let guarded = Walproposer::start(&cluster.primary, &with_token).await;
    assert_eq!(guarded.put("/v1/members", &all).await.0, 401);
    assert_eq!(guarded.put_with_token("/v1/members", &all, "s3cre").await.0, 401);
    assert_ne!(guarded.put_with_token("/v1/members", &all, "s3cret").await.0, 401);
    guarded.stop().await;
}

/// A new safekeeper whose log begins above all WAL is refused with the reason, and not after a minute.
#[tokio::test]
async fn new_member_beyond_log_is_refused() {
    let mut cluster = TestCluster::start(3).await;
    let walproposer = cluster.start_walproposer().await;
    cluster.write_acknowledged(300).await;
    let fourth = cluster.safekeepers.add(4, LINEAGE_START.advance(1 << 30)).await;
    let members = json!([cluster.safekeepers.member(1), cluster.safekeepers.member(2), fourth]);
    assert_eq!(walproposer.put("/v1/members", &members).await.0, 202);
    let failed = |status: &serde_json::Value| status["change"]["state"] == "failed";
    let status = walproposer.until("the change to fail", failed).await;
    let error = status["change"]["error"].as_str().unwrap();
    assert!(error.contains("new member 4 cannot follow"), "{error}");
    cluster.write_acknowledged(300).await;
    walproposer.stop().await;
}

/// A log that was given to one primary takes WAL of no other.
#[tokio::test]
async fn designated_primary_excludes_others() {
    let mut cluster = TestCluster::start(3).await;
    let addresses = cluster.safekeepers.cluster().clone();
    let primary = cluster.primary.clone();
    let start = async |name| Walproposer::start_as(&primary, &addresses, name).await;
    let old = start(None).await;
    cluster.write_acknowledged(300).await;

    let (code, answer) = old.put("/v1/primary", &json!({"primary": "pg-a"})).await;
    assert_eq!((code, answer), (202, json!({"generation": 1})));
    old.until_blocked("given to primary pg-a").await;
    assert_eq!(old.put("/v1/primary", &json!({"primary": "pg-b"})).await.0, 409);
    let second = cluster.write(300);
    let named = start(Some("pg-a")).await;
    primary.until_acknowledged(second).await;
    assert_eq!(named.until_leading().await["configuration"]["primary"], "pg-a");

    let recovered = fail_over(&addresses, LONG, Some("pg-b")).await.unwrap();
    assert_eq!((recovered.primary.as_deref(), recovered.generation), (Some("pg-b"), 2));
    named.until_blocked("given to primary pg-b").await;
    let held = cluster.write(300);
    // Repeating the failover changes nothing.
    assert_eq!(fail_over(&addresses, LONG, Some("pg-b")).await.unwrap().generation, 2);
    assert_eq!(fail_over(&addresses, LONG, None).await.unwrap().primary.as_deref(), Some("pg-b"));
    assert!(primary.read().status.unwrap().flush < held);
    for walproposer in [old, named] {
        walproposer.stop().await;
    }
}

/// Of two failovers at once one wins, and the other fails with the name of the winner.
#[tokio::test]
async fn concurrent_failovers_have_one_winner() {
    let safekeepers = Safekeepers::create(3).await;
    for round in 0..5 {
        two_failovers(&safekeepers, round).await;
    }
}

/// Two failovers that split the votes do not wait for the vote of a safekeeper that is gone.
#[tokio::test]
async fn split_votes_do_not_wait_for_absent_safekeeper() {
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
    assert!(won.contains(&last), "neither failover returned {last}: {one:?} {other:?}");
    for lost in [one, other].into_iter().filter_map(Result::err) {
        assert!(lost.to_string().contains(&format!("given to primary {last}")), "{lost}");
    }
}
