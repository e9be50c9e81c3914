//! End of a change, and the texts that an operator sees.

use super::*;

fn status(generation: u64, decided: bool, change: &Value) -> Value {
    let members = [json!({"id": 1, "host": "h", "port": 5})];
    let configuration = json!({
        "generation": generation, "decided": decided, "joint": false, "members": members,
        "new_members": [], "primary": null,
    });
    json!({"state": "streaming", "configuration": configuration, "change": change})
}

#[test]
fn finished_when_change_is_decided_or_dropped() {
    let change = |state: &str| json!({"generation": 2, "state": state, "error": "why"});
    for (status, wanted, expected) in [
        (status(0, true, &change("catching_up")), "1@h:5", Ok(false)),
        (status(2, false, &change("proposed")), "1@h:5", Ok(false)),
        (status(2, true, &change("decided")), "1@h:5", Ok(true)),
        (status(3, true, &Value::Null), "1@h:5", Ok(true)),
        (status(2, true, &Value::Null), "1@h:6", Err("another request")),
        (status(0, true, &change("failed")), "1@h:5", Err("why")),
        (status(0, false, &change("unsettled")), "1@h:5", Ok(false)),
        (status(0, true, &change("unsettled")), "1@h:5", Err("run the command again")),
    ] {
        let over = finished(&status, 2, &[wanted.parse().unwrap()]);
        let over = over.map(|found| found.is_some()).map_err(|error| error.to_string());
        match (over, expected) {
            (Ok(over), Ok(expected)) => assert_eq!(over, expected, "{status}"),
            (Err(error), Err(words)) => assert!(error.contains(words), "{error}"),
            (over, _) => panic!("{over:?}: {status}"),
        }
    }
}

#[test]
fn members_table_has_typeable_addresses() {
    let shown = table(&status(7, true, &Value::Null)["configuration"]);
    assert_eq!(shown, "generation  7\nmembers     1@h:5\nprimary     any");
    let change = json!({"state": "catching_up", "waits_for": [
        {"id": 4, "lag_bytes": 3 << 20}, {"id": 5, "lag_bytes": null}]});
    assert_eq!(
        progress(&status(0, true, &change)),
        "catching up: safekeeper 4 lacks 3 MiB, safekeeper 5 does not follow yet"
    );
}
