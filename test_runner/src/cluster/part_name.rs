//! [`PartName`]: the name of one program of a cluster, as it is typed and printed.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};

/// Number of safekeepers of a cluster.
pub const SAFEKEEPERS: u64 = 3;

/// A program of the cluster that can be stopped and started alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartName {
    /// The primary.
    Postgres,
    /// The walproposer.
    Walproposer,
    /// The proxy.
    Proxy,
    /// The safekeeper with this id.
    Safekeeper(u64),
}

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres => f.write_str("postgres"),
            Self::Walproposer => f.write_str("walproposer"),
            Self::Proxy => f.write_str("proxy"),
            Self::Safekeeper(id) => write!(f, "sk{id}"),
        }
    }
}

impl FromStr for PartName {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "postgres" => Ok(Self::Postgres),
            "walproposer" => Ok(Self::Walproposer),
            "proxy" => Ok(Self::Proxy),
            _ => match text.strip_prefix("sk").and_then(|id| id.parse().ok()) {
                Some(id) if (1..=SAFEKEEPERS).contains(&id) => Ok(Self::Safekeeper(id)),
                _ => bail!(
                    "there is no part {text:?}: it is one of sk1, sk2, sk3, postgres, walproposer, proxy"
                ),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_name_parses_what_it_prints() {
        for part in [PartName::Postgres, PartName::Walproposer, PartName::Proxy, PartName::Safekeeper(3)] {
            assert_eq!(part.to_string().parse::<PartName>().unwrap(), part);
        }
        for unknown in ["", "sk0", "sk4", "sk", "Proxy", "Postgres"] {
            assert!(unknown.parse::<PartName>().is_err(), "{unknown}");
        }
    }
}
