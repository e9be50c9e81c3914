//! End of a change, and the texts that a person sees meanwhile.

use serde_json::Value;

use super::*;

fn answer(generation: u64, decided: bool, change: &Value) -> WalproposerAnswer {
    let members = [json!({"id": 1, "host": "h", "port": 5})];
    let configuration = json!({
        "generation": generation, "decided": decided, "joint": false, "members": members,
        "new_members": [], "primary": null,
    });
    let answer = json!({"state": "streaming", "configuration": configuration, "change": change});
    serde_json::from_value(answer).unwrap()
}

#[test]
fn change_ends_when_decided_or_dropped() {
    let change = |state: &str| json!({"generation": 2, "state": state, "error": "why"});
    for (answer, wanted, expected) in [
        (answer(0, true, &change("catching_up")), "1@h:5", Ok(false)),
        (answer(2, false, &change("proposed")), "1@h:5", Ok(false)),
        (answer(2, true, &change("decided")), "1@h:5", Ok(true)),
        (answer(3, true, &Value::Null), "1@h:5", Ok(true)),
        (answer(2, true, &Value::Null), "1@h:6", Err("another request")),
        (answer(0, true, &change("failed")), "1@h:5", Err("why")),
        (answer(0, false, &change("unsettled")), "1@h:5", Ok(false)),
        (answer(0, true, &change("unsettled")), "1@h:5", Err("run the command again")),
    ] {
        let wanted: [MemberAddress; 1] = [wanted.parse().unwrap()];
        match (progress(&answer, 2, &wanted), expected) {
            (Progress::Done, Ok(true)) | (Progress::UnderWay(_), Ok(false)) => {}
            (Progress::Failed(why), Err(words)) => assert!(why.contains(words), "{why}"),
            (other, _) => panic!("{other:?}: {answer:?}"),
        }
    }
}

#[test]
fn stage_says_who_lacks_what() {
    let change = json!({"generation": 2, "state": "catching_up", "waits_for": [
        {"id": 4, "lag_bytes": 3 << 20}, {"id": 5, "lag_bytes": null}], "error": null});
    assert_eq!(
        stage(&answer(0, true, &change)),
        "catching up: safekeeper 4 lacks 3 MiB, safekeeper 5 does not follow yet"
    );
}
