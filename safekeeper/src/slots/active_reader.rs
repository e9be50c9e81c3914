//! [`ActiveReader`]: a connected reader that has a slot, and the signals between it and a reader that wants the slot.

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A connected reader, as others see it that want its slot.
#[derive(Debug)]
pub(super) struct ActiveReader {
    pub(super) application_name: String,
    pub(super) last_heard: Mutex<Instant>,
    /// Another reader asks for a sign of life.
    pub(super) asked: Notify,
    /// It has sent something.
    pub(super) heard: Notify,
    /// The slot was taken away.
    pub(super) displaced: Notify,
}

impl ActiveReader {
    /// A reader that begins now.
    pub(super) fn new(application_name: &str) -> Self {
        Self {
            application_name: application_name.to_owned(),
            last_heard: Mutex::new(Instant::now()),
            asked: Notify::new(),
            heard: Notify::new(),
            displaced: Notify::new(),
        }
    }

    /// Records that the reader has sent something.
    pub(super) fn record_heard(&self) {
        *self.last_heard.lock() = Instant::now();
        self.heard.notify_waiters();
    }
}
