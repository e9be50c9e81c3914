//! [`Lanes`]: what waits for one timeline, one queue a connection. Pure; the disk thread in `task` owns it.
//!
//! A round takes a share of each lane, so that a vote waits for one round at most, however much WAL another connection
//! has queued. What could not be decided goes back to the head of its lane, and the lane rests until it is tried again:
//! the order within a connection is never changed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use consensus::{ConnectionId, ProposerMessage};
use tokio::sync::OwnedSemaphorePermit;
use wal_store::Input;

/// WAL bytes that one round takes of one lane: large enough that an fdatasync pays, small enough that a vote of another
/// connection does not wait long.
pub(super) const ROUND_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Messages that one round takes of one lane.
pub(super) const ROUND_MESSAGES_MAX: usize = 4096;

/// The lanes of one timeline.
#[derive(Debug, Default)]
pub(crate) struct Lanes(BTreeMap<ConnectionId, Lane>);

#[derive(Debug, Default)]
struct Lane {
    queue: VecDeque<Queued>,
    rests_until: Option<Instant>,
    /// Its connection was ended or is gone: nothing more is taken.
    is_ending: bool,
}

/// An input with the room that it takes in its lane; dropping the permit gives the room back.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) input: Input,
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

/// What a round has taken, in the order in which the replica takes it.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) inputs: Vec<(ConnectionId, Input)>,
    permits: Vec<(ConnectionId, Option<OwnedSemaphorePermit>)>,
}

impl Batch {
    /// The inputs for the replica; the permits stay until [`Lanes::put_back`].
    pub(crate) fn take_inputs(&mut self) -> Vec<(ConnectionId, Input)> {
        std::mem::take(&mut self.inputs)
    }
}

impl Lanes {
    /// Opens the lane of a connection.
    pub(crate) fn open(&mut self, connection: ConnectionId) {
        self.0.entry(connection).or_default();
    }

    /// Closes a lane and drops what is in it.
    pub(crate) fn close(&mut self, connection: ConnectionId) {
        self.0.remove(&connection);
    }

    /// Adds to a lane; what is for a lane that ends or was closed is dropped.
    pub(crate) fn push(&mut self, connection: ConnectionId, queued: Queued) {
        if let Some(lane) = self.0.get_mut(&connection).filter(|lane| !lane.is_ending) {
            lane.queue.push_back(queued);
        }
    }

    /// Drops what is in a lane, and takes nothing more but that the connection left.
    pub(crate) fn clear(&mut self, connection: ConnectionId) {
        if let Some(lane) = self.0.get_mut(&connection) {
            *lane = Lane { is_ending: true, ..Lane::default() };
        }
    }

    /// The connection is gone: that is the last thing in its lane. A lane that rests for want of disk space drops what it
    /// has, so that a dead connection does not lead its term until there is room.
    pub(crate) fn leave(&mut self, connection: ConnectionId) {
        if let Some(lane) = self.0.get_mut(&connection) {
            if lane.rests_until.take().is_some() {
                lane.queue.clear();
            }
            lane.is_ending = true;
            lane.queue.push_back(Queued { input: Input::Disconnected, permit: None });
        }
    }

    /// The next round.
    pub(crate) fn batch(&mut self, now: Instant) -> Batch {
        let mut batch = Batch::default();
        for (&connection, lane) in &mut self.0 {
            if lane.rests_until.is_some_and(|until| until > now) {
                continue;
            }
            lane.rests_until = None;
            let (mut bytes, mut messages) = (0, 0);
            while bytes < ROUND_BYTES_MAX && messages < ROUND_MESSAGES_MAX {
                let Some(Queued { input, permit }) = lane.queue.pop_front() else { break };
                bytes += wal_bytes(&input);
                messages += 1;
                batch.inputs.push((connection, input));
                batch.permits.push((connection, permit));
            }
        }
        batch
    }

    /// Takes back what a round did not decide: the last inputs of each of these connections, in their order. Their lanes
    /// rest until `retry_at`; the room of everything else is given back.
    pub(crate) fn put_back(
        &mut self,
        mut batch: Batch,
        undecided: Vec<(ConnectionId, Input)>,
        retry_at: Instant,
    ) {
        for (connection, input) in undecided.into_iter().rev() {
            let Some(lane) = self.0.get_mut(&connection) else { continue };
            let last = batch.permits.iter().rposition(|(owner, _)| *owner == connection);
            let permit = last.and_then(|last| batch.permits.remove(last).1);
            lane.queue.push_front(Queued { input, permit });
            lane.rests_until = Some(retry_at);
        }
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// When the next lane has something to take: `now` or earlier when one has it already, `None` when all are empty.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        let waiting = self.0.values().filter(|lane| !lane.queue.is_empty());
        waiting.map(|lane| lane.rests_until.unwrap_or(now)).min()
    }
}

