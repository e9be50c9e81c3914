//! Commands of stock clients and proposers, and queries that are refused.

use super::*;

fn replication(start: u64, tli: Option<u32>, term: Option<u64>) -> Command {
    let (slot, start) = (None, Lsn(start));
    Command::StartReplication(StartReplication { slot, start, tli: tli.map(Tli), term: term.map(Term) })
}

fn replication_with_slot(start: u64, tli: u32) -> Command {
    let (slot, tli) = (Some("rs1".to_owned()), Some(Tli(tli)));
    Command::StartReplication(StartReplication { slot, start: Lsn(start), tli, term: None })
}

fn create_slot(is_temporary: bool, reserve_wal: bool) -> Command {
    Command::CreateReplicationSlot(CreateSlot { slot: "rs1".into(), is_temporary, reserve_wal })
}

fn push(version: ProtocolVersion, allow_creation: bool) -> Command {
    Command::StartWalPush(StartWalPush { version, allow_creation })
}

#[test]
fn parse_accepts_commands_of_stock_clients() {
    let slot = || "rs1".to_owned();
    let table = [
        ("IDENTIFY_SYSTEM", Command::IdentifySystem),
        (" identify_system ; ", Command::IdentifySystem),
        ("SHOW data_directory_mode", Command::Show("data_directory_mode".into())),
        ("show \"Wal_Segment_Size\";", Command::Show("wal_segment_size".into())),
        ("SET datestyle TO 'ISO'", Command::SetDateStyle),
        ("READ_REPLICATION_SLOT \"rs1\"", Command::ReadReplicationSlot(slot())),
        ("READ_REPLICATION_SLOT rs1", Command::ReadReplicationSlot(slot())),
        ("READ_REPLICATION_SLOT \"a\"\"b\"", Command::ReadReplicationSlot("a\"b".into())),
        ("CREATE_REPLICATION_SLOT \"rs1\" PHYSICAL", create_slot(false, false)),
        ("CREATE_REPLICATION_SLOT \"rs1\" PHYSICAL RESERVE_WAL", create_slot(false, true)),
        ("CREATE_REPLICATION_SLOT \"rs1\" TEMPORARY PHYSICAL ( RESERVE_WAL)", create_slot(true, true)),
        ("CREATE_REPLICATION_SLOT rs1 PHYSICAL (reserve_wal true, failover 'off')", create_slot(false, true)),
        ("CREATE_REPLICATION_SLOT rs1 PHYSICAL (RESERVE_WAL off)", create_slot(false, false)),
        ("DROP_REPLICATION_SLOT \"rs1\"", Command::DropReplicationSlot { slot: slot(), wait: false }),
        ("DROP_REPLICATION_SLOT rs1 WAIT", Command::DropReplicationSlot { slot: slot(), wait: true }),
        ("TIMELINE_HISTORY 2", Command::TimelineHistory(Tli(2))),
        ("TIMELINE_STATUS", Command::TimelineStatus),
        ("START_REPLICATION 0/3000000 TIMELINE 1", replication(0x300_0000, Some(1), None)),
        ("START_REPLICATION SLOT \"rs1\" 0/3000000 TIMELINE 1", replication_with_slot(0x300_0000, 1)),
        ("START_REPLICATION SLOT rs1 PHYSICAL A/b timeline 7;", replication_with_slot(0xa_0000_000b, 7)),
        ("START_REPLICATION PHYSICAL 0/14EE150", replication(0x14e_e150, None, None)),
        ("START_REPLICATION PHYSICAL 0/14EE150 (term='3')", replication(0x14e_e150, None, Some(3))),
        ("START_REPLICATION 0/1 TIMELINE 2 (term = '9')", replication(1, Some(2), Some(9))),
    ];
    for (text, expected) in table {
        assert_eq!(Command::parse(text), Ok(expected), "{text}");
    }
}

