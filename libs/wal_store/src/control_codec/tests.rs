//! Round trips of the control file's content, and content that must be refused.

use consensus::{Configuration, Member, Paused, Primary, UnknownField};
use wal_types::{Generation, InstanceId, PrimaryId};

use super::*;

fn control() -> Control {
    let member = |id| Member {
        id: NodeId(id),
        host: format!("sk{id}.example"),
        port: 5454,
        replica: ReplicaId([id as u8; 16]),
    };
    Control {
        copy: CopyId { node: NodeId(3), replica: ReplicaId([3; 16]) },
        disk_id: [9; 16],
        lineage: Lineage {
            id: TenantTimelineId { tenant: TenantId([1; 16]), timeline: TimelineId([2; 16]) },
            dialect: Dialect::Holdfast,
            system_id: SystemId(u64::MAX),
            pg_version: 170_002,
            segment_size: SegmentSize::POSTGRES_DEFAULT,
            start_lsn: Lsn(0x300_0000),
            start_tli: Tli(2),
            birth: Some(Digest([0xe1; 32])),
            start_history: Some(Digest([0xe2; 32])),
        },
        oldest_lsn: Lsn(0x300_0000),
        files_upto: Lsn(0x500_0000),
        archived_upto: Lsn(0x400_0000),
        rest: Some(Rest { end: Lsn(0x300_5000), last_record_start: Lsn(0x300_4fe8) }),
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
                primary: Some(Primary { name: PrimaryId([6; 16]), instance: InstanceId([7; 16]) }),
                void_to: Term(4),
                automatic: true,
                paused: Some(Paused { by: "op".to_owned(), why: "disk swap".to_owned() }),
                unknown: vec![UnknownField { tag: 700, since: 3, value: Bytes::from_static(b"later") }],
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

/// A log of dialect `neon` may begin inside a segment; one of dialect `holdfast` may not.
#[test]
fn neon_log_may_start_inside_a_segment() {
    let mut inside = control();
    let start = Lsn(0x300_3ab8);
    inside.lineage = Lineage { dialect: Dialect::Neon, start_lsn: start, ..inside.lineage };
    (inside.oldest_lsn, inside.files_upto) = (start, Lsn(0x500_0000));
    assert_eq!(Control::decode(&inside.encode()).unwrap(), inside);
    inside.lineage.dialect = Dialect::Holdfast;
    assert!(matches!(Control::decode(&inside.encode()), Err(StoreError::Corrupt(_))));
}

/// Fixed bytes of the fields that come before the lists, and of a whole content by its checksum.
#[test]
fn control_content_has_fixed_bytes() {
    let content = control().encode();
    let head = [
        &[3, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0][..],
        &[9; 16],
        &[3; 16],
        &[1; 16],
        &[2; 16],
        &[1],
        &[0xff; 8],
        &170_002_u32.to_le_bytes(),
        &(16_u32 << 20).to_le_bytes(),
        &0x300_0000_u64.to_le_bytes(),
        &2_u32.to_le_bytes(),
        &[1],
        &[0xe1; 32],
        &[1],
        &[0xe2; 32],
        &0x300_0000_u64.to_le_bytes(),
        &0x500_0000_u64.to_le_bytes(),
        &0x400_0000_u64.to_le_bytes(),
        &[1],
        &0x300_5000_u64.to_le_bytes(),
        &0x300_4fe8_u64.to_le_bytes(),
        &8_u64.to_le_bytes(),
        &[1],
        &[4; 16],
    ]
    .concat();
    assert_eq!(content[..head.len()], head);
    assert_eq!((content.len(), crc32c::crc32c(&content)), (637, 0xb8b4_dcc8));
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
    for other in [1, 2, 4] {
        let mut content = control().encode();
        content[0] = other;
        let refused = Control::decode(&content);
        let found = other.into();
        assert!(matches!(refused, Err(StoreError::Format { found: f, known: 3 }) if f == found));
    }
}
