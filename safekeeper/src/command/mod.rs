//! [`Command`]: a query on the PostgreSQL port, parsed from its text.
//!
//! The grammar is that of PostgreSQL's replication commands (PostgreSQL documentation, "Streaming Replication
//! Protocol") as stock clients send them, with START_WAL_PUSH, TIMELINE_STATUS and `(term='N')` of the public proposer
//! protocol. Key words may have any case, names may be bare or quoted, and a semicolon may end the query. A query that is
//! only partly understood is refused: half of a command is never carried out.
//!
//! Pure. `session` decides which client may send which command, `replies` has the answers.

mod error;
mod tokens;

use consensus::{ProtocolVersion, codec};
use wal_types::{Lsn, Term, Tli};

pub(crate) use error::CommandError;
use tokens::{Token, Tokens};

/// A command of a reader or a proposer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// `IDENTIFY_SYSTEM`
    IdentifySystem,
    /// `SHOW name`; the name in lower case.
    Show(String),
    /// `SET DateStyle TO …`: old client libraries set it at start, and nothing here depends on it.
    SetDateStyle,
    /// `READ_REPLICATION_SLOT slot`
    ReadReplicationSlot(String),
    /// `CREATE_REPLICATION_SLOT slot [TEMPORARY] PHYSICAL …`
    CreateReplicationSlot(CreateSlot),
    /// `DROP_REPLICATION_SLOT slot [WAIT]`
    DropReplicationSlot {
        /// Its name.
        slot: String,
        /// Wait until no reader has it.
        wait: bool,
    },
    /// `TIMELINE_HISTORY tli`
    TimelineHistory(Tli),
    /// `TIMELINE_STATUS`
    TimelineStatus,
    /// `START_REPLICATION …`
    StartReplication(StartReplication),
    /// `START_WAL_PUSH …`
    StartWalPush(StartWalPush),
}

/// `CREATE_REPLICATION_SLOT slot [TEMPORARY] PHYSICAL [RESERVE_WAL | (RESERVE_WAL, …)]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CreateSlot {
    /// Its name.
    pub slot: String,
    /// The slot ends with this connection.
    pub is_temporary: bool,
    /// Keep WAL from now on, and not only when a reader begins.
    pub reserve_wal: bool,
}

/// `START_REPLICATION [SLOT slot] [PHYSICAL] X/X [TIMELINE tli] [(term='N')]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StartReplication {
    /// The slot that the reader has.
    pub slot: Option<String>,
    /// First byte that the reader wants.
    pub start: Lsn,
    /// PostgreSQL timeline that the reader wants.
    pub tli: Option<Tli>,
    /// Requests WAL that may not be committed, as long as this is the term.
    pub term: Option<Term>,
}

/// `START_WAL_PUSH [(proto_version 'N', allow_timeline_creation 'bool')]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StartWalPush {
    /// The version of the protocol that the proposer speaks.
    pub version: ProtocolVersion,
    /// The proposer requests that a missing timeline be created. Parsed and ignored: a timeline is created over HTTP only.
    pub allow_creation: bool,
}

impl Command {
    /// Parses the text of a query.
    pub(crate) fn parse(text: &str) -> Result<Self, CommandError> {
        let mut tokens = Tokens::new(text)?;
        let verb = tokens.keyword()?;
        let command = match verb.as_str() {
            "identify_system" => Self::IdentifySystem,
            "show" => Self::Show(tokens.identifier("a setting")?.to_ascii_lowercase()),
            "set" => return set(&mut tokens),
            "read_replication_slot" => Self::ReadReplicationSlot(tokens.identifier("a slot name")?),
            "create_replication_slot" => create_replication_slot(&mut tokens)?,
            "drop_replication_slot" => {
                let slot = tokens.identifier("a slot name")?;
                let wait = tokens.skip_keyword("wait");
                Self::DropReplicationSlot { slot, wait }
            }
            "timeline_history" => Self::TimelineHistory(tli(&mut tokens)?),
            "timeline_status" => Self::TimelineStatus,
            "start_replication" => Self::StartReplication(start_replication(&mut tokens)?),
            "start_wal_push" => Self::StartWalPush(start_wal_push(&mut tokens)?),
            "base_backup" | "upload_manifest" => {
                return Err(CommandError::Unsupported {
                    what: "a safekeeper stores WAL and has no data files",
                    hint: "Take the base backup from the primary or a standby.",
                });
            }
            "alter_replication_slot" => {
                return Err(CommandError::Unsupported {
                    what: "a safekeeper cannot alter replication slots",
                    hint: "Drop the slot and create it anew.",
                });
            }
            _ => {
                let message = format!("a safekeeper does not know the command \"{verb}\"");
                return Err(CommandError::Syntax(message));
            }
        };
        tokens.end()?;
        Ok(command)
    }
}

