//! What a status says about programs that are well and programs that are not.

use serde_json::json;

use super::*;
use crate::report::Body as _;

fn safekeeper(id: u64) -> SafekeeperRow {
    SafekeeperRow {
        id,
        http: format!("http://sk{id}:1"),
        state: ProgramState::Ready,
        reason: None,
        answers_as: Some(id),
        version: Some("0.1.0".into()),
        disk_id: Some(format!("disk{id}")),
        timelines: Some(1),
        unhealthy: Vec::new(),
    }
}

/// The row of a walproposer whose safekeepers have these states.
fn walproposer(states: [&str; 3], blocked: Option<&str>) -> WalproposerRow {
    walproposer_with_settings(states, blocked, &json!({"problems": [], "unchecked": null}))
}

/// As [`walproposer`], with these settings of the primary.
fn walproposer_with_settings(
    states: [&str; 3],
    blocked: Option<&str>,
    settings: &serde_json::Value,
) -> WalproposerRow {
    let members: Vec<_> = (1..=3).map(|id| json!({"id": id, "host": "h", "port": 1})).collect();
    let follower = |(id, state): (u64, &str)| json!({"id": id, "address": "h:1", "member": true, "state": state, "lag_bytes": 7});
    let followers: Vec<_> = (1..).zip(states).map(follower).collect();
    let answer = json!({"state": "streaming", "term": 3, "commit_lsn": "0/20", "blocked": blocked, "safekeepers": followers, "primary_settings": settings,
        "configuration": {"generation": 0, "decided": true, "joint": false, "members": members, "new_members": []}});
    let target = Target {
        title: "walproposer main".into(),
        name: "main".into(),
        http: "http://wp:1".to_owned().try_into().unwrap(),
        token: None,
        tls: None,
    };
    let readiness = blocked.map(ToOwned::to_owned);
    WalproposerRow::new(&target, Ok((readiness, serde_json::from_value(answer).unwrap())))
}

fn status() -> Status {
    Status {
        safekeepers: (1..=3).map(safekeeper).collect(),
        walproposers: vec![walproposer(["streaming"; 3], None)],
        proxies: Vec::new(),
    }
}

#[test]
fn healthy_status_needs_no_attention() {
    let status = status();
    assert_eq!(status.attention(), Vec::<String>::new());
    assert_eq!(status.healthy_line(), "healthy: all 4 programs answer, and commits go through");
    let tables = status.tables();
    assert!(tables.contains("main         ready  streaming   3     0/20       3 of 3     7 B"), "{tables}");
}

#[test]
fn attention_names_cause_and_consequence() {
    let change = |change: &dyn Fn(&mut Status)| {
        let mut status = status();
        change(&mut status);
        status.attention()
    };
    let dead: &dyn Fn(&mut Status) = &|status| {
        status.safekeepers[2].state = ProgramState::NoAnswer;
        status.safekeepers[2].reason = Some("Connection refused".into());
        status.walproposers[0] = walproposer(["streaming", "streaming", "offline"], None);
    };
    let blocked: &dyn Fn(&mut Status) = &|status| {
        status.walproposers[0] = walproposer(["streaming", "offline", "offline"], Some("two are gone"))
    };
    let lost: &dyn Fn(&mut Status) = &|status| {
        status.safekeepers[0].unhealthy.push(UnhealthyTimeline {
            tenant_id: "a".into(),
            timeline_id: "b".into(),
            health: "lost".into(),
            error: None,
        });
    };
    for (cause, words) in [
        (
            dead,
            &[
                "safekeeper 3 at http://sk3:1 does not answer: Connection refused",
                "walproposer main: safekeeper 3 is offline: when one more is lost, commits wait",
            ][..],
        ),
        (blocked, &["walproposer main: commits wait: two are gone"]),
        (
            &|status| {
                let settings = json!({"problems": [{"reason": "fsync"}], "unchecked": "roles were not read"});
                status.walproposers[0] =
                    walproposer_with_settings(["streaming"; 3], Some("fsync is off"), &settings);
            },
            &["walproposer main: commits are at risk: fsync is off", "walproposer main: roles were not read"],
        ),
        (lost, &["safekeeper 1: timeline a/b is lost"]),
        (
            &|status| status.safekeepers[1].answers_as = Some(1),
            &[
                "http://sk2:1 answers as safekeeper 1, and the cluster file calls it safekeeper 2: correct the file",
            ],
        ),
    ] {
        assert_eq!(change(cause), words);
    }
    let cloned = change(&|status| status.safekeepers[1].disk_id = Some("disk1".into()));
    assert!(cloned[0].starts_with("safekeepers 1, 2 have the same disk id"), "{cloned:?}");
    let unlisted = change(&|status| status.safekeepers.truncate(2));
    assert!(
        unlisted[0].starts_with("safekeepers 3 store logs and are not in the cluster file"),
        "{unlisted:?}"
    );
}

/// Scripts read these names.
#[test]
fn status_json_has_documented_fields() {
    let json = serde_json::to_value(status()).unwrap();
    assert_eq!(json["safekeepers"][0]["state"], "ready");
    assert_eq!(json["walproposers"][0]["members"][2]["safekeeper"], 3);
    assert_eq!(json["walproposers"][0]["blocked"], json!(null));
    assert_eq!(json["walproposers"][0]["no_spare"], false);
}
