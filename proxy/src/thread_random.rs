//! [`ThreadRandom`]: the random numbers of a session. Imports nothing of this crate.

use std::convert::Infallible;

use rand::{Rng, TryRng};

/// Takes each number from the generator of the thread that asks, which is seeded by the operating system and fit for
/// secrets. A session has no generator of its own, and may move between threads.
#[derive(Debug)]
pub(crate) struct ThreadRandom;

impl TryRng for ThreadRandom {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(rand::rng().next_u32())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(rand::rng().next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        rand::rng().fill_bytes(bytes);
        Ok(())
    }
}
