//! TCP ports: picks free ports that a program keeps over its restarts.
//!
//! A restarted server has to listen on its old port, where its peers look for it. So the port lies below the range from
//! which the kernel serves outgoing connections: an outgoing connection could take it while the server is down.
//!
//! Other servers of this process and other tests choose ports at the same time. So a chosen port is locked until this
//! process ends.

use std::fs::{self, File};
use std::net::TcpListener;

use anyhow::{Context, Result};
use parking_lot::Mutex;

/// Range of the ports: above the well known ones, below `net.ipv4.ip_local_port_range` (32768 on Linux).
const PORTS: std::ops::Range<u16> = 15_000..32_000;
/// Random ports to try.
const ATTEMPTS_MAX: usize = 1_000;

/// Lock files of the ports that this process chose.
static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A port of 127.0.0.1 on which nothing listens now, and that no other process of this harness has chosen.
pub fn pick() -> Result<u16> {
    let width = u64::from(PORTS.end - PORTS.start);
    for _ in 0..ATTEMPTS_MAX {
        let random = getrandom::u64().context("no randomness from the operating system")?;
        let port = PORTS.start + u16::try_from(random % width)?;
        if hold(port)? && is_free(port) {
            return Ok(port);
        }
    }
    anyhow::bail!("found no free TCP port between {} and {}", PORTS.start, PORTS.end)
}

/// Locks a port. False when another process holds the lock.
fn hold(port: u16) -> Result<bool> {
    // One directory per account: an account cannot open the lock files of another one.
    let directory = std::env::temp_dir().join(format!("holdfast-ports-{}", nix::unistd::Uid::current()));
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let path = directory.join(port.to_string());
    let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let taken = file.try_lock().is_ok();
    if taken {
        HELD.lock().push(file);
    }
    Ok(taken)
}

/// True when a server could listen on this port of 127.0.0.1 now.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_with_a_listener_is_not_free() {
        let port = pick().unwrap();
        let _listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        assert!(!is_free(port));
    }

    #[test]
    fn a_port_is_chosen_once() {
        let port = pick().unwrap();
        assert!(is_free(port), "nothing listens on it yet");
        assert!(!hold(port).unwrap(), "a locked port was given away");
    }
}
