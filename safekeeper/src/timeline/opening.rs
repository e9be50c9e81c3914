//! [`Opening`]: the order in which timelines are opened after a start, and who waits for them. Pure, but for the waiting.
//!
//! The ports are open meanwhile. Timelines that somebody asks for come first; the others follow in the order of their ids.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use wal_types::TenantTimelineId;

/// The timelines that are not open yet.
#[derive(Debug)]
pub(super) struct Opening(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Nobody has begun to open them.
    waiting: BTreeSet<TenantTimelineId>,
    /// Timelines that somebody asked for, the first one in front. May hold ones that are no longer waiting.
    asked: VecDeque<TenantTimelineId>,
    /// Timelines that wait or are being opened, with those who asked for them.
    unopened: BTreeMap<TenantTimelineId, Vec<oneshot::Sender<()>>>,
}

impl Opening {
    /// All of these are to be opened.
    pub(super) fn new(ids: &[TenantTimelineId]) -> Self {
        Self(Mutex::new(State {
            waiting: ids.iter().copied().collect(),
            asked: VecDeque::new(),
            unopened: ids.iter().map(|id| (*id, Vec::new())).collect(),
        }))
    }

    /// The next timeline to open. The caller reports it to [`Opening::finished`].
    pub(super) fn next(&self) -> Option<TenantTimelineId> {
        let mut state = self.0.lock();
        while let Some(id) = state.asked.pop_front() {
            if state.waiting.remove(&id) {
                return Some(id);
            }
        }
        state.waiting.pop_first()
    }

    /// An attempt to open the timeline has ended. Wakes those who asked for it.
    pub(super) fn finished(&self, id: TenantTimelineId) {
        for asker in self.0.lock().unopened.remove(&id).unwrap_or_default() {
            // Who asked may have stopped waiting.
            let _ = asker.send(());
        }
    }

    /// Lets the timeline be opened before the others. The receiver returns when that was tried; `None` when it was tried
    /// already, or there is no such timeline.
    pub(super) fn ask(&self, id: TenantTimelineId) -> Option<oneshot::Receiver<()>> {
        let mut state = self.0.lock();
        let is_waiting = state.waiting.contains(&id);
        let askers = state.unopened.get_mut(&id)?;
        let (done, receiver) = oneshot::channel();
        askers.push(done);
        if is_waiting && askers.len() == 1 {
            state.asked.push_back(id);
        }
        Some(receiver)
    }

    /// Number of timelines that were not tried yet, or are being opened.
    pub(super) fn left(&self) -> usize {
        self.0.lock().unopened.len()
    }

    /// Opens no further timelines.
    pub(super) fn stop(&self) {
        let mut state = self.0.lock();
        state.waiting.clear();
        state.unopened.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wal_types::{TenantId, TimelineId};

    fn id(number: u8) -> TenantTimelineId {
        TenantTimelineId { tenant: TenantId([0; 16]), timeline: TimelineId([number; 16]) }
    }

    /// Asked ones come first, in the order of asking; each is opened once.
    #[test]
    fn asked_timelines_are_opened_first() {
        let opening = Opening::new(&[id(1), id(2), id(3), id(4)]);
        assert_eq!(opening.next(), Some(id(1)));
        let mut asked: Vec<_> = [4, 3, 4, 1].map(|number| opening.ask(id(number)).unwrap()).into();
        assert!(opening.ask(id(5)).is_none(), "it does not exist");
        let order: Vec<_> = std::iter::from_fn(|| opening.next()).collect();
        assert_eq!(order, [id(4), id(3), id(2)]);

        assert_eq!(opening.left(), 4);
        opening.finished(id(4));
        assert_eq!(opening.left(), 3);
        assert!(asked[0].try_recv().is_ok() && asked[2].try_recv().is_ok());
        assert!(asked[1].try_recv().is_err() && asked[3].try_recv().is_err());
        assert!(opening.ask(id(4)).is_none(), "it is open");
    }

    #[test]
    fn stopped_opening_wakes_those_who_wait() {
        let opening = Opening::new(&[id(1)]);
        let asked = opening.ask(id(1)).unwrap();
        opening.stop();
        assert!(opening.next().is_none() && asked.blocking_recv().is_err());
    }
}
