//! Client network: the addresses that limits count as one client, or as one network.

use std::net::{IpAddr, Ipv6Addr};

/// The addresses that count as one client: an IPv4 address, or an IPv6 /64, which a single host owns as a whole.
pub(super) fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) & !0 << 64)),
        address => address,
    }
}

/// The addresses that count as one network: an IPv4 /24, or an IPv6 /64.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match source(address) {
        IpAddr::V4(address) => IpAddr::V4((u32::from(address) & !0 << 8).into()),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn source_is_an_ipv4_address_or_ipv6_network() {
        for (address, as_source, as_network) in [
            ("192.0.2.77", "192.0.2.77", "192.0.2.0"),
            ("::ffff:192.0.2.77", "192.0.2.77", "192.0.2.0"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::", "2001:db8:1:2::"),
            ("::1", "::", "::"),
        ] {
            assert_eq!((source(ip(address)), network(ip(address))), (ip(as_source), ip(as_network)));
        }
    }
}
