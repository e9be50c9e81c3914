//! [`Allowlist`]: from which addresses an endpoint takes clients. Read by control planes, asked by `auth` before anything
//! else is done for a client.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// Entries of one list at most.
pub(crate) const ALLOWLIST_ENTRIES_MAX: usize = 1024;

/// Ranges of addresses. An empty list lets everybody in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Allowlist(Vec<Range>);

/// First and last address, of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: IpAddr,
    last: IpAddr,
}

/// A text that is no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AllowlistError {
    #[error("it is not an address, a range such as 10.0.0.1-10.0.0.9, or a network such as 10.0.0.0/8")]
    Syntax,
    #[error("it mixes IPv4 and IPv6")]
    Families,
    #[error("its last address lies before its first one")]
    Reversed,
    #[error("a list has at most {ALLOWLIST_ENTRIES_MAX} entries")]
    TooLong,
}

impl Allowlist {
    /// Reads a list; the entry that is wrong comes with the error.
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

    /// Reads a list of which nobody here can correct the mistakes: a wrong entry matches nobody, so that a list of only
    /// wrong ones does not let everybody in.
    pub(crate) fn parse_lossy<'t>(entries: impl IntoIterator<Item = &'t str>) -> Self {
        let nobody = Range { first: Ipv4Addr::BROADCAST.into(), last: Ipv4Addr::UNSPECIFIED.into() };
        let parse = |entry: &str| {
            entry.parse().unwrap_or_else(|error| {
                tracing::warn!(entry, %error, "an entry of an allowlist matches nobody");
                nobody
            })
        };
        Self(entries.into_iter().take(ALLOWLIST_ENTRIES_MAX).map(parse).collect())
    }

    /// An IPv4 client that reached us over IPv6 counts as what it is. Where nobody knows the address, only an empty list
    /// lets it in.
    pub(crate) fn allows(&self, client: Option<IpAddr>) -> bool {
        let is_inside = |client: IpAddr| {
            let client = client.to_canonical();
            self.0.iter().any(|range| range.contains(client))
        };
        self.0.is_empty() || client.is_some_and(is_inside)
    }
}

impl Range {
    /// Both ends count. All addresses of one family are ordered as numbers, and IPv4 ones lie before IPv6 ones: a range
    /// of one family contains none of the other.
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

/// Host bits that are set do not matter, as in PostgreSQL's `pg_hba.conf` with a mask.
fn network(address: IpAddr, bits: &str) -> Result<Range, AllowlistError> {
    let bits: u32 = bits.trim().parse().map_err(|_| AllowlistError::Syntax)?;
    let host_mask = |width: u32| width.checked_sub(bits).ok_or(AllowlistError::Syntax);
    // The prefix of an IPv4-mapped network counts from the IPv6 address's beginning.
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
    fn addresses_ranges_and_networks_let_in_whom_they_name() {
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
    fn an_empty_list_lets_everybody_in_and_a_wrong_one_nobody() {
        let clients = [None, Some("10.0.0.1".parse().unwrap()), Some("::1".parse().unwrap())];
        assert!(clients.iter().all(|client| Allowlist::default().allows(*client)));
        let wrong = Allowlist::parse_lossy(["example.org"]);
        assert!(clients.iter().all(|client| !wrong.allows(*client)));
        assert!(Allowlist::parse_lossy(["example.org", "::1"]).allows(clients[2]));
    }

    #[test]
    fn what_is_no_entry_is_refused_with_the_entry() {
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
