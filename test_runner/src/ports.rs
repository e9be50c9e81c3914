//! Picks TCP ports that a program keeps over its restarts.
//!
//! A server that is restarted has to come back where its peers look for it, so its port lies below the range
//! from which the kernel serves outgoing connections: one of those could take it meanwhile.

use std::net::TcpListener;

use anyhow::{Context, Result};

/// Ports handed out: above the well known ones, below `net.ipv4.ip_local_port_range` (32768 on Linux).
const PORTS: std::ops::Range<u16> = 15_000..32_000;
const ATTEMPTS_MAX: usize = 1_000;

/// A port of 127.0.0.1 on which nothing listens now.
pub fn pick() -> Result<u16> {
    let width = u64::from(PORTS.end - PORTS.start);
    for _ in 0..ATTEMPTS_MAX {
        let random = getrandom::u64().context("no randomness from the operating system")?;
        let port = PORTS.start + u16::try_from(random % width)?;
        if is_free(port) {
            return Ok(port);
        }
    }
    anyhow::bail!("found no free TCP port between {} and {}", PORTS.start, PORTS.end)
}

/// True when a server could listen on this port of 127.0.0.1 now.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_listened_on_is_not_free() {
        let port = pick().unwrap();
        let _listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        assert!(!is_free(port));
    }
}
