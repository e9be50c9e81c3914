//! [`MemberAddress`]: a member as a person types it, `ID@HOST:PORT`.

use std::str::FromStr;

use serde::Serialize;

use crate::answers::Member;

/// A safekeeper and the address of its PostgreSQL port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct MemberAddress(pub(super) Member);

impl FromStr for MemberAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = || {
            let (id, address) = text.trim().split_once('@')?;
            let (host, port) = address.rsplit_once(':')?;
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let (id, port) = (id.parse().ok()?, port.parse().ok()?);
            (id != 0 && port != 0 && !host.is_empty()).then(|| Member { id, host: host.to_owned(), port })
        };
        parsed().map(Self).ok_or("expected ID@HOST:PORT of the PostgreSQL port, as in 1@10.0.0.1:5454")
    }
}

/// The form in which [`MemberAddress`] is typed.
pub(super) fn typed(member: &Member) -> String {
    let Member { id, host, port } = member;
    if host.contains(':') { format!("{id}@[{host}]:{port}") } else { format!("{id}@{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_address_is_typed_and_shown_alike() {
        for text in ["1@10.0.0.1:5454", "2@sk.local:1", "3@[::1]:65535"] {
            assert_eq!(typed(&text.parse::<MemberAddress>().unwrap().0), text);
        }
        for wrong in ["", "1", "1@h", "@h:1", "x@h:1", "0@h:1", "1@:1", "1@h:0", "1@h:65536"] {
            assert!(wrong.parse::<MemberAddress>().is_err(), "{wrong:?}");
        }
    }
}
