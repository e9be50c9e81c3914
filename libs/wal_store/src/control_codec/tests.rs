//! Round trips of the control file's content, and content that must be refused.

use super::*;

fn control() -> Control {
    let member = |id| Member { id: NodeId(id), host: format!("sk{id}.example"), port: 5454 };
    Control {
        node: NodeId(3),
        disk_id: [9; 16],
        lineage: Lineage {
            id: TenantTimelineId { tenant: TenantId([1; 16]), timeline: TimelineId([2; 16]) },
            dialect: Dialect::Holdfast,
            system_id: SystemId(u64::MAX),
            pg_version: 170_002,
            segment_size: SegmentSize::POSTGRES_DEFAULT,
            start_lsn: Lsn(0x300_0000),
            start_tli: Tli(2),
        },
        oldest_lsn: Lsn(0x300_0000),
        files_upto: Lsn(0x500_0000),
        state: AcceptorState {
            term: Term(8),
            voted_for: Some(ProposerId([4; 16])),
            history: TermHistory::new(vec![
                TermStart { term: Term(2), start: Lsn(0x300_0000), tli: Tli(2) },
                TermStart { term: Term(7), start: Lsn(0x300_4000), tli: Tli(3) },
            ])
            .unwrap(),
            tli_switches: vec![TliSwitch { parent: Tli(2), tli: Tli(3), at: Lsn(0x300_4000) }],
            commit_lsn: Lsn(0x300_5000),
            horizon_lsn: Lsn(0x300_4800),
            configuration: Configuration {
                generation: Generation(5),
                members: vec![member(1), member(2), member(3)],
                new_members: vec![member(3), member(4)],
                primary: Some(PrimaryId([6; 16])),
            },
            configuration_term: Term(7),
            lost: Some(Loss { term: Term(6), acked_upto: Lsn(0x300_4fe8) }),
        },
    }
}

#[test]
fn control_content_round_trips() {
    assert_eq!(Control::decode(&control().encode()).unwrap(), control());
    let mut bare = control();
    bare.state = AcceptorState::default();
    bare.lineage.dialect = Dialect::Neon;
    assert_eq!(Control::decode(&bare.encode()).unwrap(), bare);
}

#[test]
fn control_content_of_wrong_length_is_damage() {
    let whole = control().encode();
    for cut in 0..whole.len() {
        assert!(matches!(Control::decode(&whole[..cut]), Err(StoreError::Corrupt(_))), "cut at {cut}");
    }
    let longer = [&whole[..], &[0]].concat();
    assert!(matches!(Control::decode(&longer), Err(StoreError::Corrupt(_))));
}

/// No changed byte makes the decoder panic or allocate without a bound.
#[test]
fn control_decode_survives_any_changed_byte() {
    let whole = control().encode();
    for at in 0..whole.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut changed = whole.clone();
            changed[at] = value;
            // Either outcome is fine; what counts is that there is one.
            let _ = Control::decode(&changed);
        }
    }
}

#[test]
fn control_format_of_another_release_is_named() {
    for other in [1, 3] {
        let mut content = control().encode();
        content[0] = other;
        let refused = Control::decode(&content);
        let found = other.into();
        assert!(matches!(refused, Err(StoreError::Format { found: f, known: 2 }) if f == found));
    }
}
