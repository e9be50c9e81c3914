//! [`ConnInfo`]: address and role of the primary, parsed from either form of a libpq connection string
//! (PostgreSQL documentation, "Connection Strings").
//!
//! Only the keywords that a replication connection over TCP needs are supported. Any other keyword is an error, so that no
//! setting is ignored silently. Called by `flags`.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

const PORT_DEFAULT: u16 = 5432;
/// Every cluster has this database.
const DATABASE_DEFAULT: &str = "postgres";

/// Address of a server, and the role to log in with.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnInfo {
    /// Host name or IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Role to log in with.
    pub user: String,
    /// Password of the role, if it has one.
    pub password: Option<String>,
    /// Database in which the settings of roles and databases are read (`dbname`).
    pub database: String,
    /// Sent as `application_name` when the command line sets none.
    pub application_name: Option<String>,
}

impl fmt::Debug for ConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Without the password: this goes to logs.
impl fmt::Display for ConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The text is not a usable connection string. No message repeats the text: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConnInfoError {
    /// A word that is not `keyword=value`.
    #[error(
        "expected keyword=value pairs such as \"host=127.0.0.1 port=5432 user=wp\", or a URI such as postgresql://wp@127.0.0.1:5432"
    )]
    Syntax,
    /// An unknown or unsupported keyword.
    #[error(
        "unknown keyword \"{0}\": known are host, port, user, password, application_name, dbname, sslmode=disable"
    )]
    Keyword(String),
    /// A required keyword is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// The port is not a number from 1 to 65535.
    #[error("the port must be a number from 1 to 65535")]
    Port,
    /// The host is a directory.
    #[error("the host must be a name or an address: connections through a Unix socket are not supported")]
    UnixSocket,
    /// A `%` without two hexadecimal digits, or bytes that are not UTF-8.
    #[error("the URI has a % that is not followed by two hexadecimal digits")]
    PercentEncoding,
    /// The text requires TLS.
    #[error("sslmode={0} is not supported for the primary: use sslmode=disable on a trusted network")]
    Tls(String),
}

impl FromStr for ConnInfo {
    type Err = ConnInfoError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri = text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://"));
        let pairs = match uri {
            Some(rest) => uri_pairs(rest)?,
            None => keyword_pairs(text)?,
        };
        from_pairs(pairs)
    }
}

/// Keywords and values, in the order of the text.
type Pairs = Vec<(String, String)>;

/// Builds the result. Of several equal keywords the last one counts, as in libpq.
fn from_pairs(pairs: Pairs) -> Result<ConnInfo, ConnInfoError> {
    let (mut host, mut port, mut user, mut password, mut application_name) =
        (None, PORT_DEFAULT, None, None, None);
    let mut database = None;
    for (keyword, value) in pairs {
        match keyword.as_str() {
            "host" | "hostaddr" if value.starts_with('/') => return Err(ConnInfoError::UnixSocket),
            "host" | "hostaddr" => host = Some(value),
            "port" => {
                port = value.parse().ok().filter(|&port| port != 0).ok_or(ConnInfoError::Port)?;
            }
            "user" => user = Some(value),
            "password" => password = Some(value),
            "application_name" => application_name = Some(value),
            "dbname" => database = Some(value),
            "replication" => {}
            "sslmode" if value == "disable" => {}
            "sslmode" => return Err(ConnInfoError::Tls(value)),
            _ => return Err(ConnInfoError::Keyword(keyword)),
        }
    }

    Ok(ConnInfo {
        host: host.filter(|host| !host.is_empty()).ok_or(ConnInfoError::Missing("host"))?,
        port,
        user: user.filter(|user| !user.is_empty()).ok_or(ConnInfoError::Missing("user"))?,
        password,
        database: database.unwrap_or_else(|| DATABASE_DEFAULT.to_owned()),
        application_name,
    })
}

/// Parses the keyword form: `a = b c='d e' f='it\'s'`.
fn keyword_pairs(text: &str) -> Result<Pairs, ConnInfoError> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (keyword, after) = rest.split_once('=').ok_or(ConnInfoError::Syntax)?;
        let keyword = keyword.trim();
        if keyword.is_empty() || keyword.contains(char::is_whitespace) {
            return Err(ConnInfoError::Syntax);
        }
        let (value, left) = keyword_value(after.trim_start())?;
        pairs.push((keyword.to_owned(), value));
        rest = left.trim_start();
    }
    Ok(pairs)
}

/// Parses a value; returns it and the text behind it. A backslash escapes the next character, inside quotes and outside.
fn keyword_value(text: &str) -> Result<(String, &str), ConnInfoError> {
    let quoted = text.strip_prefix('\'');
    let mut value = String::new();
    let mut characters = quoted.unwrap_or(text).chars();

    loop {
        let left = characters.as_str();
        match characters.next() {
            Some('\\') => value.push(characters.next().ok_or(ConnInfoError::Syntax)?),
            Some('\'') if quoted.is_some() => {
                let separated =
                    characters.as_str().is_empty() || characters.as_str().starts_with(char::is_whitespace);
                return if separated { Ok((value, characters.as_str())) } else { Err(ConnInfoError::Syntax) };
            }
            Some(space) if quoted.is_none() && space.is_whitespace() => return Ok((value, left)),
            Some(character) => value.push(character),
            None if quoted.is_some() => return Err(ConnInfoError::Syntax),
            None => return Ok((value, "")),
        }
    }
}

