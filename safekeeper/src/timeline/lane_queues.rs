//! [`LaneQueues`]: the messages that wait for one timeline, one queue per connection. Pure; its disk thread owns it.
//!
//! A round takes a share of each lane, so a vote waits for one round at most, however much WAL another connection has
//! queued. Messages that could not be decided go back to the head of their lane, and the lane pauses until the retry:
//! the order within a connection never changes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use consensus::{ConnectionId, ProposerMessage};
use tokio::sync::OwnedSemaphorePermit;
use wal_store::Input;

/// WAL bytes that one round takes from one lane: enough to be worth an fdatasync, and few enough that another connection's
/// vote does not wait long.
pub(super) const ROUND_LANE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Messages that one round takes from one lane.
pub(super) const ROUND_LANE_MESSAGES_MAX: usize = 4096;

/// The lanes of one timeline.
#[derive(Debug, Default)]
pub(crate) struct LaneQueues(BTreeMap<ConnectionId, Lane>);

#[derive(Debug, Default)]
struct Lane {
    queue: VecDeque<Queued>,
    paused_until: Option<Instant>,
    /// Its connection was closed or is gone: the lane accepts no more messages.
    is_closing: bool,
}

/// An input, and the room that it takes in its lane. Dropping the permit gives the room back.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) input: Input,
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

/// The inputs of one round, in the order in which the replica gets them.
#[derive(Debug, Default)]
pub(crate) struct RoundBatch {
    pub(crate) inputs: Vec<(ConnectionId, Input)>,
    permits: Vec<(ConnectionId, Option<OwnedSemaphorePermit>)>,
}

impl RoundBatch {
    /// The inputs for the replica. Their permits stay here until [`LaneQueues::put_back`].
    pub(crate) fn take_inputs(&mut self) -> Vec<(ConnectionId, Input)> {
        std::mem::take(&mut self.inputs)
    }
}

impl LaneQueues {
    /// Opens the lane of a connection.
    pub(crate) fn open(&mut self, connection: ConnectionId) {
        self.0.entry(connection).or_default();
    }

    /// Removes a lane and drops its messages.
    pub(crate) fn remove(&mut self, connection: ConnectionId) {
        self.0.remove(&connection);
    }

    /// Adds a message to a lane. A message for a lane that is closing or was removed is dropped.
    pub(crate) fn push(&mut self, connection: ConnectionId, queued: Queued) {
        if let Some(lane) = self.0.get_mut(&connection).filter(|lane| !lane.is_closing) {
            lane.queue.push_back(queued);
        }
    }

    /// Drops the messages of a lane whose connection is being closed. The lane accepts only its disconnect from now on.
    pub(crate) fn discard(&mut self, connection: ConnectionId) {
        if let Some(lane) = self.0.get_mut(&connection) {
            *lane = Lane { is_closing: true, ..Lane::default() };
        }
    }

    /// Queues the disconnect of a connection that is gone, the last input of its lane. A lane that is paused for want of
    /// disk space drops its messages first: a dead connection must not lead its term until there is room.
    pub(crate) fn disconnect(&mut self, connection: ConnectionId) {
        if let Some(lane) = self.0.get_mut(&connection) {
            if lane.paused_until.take().is_some() {
                lane.queue.clear();
            }
            lane.is_closing = true;
            lane.queue.push_back(Queued { input: Input::Disconnected, permit: None });
        }
    }

    /// Takes the share of each lane for the next round.
    pub(crate) fn next_batch(&mut self, now: Instant) -> RoundBatch {
        let mut batch = RoundBatch::default();
        for (&connection, lane) in &mut self.0 {
            if lane.paused_until.is_some_and(|until| until > now) {
                continue;
            }
            lane.paused_until = None;

            let (mut bytes, mut messages) = (0, 0);
            while bytes < ROUND_LANE_BYTES_MAX && messages < ROUND_LANE_MESSAGES_MAX {
                let Some(Queued { input, permit }) = lane.queue.pop_front() else { break };
                bytes += wal_bytes(&input);
                messages += 1;
                batch.inputs.push((connection, input));
                batch.permits.push((connection, permit));
            }
        }
        batch
    }

    /// Puts back the inputs that a round did not decide: the last ones of each of these connections, in their order. Their
    /// lanes pause until `retry_at`. The room of all other inputs is given back.
    pub(crate) fn put_back(
        &mut self,
        mut batch: RoundBatch,
        undecided: Vec<(ConnectionId, Input)>,
        retry_at: Instant,
    ) {
        for (connection, input) in undecided.into_iter().rev() {
            let Some(lane) = self.0.get_mut(&connection) else { continue };
            let last = batch.permits.iter().rposition(|(owner, _)| *owner == connection);
            let permit = last.and_then(|last| batch.permits.remove(last).1);
            lane.queue.push_front(Queued { input, permit });
            lane.paused_until = Some(retry_at);
        }
    }

