//! Reserve of file descriptors for the disk: an open that finds none free gives one of the reserve back and tries again.
//!
//! Descriptors belong to the process, and so does the reserve. Without it an open that follows a decision could fail
//! because somebody connects, and the log would have to be recovered. Costs nothing while descriptors are free. Used by
//! [`super::RealDisk`] alone.

use std::fs::File;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::interface::OutOfHandles;

/// Descriptors that the reserve holds. Each of a few threads opens up to four files for one decision, and those that the
/// reserve gives back may be taken by another thread of the process first.
pub const HANDLES_RESERVED: usize = 32;

/// With fewer in reserve, nothing is decided that needs a file.
const HANDLES_NEEDED: usize = HANDLES_RESERVED / 2;

/// Errors of open(2): too many files in the process, in the system, and no memory.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;
const ENOMEM: i32 = 12;

static RESERVE: Mutex<Vec<File>> = Mutex::new(Vec::new());
/// Length of the reserve, to be read without the lock.
static HELD: AtomicUsize = AtomicUsize::new(0);
static SHORTAGES: AtomicU64 = AtomicU64::new(0);

/// Number of times that an open of the disk found no free descriptor since the process began.
pub fn handle_shortages() -> u64 {
    SHORTAGES.load(Ordering::Relaxed)
}

/// Opens a file, with a descriptor of the reserve if no other is free.
pub(super) fn open<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut counted = false;
    loop {
        let error = match open() {
            Err(error) if is_shortage(&error) => error,
            other => return other,
        };
        if !std::mem::replace(&mut counted, true) {
            SHORTAGES.fetch_add(1, Ordering::Relaxed);
        }
        let freed = with_reserve(|reserve| reserve.pop());
        if freed.is_none() {
            return Err(OutOfHandles(error).into_io());
        }
    }
}

/// Fills the reserve. Fails when too few descriptors are free.
pub(super) fn ensure() -> io::Result<()> {
    if HELD.load(Ordering::Relaxed) == HANDLES_RESERVED {
        return Ok(());
    }
    with_reserve(|reserve| {
        while reserve.len() < HANDLES_RESERVED {
            match File::open("/dev/null") {
                Ok(file) => reserve.push(file),
                Err(_) if reserve.len() >= HANDLES_NEEDED => break,
                Err(error) => {
                    SHORTAGES.fetch_add(1, Ordering::Relaxed);
                    return Err(OutOfHandles(error).into_io());
                }
            }
        }
        Ok(())
    })
}

fn with_reserve<T>(act: impl FnOnce(&mut Vec<File>) -> T) -> T {
    // A panic leaves a reserve that is shorter, and otherwise as good.
    let mut reserve = RESERVE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let result = act(&mut reserve);
    HELD.store(reserve.len(), Ordering::Relaxed);
    result
}

fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Until it is empty. One test, because the reserve belongs to the process.
    #[test]
    fn open_takes_from_the_reserve() {
        ensure().unwrap();
        let mut tries = 0;
        // Free for the third try only: another thread took what the reserve gave back first.
        let opened = open(|| {
            tries += 1;
            if tries < 3 { Err(io::Error::from_raw_os_error(EMFILE)) } else { Ok(tries) }
        });
        assert_eq!(opened.unwrap(), 3);
        assert_eq!(HELD.load(Ordering::Relaxed), HANDLES_RESERVED - 2);

        let error = open(|| Err::<(), _>(io::Error::from_raw_os_error(ENFILE))).unwrap_err();
        assert!(super::super::is_out_of_handles(&error), "{error}");
        assert_eq!(HELD.load(Ordering::Relaxed), 0);
        assert!(handle_shortages() >= 2);

        ensure().unwrap();
        assert_eq!(HELD.load(Ordering::Relaxed), HANDLES_RESERVED);
        let other = open(|| Err::<(), _>(io::Error::from(io::ErrorKind::NotFound))).unwrap_err();
        assert_eq!(other.kind(), io::ErrorKind::NotFound);
        assert_eq!(HELD.load(Ordering::Relaxed), HANDLES_RESERVED, "another error takes nothing");
    }
}
