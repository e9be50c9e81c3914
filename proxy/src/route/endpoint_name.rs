//! Endpoint name: the checked form of a name that a client or operator wrote.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest name of an endpoint: what fits one label of a host name (RFC 1035, section 2.3.4).
const ENDPOINT_NAME_BYTES_MAX: usize = 63;

/// Name of an endpoint: 1 to 63 of `a-z`, `0-9` and `-`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EndpointName(Arc<str>);

/// A text that is not an endpoint name, cut off at the longest length of a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not an endpoint name")]
pub(crate) struct InvalidName(pub(crate) String);

impl EndpointName {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn from_bytes(name: &[u8]) -> Result<Self, InvalidName> {
        let shown = || String::from_utf8_lossy(&name[..name.len().min(ENDPOINT_NAME_BYTES_MAX)]).into_owned();
        let text = str::from_utf8(name).map_err(|_| InvalidName(shown()))?;
        let is_name = (1..=ENDPOINT_NAME_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if is_name { Ok(Self(text.into())) } else { Err(InvalidName(shown())) }
    }
}

impl FromStr for EndpointName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_bytes(text.as_bytes())
    }
}

impl fmt::Display for EndpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EndpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
