//! Compute: the PostgreSQL behind an endpoint, and the parser of its address.

use std::fmt;
use std::str::FromStr;

use postgres_backend::client::ClientTls;
use pq_proto::Text;

/// PostgreSQL server behind an endpoint.
#[derive(Debug)]
pub(crate) struct Compute {
    pub(crate) address: Address,
    /// TLS to the compute. `None` connects without TLS.
    pub(crate) tls: Option<ClientTls>,
    /// Database of clients that name none.
    pub(crate) database: Option<Text>,
}

/// Address in the form `host:port`, an IPv6 host in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// Name or IP address, IPv6 without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Error in the text of an [`Address`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not in the form host:port")]
pub(crate) struct NoAddress;

impl FromStr for Address {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        let (host, port) = text.rsplit_once(':').ok_or(NoAddress)?;
        let bare =
            host.strip_prefix('[').map_or(Some(host), |host| host.strip_suffix(']')).ok_or(NoAddress)?;
        // Without brackets, the end of an IPv6 address and its port cannot be told apart.
        let ambiguous = bare.len() == host.len() && host.contains(':');
        match port.parse() {
            Ok(port) if port > 0 && !bare.is_empty() && !ambiguous => {
                Ok(Self { host: bare.to_owned(), port })
            }
            _ => Err(NoAddress),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let brackets = if self.host.contains(':') { ["[", "]"] } else { ["", ""] };
        write!(f, "{}{}{}:{}", brackets[0], self.host, brackets[1], self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_parses_host_and_port() {
        for text in ["127.0.0.1:5432", "db.internal:1", "[::1]:5432"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in
            ["", "5432", ":5432", "host", "host:", "host:0", "host:65536", "::1:5432", "[::1:5432", "[]:1"]
        {
            assert_eq!(text.parse::<Address>(), Err(NoAddress), "{text}");
        }
    }
}