fn set(tokens: &mut Tokens) -> Result<Command, CommandError> {
    let name = tokens.identifier("a setting")?;
    if name.eq_ignore_ascii_case("datestyle") {
        return Ok(Command::SetDateStyle);
    }
    Err(CommandError::Unsupported {
        what: "a safekeeper cannot change settings",
        hint: "A safekeeper accepts replication commands only.",
    })
}

fn create_replication_slot(tokens: &mut Tokens) -> Result<Command, CommandError> {
    let slot = tokens.identifier("a slot name")?;
    let is_temporary = tokens.skip_keyword("temporary");
    if tokens.skip_keyword("logical") {
        return Err(LOGICAL);
    }
    tokens.expect_keyword("physical")?;
    let mut reserve_wal = tokens.skip_keyword("reserve_wal");
    if !reserve_wal && tokens.skip(&Token::Open) {
        // Options of PostgreSQL 15 and later: a name, or a name and a value. Those of logical slots have no effect.
        while !tokens.skip(&Token::Close) {
            let option = tokens.identifier("an option")?;
            let value = tokens.next_value();
            if option.eq_ignore_ascii_case("reserve_wal") {
                reserve_wal = boolean(value.as_deref())?;
            }
            if !tokens.skip(&Token::Comma) {
                tokens.expect(&Token::Close)?;
                break;
            }
        }
    }
    Ok(Command::CreateReplicationSlot(CreateSlot { slot, is_temporary, reserve_wal }))
}

/// The value of an option. PostgreSQL takes an option without a value as true.
fn boolean(value: Option<&str>) -> Result<bool, CommandError> {
    match value.map(str::to_ascii_lowercase).as_deref() {
        None | Some("true" | "on" | "1") => Ok(true),
        Some("false" | "off" | "0") => Ok(false),
        Some(other) => Err(CommandError::Syntax(format!("\"{other}\": expected true or false"))),
    }
}

const LOGICAL: CommandError = CommandError::Unsupported {
    what: "a safekeeper does not support logical replication",
    hint: "Subscribe to the primary or a standby.",
};

fn start_replication(tokens: &mut Tokens) -> Result<StartReplication, CommandError> {
    let slot = tokens.skip_keyword("slot").then(|| tokens.identifier("a slot name")).transpose()?;
    if tokens.skip_keyword("logical") {
        return Err(LOGICAL);
    }
    tokens.skip_keyword("physical");
    let word = tokens.word("a WAL position")?;
    let start = word.parse().map_err(|error| CommandError::Syntax(format!("\"{word}\": {error}")))?;
    let tli = tokens.skip_keyword("timeline").then(|| tli(tokens)).transpose()?;
    let term = tokens.skip(&Token::Open).then(|| term_option(tokens)).transpose()?;
    Ok(StartReplication { slot, start, tli, term })
}

fn term_option(tokens: &mut Tokens) -> Result<Term, CommandError> {
    tokens.expect_keyword("term")?;
    tokens.expect(&Token::Equals)?;
    let text = tokens.value("a term")?;
    tokens.expect(&Token::Close)?;
    number(&text, "a term").map(Term)
}

fn start_wal_push(tokens: &mut Tokens) -> Result<StartWalPush, CommandError> {
    let mut push = StartWalPush { version: ProtocolVersion::V2, allow_creation: true };
    if !tokens.skip(&Token::Open) {
        return Ok(push);
    }
    loop {
        let key = tokens.identifier("an option")?.to_ascii_lowercase();
        let value = tokens.value("the value of an option")?;
        match key.as_str() {
            "proto_version" => {
                push.version = codec::parse_version(&value).ok_or_else(|| {
                    let remedy = match value == codec::EARLIER_VERSION_NAME {
                        true => "it is of an earlier release: upgrade the walproposer to the release of this safekeeper",
                        false => "use 2, 3 or holdfast-2",
                    };
                    CommandError::Syntax(format!("proto_version '{value}' is not supported; {remedy}"))
                })?;
            }
            "allow_timeline_creation" => {
                push.allow_creation = value.parse().map_err(|_| {
                    CommandError::Syntax(format!("allow_timeline_creation '{value}': expected true or false"))
                })?;
            }
            // The public protocol grows by such keys, and its safekeeper skips unknown ones.
            _ => {}
        }
        if !tokens.skip(&Token::Comma) {
            tokens.expect(&Token::Close)?;
            return Ok(push);
        }
    }
}

fn tli(tokens: &mut Tokens) -> Result<Tli, CommandError> {
    let word = tokens.word("a timeline number")?;
    let tli = number(&word, "a timeline number")?;
    match u32::try_from(tli) {
        Ok(tli @ 1..) => Ok(Tli(tli)),
        _ => Err(CommandError::Syntax(format!("\"{word}\": expected a timeline number"))),
    }
}

fn number(text: &str, what: &str) -> Result<u64, CommandError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = if digits { text.parse().ok() } else { None };
    number.ok_or_else(|| CommandError::Syntax(format!("\"{text}\": expected {what}")))
}

#[cfg(test)]
mod tests;
