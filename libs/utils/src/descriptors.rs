//! Descriptors: raises the limit of open files, and splits it into shares.
//!
//! A stranger who connects must not take the descriptors of those who are known, and neither may take those of the disk.
//! Called by `main` of every program.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Fewest descriptors with which a program starts.
pub const DESCRIPTORS_MIN: usize = 192;

/// Most connections, however many descriptors there are: each also takes memory.
pub const CONNECTIONS_MAX: usize = 4096;
/// Most clients that have not authenticated.
pub const HANDSHAKES_MAX: usize = 1024;

/// Shares of the descriptors of a server with a disk. What no share names is left to the disk: at least half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorBudget {
    /// Soft limit of the process.
    pub limit: usize,
    /// Connections at a time, handshakes included. Each may take two descriptors: its socket, and a file that it reads.
    pub connections: usize,
    /// Clients at a time that have not authenticated.
    pub handshakes: usize,
    /// The same, from one address.
    pub handshakes_per_address: usize,
}

impl DescriptorBudget {
    /// Splits a limit.
    pub fn split(limit: usize) -> Self {
        let connections = (limit / 8).clamp(1, CONNECTIONS_MAX);
        let handshakes = (connections / 4).clamp(1, HANDSHAKES_MAX);
        Self { limit, connections, handshakes, handshakes_per_address: handshakes.div_ceil(4) }
    }
}

/// Raises the soft limit of open files to the hard one, and returns it.
///
/// # Errors
/// The system refuses, or the limit is below [`DESCRIPTORS_MIN`].
pub fn raise_limit() -> io::Result<usize> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let limit = usize::try_from(hard).unwrap_or(usize::MAX);
    if limit < DESCRIPTORS_MIN {
        return Err(io::Error::other(format!(
            "the limit of open files is {limit}, and {DESCRIPTORS_MIN} are needed: raise it (ulimit -Hn, LimitNOFILE=)"
        )));
    }
    tracing::info!(descriptors = limit, "raised limit of open files");
    Ok(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_leaves_half_to_the_disk() {
        for limit in [DESCRIPTORS_MIN, 256, 1024, 4096, 1 << 16, 1 << 20] {
            let budget = DescriptorBudget::split(limit);
            assert!(2 * budget.connections + budget.handshakes <= limit / 2, "{budget:?}");
            assert!(budget.handshakes * 4 <= budget.connections, "{budget:?}");
            assert!(budget.handshakes_per_address < budget.handshakes, "{budget:?}");
        }
    }

    #[test]
    fn raise_limit_reaches_the_hard_limit() {
        let limit = raise_limit().unwrap();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!((soft, usize::try_from(hard).unwrap_or(usize::MAX)), (hard, limit));
    }
}