#[test]
fn parse_accepts_commands_of_proposers() {
    let table = [
        ("START_WAL_PUSH", push(ProtocolVersion::V2, true)),
        (
            "START_WAL_PUSH (proto_version '3', allow_timeline_creation 'true')",
            push(ProtocolVersion::V3, true),
        ),
        (
            "START_WAL_PUSH (proto_version '2', allow_timeline_creation 'false')",
            push(ProtocolVersion::V2, false),
        ),
        (
            "START_WAL_PUSH (proto_version 'holdfast-2', allow_timeline_creation 'false')",
            push(ProtocolVersion::Holdfast2, false),
        ),
        ("START_WAL_PUSH (shiny 'new', proto_version '3')", push(ProtocolVersion::V3, true)),
    ];
    for (text, expected) in table {
        assert_eq!(Command::parse(text), Ok(expected), "{text}");
    }
}

#[test]
fn parse_refuses_half_a_command() {
    for text in [
        "",
        ";",
        "SELECT 1",
        "IDENTIFY_SYSTEM now",
        "IDENTIFY_SYSTEM;;",
        "SHOW",
        "SHOW \"\"",
        "READ_REPLICATION_SLOT",
        "READ_REPLICATION_SLOT \"rs1",
        "READ_REPLICATION_SLOT 'rs1'",
        "CREATE_REPLICATION_SLOT rs1",
        "CREATE_REPLICATION_SLOT rs1 PHYSICAL (",
        "CREATE_REPLICATION_SLOT rs1 PHYSICAL (a 1 b)",
        "CREATE_REPLICATION_SLOT rs1 PHYSICAL (reserve_wal maybe)",
        "TIMELINE_HISTORY",
        "TIMELINE_HISTORY 0",
        "TIMELINE_HISTORY +1",
        "TIMELINE_HISTORY 4294967296",
        "TIMELINE_HISTORY ../2",
        "START_REPLICATION",
        "START_REPLICATION 0",
        "START_REPLICATION 0/100000000",
        "START_REPLICATION 0/0 TIMELINE",
        "START_REPLICATION 0/0 TIMELINE 1 2",
        "START_REPLICATION 0/0 (term=)",
        "START_REPLICATION 0/0 (term='x')",
        "START_REPLICATION 0/0 (term='18446744073709551616')",
        "START_REPLICATION 0/0 (term='1'",
        "START_REPLICATION 0/0 (epoch='1')",
        "START_WAL_PUSH (",
        "START_WAL_PUSH ()",
        "START_WAL_PUSH (proto_version)",
        "START_WAL_PUSH (proto_version '4')",
        "START_WAL_PUSH (allow_timeline_creation 'maybe')",
        "START_WAL_PUSH (proto_version '3'",
        "START_WAL_PUSH (proto_version '3') x",
        "IDENTIFY_SYSTEM \u{e4}",
    ] {
        let result = Command::parse(text);
        assert!(matches!(result, Err(CommandError::Syntax(_))), "{text:?}: {result:?}");
    }
}

#[test]
fn parse_names_unsupported_commands() {
    for text in [
        "BASE_BACKUP ( LABEL 'pg_basebackup base backup',  PROGRESS,  CHECKPOINT 'fast',  WAIT 0)",
        "UPLOAD_MANIFEST",
        "ALTER_REPLICATION_SLOT s (failover)",
        "CREATE_REPLICATION_SLOT s LOGICAL pgoutput",
        "CREATE_REPLICATION_SLOT s TEMPORARY LOGICAL pgoutput",
        "START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1')",
        "SET work_mem = '1GB'",
    ] {
        let result = Command::parse(text);
        assert!(matches!(result, Err(CommandError::Unsupported { .. })), "{text:?}: {result:?}");
    }
}

#[test]
fn parse_error_is_short() {
    let long = "x".repeat(2000);
    let Err(CommandError::Syntax(message)) = Command::parse(&long) else { panic!("parsed") };
    assert!(message.len() < 100, "{message}");
}
