//! [`ReadyList`]: the connections of a shard that can be read or written now.
//!
//! Each connection has a waker of its own. It notes the connection here and wakes the shard's task, so a turn polls only
//! the sockets that have something, however many there are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use consensus::ConnectionId;
use parking_lot::Mutex;

/// The connections that are ready. Clones share the list.
#[derive(Clone, Debug, Default)]
pub(super) struct ReadyList(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    connections: Vec<ConnectionId>,
    shard: Option<Waker>,
}

/// One connection in the list: its waker, and whether it is noted.
#[derive(Clone, Debug)]
pub(super) struct ReadyEntry(Arc<Entry>);

#[derive(Debug)]
struct Entry {
    connection: ConnectionId,
    is_noted: AtomicBool,
    list: ReadyList,
}

impl ReadyList {
    /// An entry for a connection, which is noted as ready.
    pub(super) fn add(&self, connection: ConnectionId) -> ReadyEntry {
        let entry = Entry { connection, is_noted: AtomicBool::new(false), list: self.clone() };
        let entry = ReadyEntry(Arc::new(entry));
        entry.note();
        entry
    }

    /// Sets the task that is woken from now on.
    pub(super) fn set_shard(&self, waker: &Waker) {
        let mut content = self.0.lock();
        match &mut content.shard {
            Some(shard) => shard.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Moves the connections that are ready to `connections`, which is empty.
    pub(super) fn take(&self, connections: &mut Vec<ConnectionId>) {
        std::mem::swap(&mut self.0.lock().connections, connections);
    }
}

impl ReadyEntry {
    /// Notes the connection as ready.
    pub(super) fn note(&self) {
        self.0.wake_by_ref();
    }

    /// Marks the connection as taken from the list. Called before its socket is polled.
    pub(super) fn clear(&self) {
        self.0.is_noted.swap(false, Ordering::AcqRel);
    }

    /// The waker for the connection's socket.
    pub(super) fn waker(&self) -> Waker {
        Arc::clone(&self.0).into()
    }
}

impl Wake for Entry {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // A connection that is noted already is polled after this: `clear` comes first.
        if self.is_noted.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut content = self.list.0.lock();
        content.connections.push(self.connection);
        if let Some(shard) = &content.shard {
            shard.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[derive(Default)]
    struct Shard(AtomicU32);

    impl Wake for Shard {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A connection is noted once until it is polled, and wakes the shard once.
    #[test]
    fn ready_entry_is_noted_once() {
        let (list, shard) = (ReadyList::default(), Arc::new(Shard::default()));
        list.set_shard(&Arc::clone(&shard).into());
        let entry = list.add(ConnectionId(1));
        entry.waker().wake();
        entry.note();
        let mut ready = Vec::new();
        list.take(&mut ready);
        assert_eq!((ready, shard.0.load(Ordering::Relaxed)), (vec![ConnectionId(1)], 1));

        entry.clear();
        entry.waker().wake_by_ref();
        let mut ready = Vec::new();
        list.take(&mut ready);
        assert_eq!((ready, shard.0.load(Ordering::Relaxed)), (vec![ConnectionId(1)], 2));
    }
}
