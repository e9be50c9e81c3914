//! Greetings: which proposers an acceptor admits.

use super::*;

/// A greeting of another log, cluster, segment size or version is refused, each with its own error.
#[test]
fn greeting_of_another_log_is_refused() {
    let change = |change: fn(&mut ProposerGreeting)| {
        let mut greeting = greeting(ProtocolVersion::Holdfast2, Configuration::default());
        change(&mut greeting);
        let mut acceptor = Acceptor::new(
            crate::cluster::copy(1),
            lineage(Dialect::Holdfast),
            crate::cluster::founded(),
            START,
        );
        acceptor.step(A, ProposerMessage::Greeting(greeting))
    };

    assert!(matches!(change(|g| g.version = ProtocolVersion::V3), Err(Refusal::Dialect { .. })));
    assert!(matches!(change(|g| g.id.tenant.0[0] = 1), Err(Refusal::OtherTimeline { .. })));
    assert!(matches!(change(|g| g.segment_bytes = 1 << 20), Err(Refusal::SegmentSize { .. })));
    assert!(matches!(change(|g| g.system_id = SystemId(8)), Err(Refusal::OtherCluster { .. })));
    assert!(matches!(change(|g| g.pg_version = 160_001), Err(Refusal::MajorVersion { .. })));
    assert!(change(|g| g.pg_version = 150_020).is_ok(), "a minor upgrade is accepted");
    assert!(change(|g| g.system_id = SystemId(0)).is_ok(), "a recovery has no cluster of its own");
    let mut acceptor =
        Acceptor::new(crate::cluster::copy(1), lineage(Dialect::Holdfast), crate::cluster::founded(), START);
    assert_eq!(acceptor.step(A, vote(1, ONE)), Err(Refusal::NotGreeted));
}
