//! Allowlist: the client addresses that an endpoint accepts.
//!
//! Providers parse it. `auth` checks it before it does anything else for a client.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// Entries of one list, at most.
pub(crate) const ALLOWLIST_ENTRIES_MAX: usize = 1024;

/// Ranges of addresses. An empty list allows every client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Allowlist(Vec<Range>);

/// First and last address, both included, of one address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: IpAddr,
    last: IpAddr,
}

/// Why a text is not an entry of an allowlist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AllowlistError {
    #[error("not an address, a range such as 10.0.0.1-10.0.0.9, or a network such as 10.0.0.0/8")]
    Syntax,
    #[error("range mixes IPv4 and IPv6 addresses")]
    Families,
    #[error("last address of the range is lower than its first")]
    Reversed,
    #[error("list exceeds {ALLOWLIST_ENTRIES_MAX} entries")]
    TooLong,
}

impl Allowlist {
    /// Parses a list.
    ///
    /// # Errors
    ///
    /// The first invalid entry, and what is wrong with it.
    pub(crate) fn parse<'t>(
        entries: impl IntoIterator<Item = &'t str>,
    ) -> Result<Self, (&'t str, AllowlistError)> {
        let mut ranges = Vec::new();
        for entry in entries {
            if ranges.len() == ALLOWLIST_ENTRIES_MAX {
                return Err((entry, AllowlistError::TooLong));
            }
            ranges.push(entry.parse().map_err(|error| (entry, error))?);
        }
        Ok(Self(ranges))
    }

    /// Parses a list whose mistakes the operator of this proxy cannot correct, because a control plane sent it.
    ///
    /// An invalid entry matches no address. So a list of invalid entries alone allows no client, unlike an empty one.
    pub(crate) fn parse_lossy<'t>(entries: impl IntoIterator<Item = &'t str>) -> Self {
        let no_address = Range { first: Ipv4Addr::BROADCAST.into(), last: Ipv4Addr::UNSPECIFIED.into() };
        let parse = |entry: &str| {
            entry.parse().unwrap_or_else(|error| {
                tracing::warn!(entry, %error, "allowlist entry is invalid and matches no address");
                no_address
            })
        };
        Self(entries.into_iter().take(ALLOWLIST_ENTRIES_MAX).map(parse).collect())
    }

    /// Whether a client of this address may connect. A client of unknown address is allowed by an empty list only.
    ///
    /// An IPv4 client that connected over IPv6 counts as an IPv4 client.
    pub(crate) fn allows(&self, client: Option<IpAddr>) -> bool {
        let is_inside = |client: IpAddr| {
            let client = client.to_canonical();
            self.0.iter().any(|range| range.contains(client))
        };
        self.0.is_empty() || client.is_some_and(is_inside)
    }
}

impl Range {
    /// Addresses of one family are ordered as numbers, and all of IPv4 lie before those of IPv6. So a range of one family
    /// contains no address of the other.
    fn contains(&self, client: IpAddr) -> bool {
        (self.first..=self.last).contains(&client)
    }
}

impl FromStr for Range {
    type Err = AllowlistError;

    fn from_str(text: &str) -> Result<Self, AllowlistError> {
        let (first, last) = match (text.split_once('/'), text.split_once('-')) {
            (Some((address, bits)), None) => return network(parse_address(address)?, bits),
            (None, Some((first, last))) => (parse_address(first)?, parse_address(last)?),
            _ => (parse_address(text)?, parse_address(text)?),
        };
        let (first, last) = (first.to_canonical(), last.to_canonical());
        if first.is_ipv4() != last.is_ipv4() {
            return Err(AllowlistError::Families);
        }
        if first > last { Err(AllowlistError::Reversed) } else { Ok(Self { first, last }) }
    }
}

fn parse_address(text: &str) -> Result<IpAddr, AllowlistError> {
    text.trim().parse().map_err(|_| AllowlistError::Syntax)
}

