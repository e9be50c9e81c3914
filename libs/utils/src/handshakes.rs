//! [`Handshakes`]: limits clients that have not authenticated, in total and for each address.
//!
//! Such a client costs a descriptor and memory until its handshake's deadline, and anybody can be one. The deadline is the
//! caller's. Called by accept loops, before a task is spawned.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::descriptors::DescriptorBudget;

/// Counts handshakes under way against their limits.
#[derive(Debug)]
pub struct Handshakes {
    max: usize,
    per_address_max: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// A handshake that counts until this value is dropped: when the client has authenticated, or is gone.
#[derive(Debug)]
pub struct Handshake {
    handshakes: Arc<Handshakes>,
    address: IpAddr,
}

/// The limit that refuses a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooManyHandshakes {
    /// Too many of all clients.
    Total,
    /// Too many of this address.
    FromAddress,
}

impl TooManyHandshakes {
    /// Label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Total => "too_many_handshakes",
            Self::FromAddress => "too_many_handshakes_from_address",
        }
    }
}

impl Handshakes {
    /// Limits from a budget.
    pub fn new(budget: &DescriptorBudget) -> Self {
        let (max, per_address_max) = (budget.handshakes, budget.handshakes_per_address);
        Self { max, per_address_max, open: Mutex::default() }
    }

    /// Counts one more handshake of a client at `address`.
    pub fn begin(self: &Arc<Self>, address: IpAddr) -> Result<Handshake, TooManyHandshakes> {
        let address = counted_address(address);
        let mut open = self.open.lock();
        let of_address = open.by_address.get(&address).copied().unwrap_or_default();
        if of_address >= self.per_address_max {
            return Err(TooManyHandshakes::FromAddress);
        }
        if open.total >= self.max {
            return Err(TooManyHandshakes::Total);
        }
        open.total += 1;
        open.by_address.insert(address, of_address + 1);
        Ok(Handshake { handshakes: Arc::clone(self), address })
    }

    /// Handshakes under way.
    pub fn open(&self) -> usize {
        self.open.lock().total
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut open = self.handshakes.open.lock();
        open.total -= 1;
        if let Some(count) = open.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.by_address.remove(&self.address);
            }
        }
    }
}

/// An IPv4 address, or the /64 of an IPv6 address: a client of IPv6 usually has a whole /64.
fn counted_address(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_are_limited_per_address_and_total() {
        let budget =
            DescriptorBudget { limit: 1000, connections: 100, handshakes: 3, handshakes_per_address: 2 };
        let handshakes = Arc::new(Handshakes::new(&budget));
        let begin = |address: &str| handshakes.begin(address.parse().unwrap());

        let (first, second) = (begin("2001:db8::1").unwrap(), begin("2001:db8::2").unwrap());
        assert_eq!(begin("2001:db8::3").unwrap_err(), TooManyHandshakes::FromAddress);
        let third = begin("192.0.2.1").unwrap();
        assert_eq!(begin("192.0.2.2").unwrap_err(), TooManyHandshakes::Total);
        drop(first);
        let fourth = begin("::ffff:192.0.2.1").unwrap();
        assert_eq!(begin("192.0.2.1").unwrap_err(), TooManyHandshakes::FromAddress);
        drop((second, third, fourth));
        assert_eq!(handshakes.open(), 0);
        assert!(handshakes.open.lock().by_address.is_empty());
    }
}
