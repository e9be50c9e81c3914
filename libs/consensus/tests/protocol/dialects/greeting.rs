//! Greetings: the cluster and the configuration that a proposer brings.

use super::*;

/// A log whose cluster is unknown is bound to the cluster of the first greeting.
#[test]
fn first_greeting_binds_the_cluster() {
    let mut lineage = lineage(Dialect::Neon);
    (lineage.system_id, lineage.pg_version) = (SystemId(0), 0);
    let mut acceptor = Acceptor::new(cluster::copy(1), lineage, cluster::founded(), START);
    let greet = || greeting(ProtocolVersion::V3, Configuration::default());
    let effects = acceptor.step(A, greet()).unwrap();
    let [Effect::PersistLineage(learnt), Effect::Reply { .. }] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    assert_eq!((learnt.system_id, learnt.pg_major()), (SystemId(7), 15));
    assert_eq!(acceptor.step(B, greet()).unwrap().len(), 1, "the identity is learnt once");
}

/// In dialect `neon` a greeting brings a newer configuration, to its members only. In `holdfast` only a leader
/// decides.
#[test]
fn neon_greeting_configures_listed_members_only() {
    // generation, members, whether this node (1) adopts it
    for (generation, ids, adopted) in [
        (6, [1, 2].as_slice(), Some(true)),
        (5, &[1, 2], Some(false)),
        (4, &[1, 2], Some(false)),
        (6, &[2, 3], None),
    ] {
        let mut acceptor = acceptor(Dialect::Neon, configuration(5, &[1, 2, 3], &[]), None);
        let reported = configuration(generation, ids, &[]);
        let answer = acceptor.step(ConnectionId(3), greeting(ProtocolVersion::V3, reported.clone()));
        let persisted = |effects: &[Effect]| matches!(effects.first(), Some(Effect::Persist(_)));
        let refused = Err(Refusal::NotAMember(Generation(generation)));
        assert_eq!(answer.map(|effects| persisted(&effects)), adopted.map_or(refused, Ok));
        assert_eq!(acceptor.state().configuration == reported, adopted == Some(true));
    }

    let mut holdfast = acceptor(Dialect::Holdfast, configuration(5, &[1, 2, 3], &[]), None);
    let reported = configuration(6, &[1, 2], &[]);
    holdfast.step(ConnectionId(3), greeting(ProtocolVersion::Holdfast2, reported)).unwrap();
    assert_eq!(
        holdfast.state().configuration.generation,
        Generation(5),
        "only a leader changes a configuration"
    );
}