    /// When the next lane is due: `now` or earlier when a lane with messages is not paused, `None` when all lanes are
    /// empty.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        let waiting = self.0.values().filter(|lane| !lane.queue.is_empty());
        waiting.map(|lane| lane.paused_until.unwrap_or(now)).min()
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Bytes of WAL in an input.
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

    /// Connection and start position of each input; 0 for an input that is no append.
    fn begins(inputs: &[(ConnectionId, Input)]) -> Vec<(u64, u64)> {
        inputs
            .iter()
            .map(|(connection, input)| match input {
                Input::Message(ProposerMessage::Append(append)) => (connection.0, append.begin_lsn.0),
                _ => (connection.0, 0),
            })
            .collect()
    }

    fn push(lanes: &mut LaneQueues, connection: ConnectionId, input: Input, room: Option<&Arc<Semaphore>>) {
        let permit = room.map(|room| Arc::clone(room).try_acquire_owned().unwrap());
        lanes.push(connection, Queued { input, permit });
    }

    /// A vote does not wait behind the WAL of another connection.
    #[test]
    fn next_batch_has_share_of_every_lane() {
        let mut lanes = LaneQueues::default();
        lanes.open(OLD);
        lanes.open(NEW);
        for begin in 0..200 {
            push(&mut lanes, OLD, append(begin, 128 * 1024), None);
        }
        push(&mut lanes, NEW, vote(), None);
        let batch = lanes.next_batch(Instant::now());
        let bytes: usize = batch.inputs.iter().map(|(_, input)| wal_bytes(input)).sum();
        assert!(bytes <= ROUND_LANE_BYTES_MAX + 128 * 1024, "{bytes}");
        assert!(batch.inputs.iter().any(|(connection, _)| *connection == NEW));
    }

    /// Undecided inputs come first in the next batch of their lane, which pauses until then.
    #[test]
    fn put_back_keeps_order_and_pauses_lane() {
        let (mut lanes, now) = (LaneQueues::default(), Instant::now());
        let room = Arc::new(Semaphore::new(3));
        lanes.open(OLD);
        lanes.open(NEW);
        for begin in 1..=3 {
            push(&mut lanes, OLD, append(begin, 8), Some(&room));
        }
        let mut batch = lanes.next_batch(now);
        let mut undecided = batch.take_inputs();
        let _decided = undecided.remove(0);
        let later = now + Duration::from_secs(1);
        lanes.put_back(batch, undecided, later);
        // The room of the decided input is free, that of the others is not.
        assert_eq!(room.available_permits(), 1);

        push(&mut lanes, OLD, append(4, 8), Some(&room));
        push(&mut lanes, NEW, vote(), None);
        assert_eq!(lanes.next_due(now), Some(now));
        assert_eq!(begins(&lanes.next_batch(now).inputs), [(2, 0)]);
        assert_eq!(lanes.next_due(now), Some(later));
        assert_eq!(begins(&lanes.next_batch(later).inputs), [(1, 2), (1, 3), (1, 4)]);
        assert_eq!(lanes.next_due(later), None);
        assert_eq!(room.available_permits(), 3);
    }

    #[test]
    fn disconnect_of_paused_lane_is_due_now() {
        let (mut lanes, now) = (LaneQueues::default(), Instant::now());
        let room = Arc::new(Semaphore::new(2));
        lanes.open(OLD);
        push(&mut lanes, OLD, append(1, 8), Some(&room));
        let mut batch = lanes.next_batch(now);
        let undecided = batch.take_inputs();
        lanes.put_back(batch, undecided, now + Duration::from_secs(1));
        lanes.disconnect(OLD);
        push(&mut lanes, OLD, append(2, 8), Some(&room));
        let batch = lanes.next_batch(now);
        assert!(matches!(batch.inputs[..], [(OLD, Input::Disconnected)]));
        assert_eq!(room.available_permits(), 2);
    }

    #[test]
    fn removed_lane_drops_its_messages() {
        let (mut lanes, now) = (LaneQueues::default(), Instant::now());
        let room = Arc::new(Semaphore::new(2));
        lanes.open(OLD);
        push(&mut lanes, OLD, append(1, 8), Some(&room));
        let mut batch = lanes.next_batch(now);
        lanes.remove(OLD);
        push(&mut lanes, OLD, append(2, 8), Some(&room));
        let undecided = batch.take_inputs();
        lanes.put_back(batch, undecided, now);
        assert_eq!(lanes.next_due(now), None);
        assert_eq!(room.available_permits(), 2);
    }
}
