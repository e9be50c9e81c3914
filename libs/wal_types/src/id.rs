//! Identifiers of logs (tenant, timeline), clusters, safekeepers, copies, campaigns, primaries and configurations.

use std::fmt;
use std::str::FromStr;

/// The text is not 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseIdError;

impl fmt::Display for ParseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an identifier: expected 32 hexadecimal digits")
    }
}

impl std::error::Error for ParseIdError {}

macro_rules! id16 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                parse_hex16(text).map(Self)
            }
        }
    };
}

id16! {
    /// Owner of timelines: 16 bytes, written as 32 hexadecimal digits.
    TenantId
}
id16! {
    /// One log of a tenant: 16 bytes, written as 32 hexadecimal digits. Not PostgreSQL's timeline, which is [`crate::Tli`].
    TimelineId
}
id16! {
    /// One campaign of one proposer: random, new for each campaign, stored with the vote that it got.
    ProposerId
}
id16! {
    /// A primary that a configuration designates: only its WAL may be written. The operator or program that decides on
    /// failovers assigns the id.
    PrimaryId
}

id16! {
    /// One copy of a log: random, drawn by a safekeeper when it creates the copy. A copy that is created anew under the
    /// same number is another one: it has none of the promises of the first. Zeros: not known (dialect `neon`).
    ReplicaId
}
id16! {
    /// One installation of a primary: random, drawn by the agent that runs the server, and kept beside its data. Zeros:
    /// no agent.
    InstanceId
}

/// SHA-256 of something that is too long to be carried along: 32 bytes, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let half = |range| text.get(range).and_then(|half| parse_hex16(half).ok()).ok_or(ParseDigestError);
        let mut digest = [0; 32];
        digest[..16].copy_from_slice(&half(0..32)?);
        digest[16..].copy_from_slice(&half(32..text.len())?);
        Ok(Self(digest))
    }
}

/// The text is not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseDigestError;

impl fmt::Display for ParseDigestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a SHA-256: expected 64 hexadecimal digits")
    }
}

impl std::error::Error for ParseDigestError {}

/// One copy of a log, and the safekeeper that has it. What is counted in a quorum is a copy: numbers may be used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CopyId {
    /// The safekeeper.
    pub node: NodeId,
    /// Its copy.
    pub replica: ReplicaId,
}

impl fmt::Display for CopyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (copy {})", self.node, self.replica)
    }
}

fn parse_hex16(text: &str) -> Result<[u8; 16], ParseIdError> {
    let digits = text.as_bytes();
    if digits.len() != 32 {
        return Err(ParseIdError);
    }
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Ok(id)
}

fn nibble(digit: u8) -> Result<u8, ParseIdError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(ParseIdError),
    }
}

/// Name of one log. A safekeeper has one directory and one acceptor for it, and accepts WAL of one proposer at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantTimelineId {
    /// Owner of the log.
    pub tenant: TenantId,
    /// The log among those of the tenant.
    pub timeline: TimelineId,
}

impl fmt::Display for TenantTimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.timeline)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Number of a safekeeper, unique in its installation.
    NodeId(u64)
}
number! {
    /// PostgreSQL's database system identifier (`pg_controldata`, IDENTIFY_SYSTEM). Zero stands for "not known".
    SystemId(u64)
}
number! {
    /// Ordinal of a membership configuration; zero means that membership is not managed.
    Generation(u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_text_round_trips() {
        let text = "cf0480929707ee75372337efaa5ecf96";
        assert_eq!(text.parse::<TenantId>().unwrap().to_string(), text);
        assert_eq!(text.to_uppercase().parse::<TenantId>(), text.parse());
    }

    #[test]
    fn digest_text_round_trips() {
        let text = "cf0480929707ee75372337efaa5ecf96cf0480929707ee75372337efaa5ecf97";
        assert_eq!(text.parse::<Digest>().unwrap().to_string(), text);
        for wrong in ["", &text[1..], &text[..32], "ä", &format!("{text}0")] {
            assert_eq!(wrong.parse::<Digest>(), Err(ParseDigestError), "{wrong:?}");
        }
    }

    #[test]
    fn parse_refuses_anything_but_32_digits() {
        for text in [
            "",
            "cf",
            "cf0480929707ee75372337efaa5ecf9g",
            "cf0480929707ee75372337efaa5ecf9600",
            "ä23456789012345678901234567890",
        ] {
            assert_eq!(text.parse::<TenantId>(), Err(ParseIdError), "{text:?}");
        }
    }
}