/// Parses a network. Set host bits are ignored, as in PostgreSQL's `pg_hba.conf` with a mask.
fn network(address: IpAddr, bits: &str) -> Result<Range, AllowlistError> {
    let bits: u32 = bits.trim().parse().map_err(|_| AllowlistError::Syntax)?;
    let host_mask = |width: u32| width.checked_sub(bits).ok_or(AllowlistError::Syntax);
    // The prefix length of an IPv4-mapped network counts from the start of the IPv6 address.
    Ok(match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(host_mask(32)?).unwrap_or(0);
            let first = u32::from(address) & mask;
            Range { first: Ipv4Addr::from(first).into(), last: Ipv4Addr::from(first | !mask).into() }
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(host_mask(128)?).unwrap_or(0);
            let first = u128::from(address) & mask;
            let [first, last] = [first, first | !mask].map(|bits| IpAddr::V6(bits.into()));
            if address.to_ipv4_mapped().is_some() && bits >= 96 {
                return Ok(Range { first: first.to_canonical(), last: last.to_canonical() });
            }
            Range { first, last }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowlist_allows_addresses_ranges_and_networks() {
        for (entry, inside, outside) in [
            ("10.1.2.3", &["10.1.2.3", "::ffff:10.1.2.3"][..], &["10.1.2.4", "::1", "::a01:203"][..]),
            ("10.0.0.1-10.0.0.9", &["10.0.0.1", "10.0.0.9", "::ffff:10.0.0.5"], &["10.0.0.0", "10.0.0.10"]),
            (" 10.0.0.1 - 10.0.0.2 ", &["10.0.0.2"], &["10.0.0.3"]),
            (
                "10.0.0.0/8",
                &["10.0.0.0", "10.255.255.255", "::ffff:10.1.1.1"],
                &["11.0.0.0", "9.255.255.255"],
            ),
            ("10.9.9.9/8", &["10.0.0.0"], &["11.0.0.0"]),
            ("0.0.0.0/0", &["1.2.3.4", "255.255.255.255", "::ffff:1.2.3.4"], &["::1"]),
            ("192.168.1.7/32", &["192.168.1.7"], &["192.168.1.8"]),
            ("2001:db8::/32", &["2001:db8::1", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"], &["2001:db9::"]),
            ("::/0", &["::1", "2001:db8::1"], &["10.0.0.1", "::ffff:10.0.0.1"]),
            ("::1", &["::1"], &["127.0.0.1", "::2"]),
            ("::ffff:10.0.0.0/104", &["10.200.0.1", "::ffff:10.0.0.1"], &["11.0.0.1"]),
            ("::ffff:10.0.0.1-10.0.0.3", &["10.0.0.2"], &["10.0.0.4"]),
        ] {
            let list = Allowlist::parse([entry]).unwrap();
            for (clients, expected) in [(inside, true), (outside, false)] {
                for client in clients {
                    assert_eq!(list.allows(Some(client.parse().unwrap())), expected, "{entry} {client}");
                }
            }
            assert!(!list.allows(None), "{entry}");
        }
    }

    #[test]
    fn empty_allowlist_allows_all_and_invalid_one_none() {
        let clients = [None, Some("10.0.0.1".parse().unwrap()), Some("::1".parse().unwrap())];
        assert!(clients.iter().all(|client| Allowlist::default().allows(*client)));
        let wrong = Allowlist::parse_lossy(["example.org"]);
        assert!(clients.iter().all(|client| !wrong.allows(*client)));
        assert!(Allowlist::parse_lossy(["example.org", "::1"]).allows(clients[2]));
    }

    #[test]
    fn invalid_entry_is_returned_with_its_error() {
        use AllowlistError::{Families, Reversed, Syntax};
        for (entry, expected) in [
            ("", Syntax),
            ("example.org", Syntax),
            ("10.0.0", Syntax),
            ("10.0.0.1/33", Syntax),
            ("10.0.0.1/-1", Syntax),
            ("::1/129", Syntax),
            ("10.0.0.1/", Syntax),
            ("10.0.0.1-10.0.0.2/8", Syntax),
            ("10.0.0.9-10.0.0.1", Reversed),
            ("10.0.0.9-::1", Families),
        ] {
            assert_eq!(Allowlist::parse(["::1", entry]), Err((entry, expected)));
        }
        let many = vec!["::1"; ALLOWLIST_ENTRIES_MAX + 1];
        assert_eq!(Allowlist::parse(many).unwrap_err().1, AllowlistError::TooLong);
    }
}