/// Parses the URI form after its scheme: `user:password@host:port/dbname?keyword=value&…`.
fn uri_pairs(rest: &str) -> Result<Pairs, ConnInfoError> {
    let mut pairs = Vec::new();
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, dbname) = rest.split_once('/').unwrap_or((rest, ""));
    let (credentials, address) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = match credentials.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (credentials, None),
    };

    let (host, port) = host_and_port(address)?;
    let fixed = [("user", user), ("host", host), ("port", port), ("dbname", dbname)];
    for (keyword, value) in fixed.into_iter().filter(|(_, value)| !value.is_empty()) {
        pairs.push((keyword.to_owned(), percent_decoded(value)?));
    }
    if let Some(password) = password {
        pairs.push(("password".to_owned(), percent_decoded(password)?));
    }

    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (keyword, value) = parameter.split_once('=').ok_or(ConnInfoError::Syntax)?;
        pairs.push((percent_decoded(keyword)?, percent_decoded(value)?));
    }
    Ok(pairs)
}

/// Splits host and port. An IPv6 address stands in brackets.
fn host_and_port(address: &str) -> Result<(&str, &str), ConnInfoError> {
    let Some(bracketed) = address.strip_prefix('[') else {
        return Ok(address.rsplit_once(':').unwrap_or((address, "")));
    };
    let (host, after) = bracketed.split_once(']').ok_or(ConnInfoError::Syntax)?;
    match after.strip_prefix(':') {
        Some(port) => Ok((host, port)),
        None if after.is_empty() => Ok((host, "")),
        None => Err(ConnInfoError::Syntax),
    }
}

fn percent_decoded(text: &str) -> Result<String, ConnInfoError> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    let digit = |byte: Option<u8>| {
        let value = byte.and_then(|byte| char::from(byte).to_digit(16));
        value.and_then(|value| u8::try_from(value).ok()).ok_or(ConnInfoError::PercentEncoding)
    };
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => digit(bytes.next())? << 4 | digit(bytes.next())?,
            other => other,
        });
    }
    String::from_utf8(decoded).map_err(|_| ConnInfoError::PercentEncoding)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(host: &str, port: u16, user: &str, password: Option<&str>) -> ConnInfo {
        ConnInfo {
            host: host.into(),
            port,
            user: user.into(),
            password: password.map(Into::into),
            database: DATABASE_DEFAULT.into(),
            application_name: None,
        }
    }

    fn in_database(database: &str, info: ConnInfo) -> ConnInfo {
        ConnInfo { database: database.into(), ..info }
    }

    #[test]
    fn conninfo_parses_keyword_and_uri_forms() {
        for (text, expected) in [
            ("host=127.0.0.1 port=5433 user=wp", info("127.0.0.1", 5433, "wp", None)),
            ("host=h user=wp dbname=app", in_database("app", info("h", 5432, "wp", None))),
            ("host = h  user='w p'\tpassword='it\\'s \\\\'", info("h", 5432, "w p", Some("it's \\"))),
            ("user=a host=h user=b", info("h", 5432, "b", None)),
            ("host=h user=a\\ b sslmode=disable", info("h", 5432, "a b", None)),
            ("postgresql://wp@127.0.0.1:5433/app", in_database("app", info("127.0.0.1", 5433, "wp", None))),
            ("postgres://w%20p:s%40%3A@h", info("h", 5432, "w p", Some("s@:"))),
            ("postgresql://[::1]:6000?user=wp&sslmode=disable", info("::1", 6000, "wp", None)),
            ("postgresql:///x?host=h&user=wp", in_database("x", info("h", 5432, "wp", None))),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn conninfo_errors_name_the_mistake() {
        for (text, expected) in [
            ("", ConnInfoError::Missing("host")),
            ("host=h", ConnInfoError::Missing("user")),
            ("host=h user=", ConnInfoError::Missing("user")),
            ("nonsense", ConnInfoError::Syntax),
            ("a b=c", ConnInfoError::Syntax),
            ("host='h user=wp", ConnInfoError::Syntax),
            ("host='h'x user=wp", ConnInfoError::Syntax),
            ("host=h user=wp port=0", ConnInfoError::Port),
            ("host=h user=wp port=70000", ConnInfoError::Port),
            ("host=/tmp user=wp", ConnInfoError::UnixSocket),
            ("postgresql://wp@%2Ftmp/x", ConnInfoError::UnixSocket),
            ("postgresql://wp@h?a%2=1", ConnInfoError::PercentEncoding),
            ("postgresql://wp@[::1", ConnInfoError::Syntax),
            ("host=h user=wp service=x", ConnInfoError::Keyword("service".into())),
            ("host=h user=wp sslmode=require", ConnInfoError::Tls("require".into())),
        ] {
            assert_eq!(text.parse::<ConnInfo>(), Err(expected), "{text}");
        }
    }

    #[test]
    fn conninfo_does_not_print_password() {
        let parsed: ConnInfo = "host=h user=wp password=secret".parse().unwrap();
        assert_eq!((format!("{parsed}"), format!("{parsed:?}")), ("h:5432".into(), "h:5432".into()));
    }
}