/// WAL in an input.
pub(crate) fn wal_bytes(input: &Input) -> usize {
    match input {
        Input::Message(ProposerMessage::Append(append)) => append.wal.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use consensus::{AppendRequest, VoteRequest};
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::sync::Semaphore;
    use wal_types::{Generation, Lsn, ProposerId, Term};

    const OLD: ConnectionId = ConnectionId(1);
    const NEW: ConnectionId = ConnectionId(2);

    fn append(begin: u64, bytes: usize) -> Input {
        Input::Message(ProposerMessage::Append(AppendRequest {
            generation: Generation(0),
            term: Term(1),
            epoch_start_lsn: Lsn(0),
            begin_lsn: Lsn(begin),
            commit_lsn: Lsn(0),
            truncate_lsn: Lsn(0),
            proposer_id: ProposerId::default(),
            wal: Bytes::from(vec![0; bytes]),
        }))
    }

    fn vote() -> Input {
        Input::Message(ProposerMessage::Vote(VoteRequest {
            generation: Generation(0),
            term: Term(2),
            proposer_id: ProposerId::default(),
        }))
    }

    fn begins(inputs: &[(ConnectionId, Input)]) -> Vec<(u64, u64)> {
        inputs
            .iter()
            .map(|(connection, input)| match input {
                Input::Message(ProposerMessage::Append(append)) => (connection.0, append.begin_lsn.0),
                _ => (connection.0, 0),
            })
            .collect()
    }

    fn push(lanes: &mut Lanes, connection: ConnectionId, input: Input, room: Option<&Arc<Semaphore>>) {
        let permit = room.map(|room| Arc::clone(room).try_acquire_owned().unwrap());
        lanes.push(connection, Queued { input, permit });
    }

    #[test]
    fn a_vote_does_not_wait_behind_the_wal_of_another_connection() {
        let mut lanes = Lanes::default();
        lanes.open(OLD);
        lanes.open(NEW);
        for begin in 0..200 {
            push(&mut lanes, OLD, append(begin, 128 * 1024), None);
        }
        push(&mut lanes, NEW, vote(), None);
        let batch = lanes.batch(Instant::now());
        let bytes: usize = batch.inputs.iter().map(|(_, input)| wal_bytes(input)).sum();
        assert!(bytes <= ROUND_BYTES_MAX + 128 * 1024, "{bytes}");
        assert!(batch.inputs.iter().any(|(connection, _)| *connection == NEW));
    }

    #[test]
    fn the_undecided_come_first_again_and_their_lane_rests() {
        let (mut lanes, now) = (Lanes::default(), Instant::now());
        let room = Arc::new(Semaphore::new(3));
        lanes.open(OLD);
        lanes.open(NEW);
        for begin in 1..=3 {
            push(&mut lanes, OLD, append(begin, 8), Some(&room));
        }
        let mut batch = lanes.batch(now);
        let mut undecided = batch.take_inputs();
        let _decided = undecided.remove(0);
        let later = now + Duration::from_secs(1);
        lanes.put_back(batch, undecided, later);
        // The room of the decided one is free, that of the others is not.
        assert_eq!(room.available_permits(), 1);

        push(&mut lanes, OLD, append(4, 8), Some(&room));
        push(&mut lanes, NEW, vote(), None);
        assert_eq!(lanes.next_due(now), Some(now));
        assert_eq!(begins(&lanes.batch(now).inputs), [(2, 0)]);
        assert_eq!(lanes.next_due(now), Some(later));
        assert_eq!(begins(&lanes.batch(later).inputs), [(1, 2), (1, 3), (1, 4)]);
        assert_eq!(lanes.next_due(later), None);
        assert_eq!(room.available_permits(), 3);
    }

    #[test]
    fn a_connection_that_left_while_its_lane_rests_is_gone_at_once() {
        let (mut lanes, now) = (Lanes::default(), Instant::now());
        let room = Arc::new(Semaphore::new(2));
        lanes.open(OLD);
        push(&mut lanes, OLD, append(1, 8), Some(&room));
        let mut batch = lanes.batch(now);
        let undecided = batch.take_inputs();
        lanes.put_back(batch, undecided, now + Duration::from_secs(1));
        lanes.leave(OLD);
        push(&mut lanes, OLD, append(2, 8), Some(&room));
        let batch = lanes.batch(now);
        assert!(matches!(batch.inputs[..], [(OLD, Input::Disconnected)]));
        assert_eq!(room.available_permits(), 2);
    }

    #[test]
    fn a_closed_lane_takes_nothing_and_keeps_nothing() {
        let (mut lanes, now) = (Lanes::default(), Instant::now());
        let room = Arc::new(Semaphore::new(2));
        lanes.open(OLD);
        push(&mut lanes, OLD, append(1, 8), Some(&room));
        let mut batch = lanes.batch(now);
        lanes.close(OLD);
        push(&mut lanes, OLD, append(2, 8), Some(&room));
        let undecided = batch.take_inputs();
        lanes.put_back(batch, undecided, now);
        assert_eq!(lanes.next_due(now), None);
        assert_eq!(room.available_permits(), 2);
    }
}
