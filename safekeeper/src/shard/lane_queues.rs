//! [`LaneQueues`]: the messages that wait for one timeline, one queue per connection. Pure; its shard owns it.
//!
//! A lane holds one round's share at most, and a round takes all of every lane. So a vote waits for one round, however much
//! WAL another connection sends. Messages that could not be decided go back to the head of their lane, and the lane pauses
//! until the retry: the order within a connection never changes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use consensus::{ConnectionId, ProposerMessage};
use wal_store::Input;

/// Bytes of one lane in one round: enough to be worth an fdatasync, and few enough that another connection's vote does not
/// wait long. One message more may be in it.
pub(super) const LANE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Messages of one lane in one round.
pub(super) const LANE_MESSAGES_MAX: usize = 4096;

/// A message counts as this many bytes beside its WAL.
const MESSAGE_BYTES: usize = 512;

/// A message with lists of members or of a history counts as this many bytes, the most that it may have.
const LONG_MESSAGE_BYTES: usize = 16 * 1024;

/// The lanes of one timeline.
#[derive(Debug, Default)]
pub(super) struct LaneQueues(BTreeMap<ConnectionId, Lane>);

/// The messages of one connection.
#[derive(Debug, Default)]
pub(super) struct Lane {
    queue: VecDeque<Input>,
    bytes: usize,
    paused_until: Option<Instant>,
    /// Its connection was closed or is gone: the lane accepts no more messages.
    is_closing: bool,
}

impl Lane {
    /// True when one more message may be added.
    pub(super) fn has_room(&self) -> bool {
        !self.is_closing && self.bytes < LANE_BYTES_MAX && self.queue.len() < LANE_MESSAGES_MAX
    }

    /// Adds a message. A lane that is closing drops it.
    pub(super) fn push(&mut self, message: ProposerMessage) {
        if !self.is_closing {
            let input = Input::Message(message);
            self.bytes += input_bytes(&input);
            self.queue.push_back(input);
        }
    }

    /// True when no message waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    fn is_due(&self, now: Instant) -> bool {
        !self.queue.is_empty() && self.paused_until.is_none_or(|until| until <= now)
    }

    fn clear(&mut self) {
        self.queue.clear();
        self.bytes = 0;
    }
}

impl LaneQueues {
    /// Opens the lane of a connection.
    pub(super) fn open(&mut self, connection: ConnectionId) {
        self.0.entry(connection).or_default();
    }

    /// The lane of a connection, if there is one.
    pub(super) fn lane(&mut self, connection: ConnectionId) -> Option<&mut Lane> {
        self.0.get_mut(&connection)
    }

    /// Removes a lane and drops its messages.
    pub(super) fn remove(&mut self, connection: ConnectionId) {
        self.0.remove(&connection);
    }

    /// Drops the messages of a lane whose connection is being closed, and queues its disconnect.
    pub(super) fn discard(&mut self, connection: ConnectionId) {
        if let Some(lane) = self.0.get_mut(&connection) {
            *lane = Lane::default();
            self.disconnect(connection);
        }
    }

    /// Queues the disconnect of a connection that is gone, the last input of its lane. A lane that is paused for want of
    /// disk space drops its messages first: a dead connection must not lead its term until there is room.
    pub(super) fn disconnect(&mut self, connection: ConnectionId) {
        let Some(lane) = self.0.get_mut(&connection).filter(|lane| !lane.is_closing) else { return };
        if lane.paused_until.take().is_some() {
            lane.clear();
        }
        lane.is_closing = true;
        lane.queue.push_back(Input::Disconnected);
    }

    /// Takes the messages of every lane that is not paused.
    pub(super) fn next_batch(&mut self, now: Instant) -> Vec<(ConnectionId, Input)> {
        let mut batch = Vec::new();
        for (&connection, lane) in self.0.iter_mut().filter(|(_, lane)| lane.is_due(now)) {
            lane.paused_until = None;
            lane.bytes = 0;
            batch.extend(lane.queue.drain(..).map(|input| (connection, input)));
        }
        batch
    }

    /// Puts back the inputs that a round did not decide: the last ones of each of these connections, in their order. Their
    /// lanes pause until `retry_at`.
    pub(super) fn put_back(&mut self, undecided: Vec<(ConnectionId, Input)>, retry_at: Instant) {
        for (connection, input) in undecided.into_iter().rev() {
            let Some(lane) = self.0.get_mut(&connection) else { continue };
            lane.bytes += input_bytes(&input);
            lane.queue.push_front(input);
            lane.paused_until = Some(retry_at);
        }
    }

    /// Ends the pauses of all lanes: what they wait for has come.
    pub(super) fn resume(&mut self) {
        for lane in self.0.values_mut() {
            lane.paused_until = None;
        }
    }

    /// True when a lane has messages and is not paused.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.0.values().any(|lane| lane.is_due(now))
    }

    /// True when no lane has a message.
    pub(super) fn is_empty(&self) -> bool {
        self.0.values().all(Lane::is_empty)
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }
}

/// Bytes of WAL in an input.
pub(super) fn wal_bytes(input: &Input) -> usize {
    match input {
        Input::Message(ProposerMessage::Append(append)) => append.wal.len(),
        _ => 0,
    }
}

/// Bytes that an input takes in its lane.
fn input_bytes(input: &Input) -> usize {
    match input {
        Input::Message(
            ProposerMessage::Greeting(_) | ProposerMessage::Elected(_) | ProposerMessage::Configure(_),
        ) => LONG_MESSAGE_BYTES,
        _ => MESSAGE_BYTES + wal_bytes(input),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use consensus::{AppendRequest, VoteRequest};
    use std::time::Duration;
    use wal_types::{Generation, Lsn, ProposerId, Term};

    const OLD: ConnectionId = ConnectionId(1);
    const NEW: ConnectionId = ConnectionId(2);

    fn append(begin: u64, bytes: usize) -> ProposerMessage {
        ProposerMessage::Append(AppendRequest {
            generation: Generation(0),
            term: Term(1),
            epoch_start_lsn: Lsn(0),
            begin_lsn: Lsn(begin),
            commit_lsn: Lsn(0),
            truncate_lsn: Lsn(0),
            proposer_id: ProposerId::default(),
            wal: Bytes::from(vec![0; bytes]),
        })
    }

    fn vote() -> ProposerMessage {
        ProposerMessage::Vote(VoteRequest {
            replica: wal_types::ReplicaId([1; 16]),
            generation: Generation(0),
            term: Term(2),
            proposer_id: ProposerId::default(),
        })
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

    fn lanes() -> LaneQueues {
        let mut lanes = LaneQueues::default();
        lanes.open(OLD);
        lanes.open(NEW);
        lanes
    }

    fn push(lanes: &mut LaneQueues, connection: ConnectionId, message: ProposerMessage) {
        lanes.lane(connection).unwrap().push(message);
    }

    /// A vote does not wait behind the WAL of another connection.
    #[test]
    fn next_batch_has_share_of_every_lane() {
        let mut lanes = lanes();
        for begin in 0..200 {
            if lanes.lane(OLD).unwrap().has_room() {
                push(&mut lanes, OLD, append(begin, 128 * 1024));
            }
        }
        push(&mut lanes, NEW, vote());
        let batch = lanes.next_batch(Instant::now());
        let bytes: usize = batch.iter().map(|(_, input)| wal_bytes(input)).sum();
        assert!((LANE_BYTES_MAX / 2..=LANE_BYTES_MAX + 128 * 1024).contains(&bytes), "{bytes}");
        assert!(batch.iter().any(|(connection, _)| *connection == NEW));
        assert!(lanes.lane(OLD).unwrap().has_room());
    }

    #[test]
    fn lane_bounds_number_of_messages() {
        let mut lanes = lanes();
        let lane = lanes.lane(OLD).unwrap();
        let pushed = (0..).take_while(|_| lane.has_room().then(|| lane.push(vote())).is_some()).count();
        assert_eq!(pushed, LANE_MESSAGES_MAX);
    }

    /// Undecided inputs come first in the next batch of their lane, which pauses until then.
    #[test]
    fn put_back_keeps_order_and_pauses_lane() {
        let (mut lanes, now) = (lanes(), Instant::now());
        for begin in 1..=3 {
            push(&mut lanes, OLD, append(begin, LANE_BYTES_MAX / 2));
        }
        let mut undecided = lanes.next_batch(now);
        let _decided = undecided.remove(0);
        let later = now + Duration::from_secs(1);
        lanes.put_back(undecided, later);
        assert!(!lanes.lane(OLD).unwrap().has_room(), "undecided messages take room");

        push(&mut lanes, OLD, append(4, 8));
        assert!(!lanes.is_due(now) && !lanes.is_empty());
        push(&mut lanes, NEW, vote());
        assert!(lanes.is_due(now));
        assert_eq!(begins(&lanes.next_batch(now)), [(2, 0)]);
        assert!(!lanes.is_due(now) && lanes.is_due(later));
        assert_eq!(begins(&lanes.next_batch(later)), [(1, 2), (1, 3), (1, 4)]);
        assert!(lanes.is_empty() && lanes.lane(OLD).unwrap().has_room());
    }

    #[test]
    fn resumed_lane_is_due_at_once() {
        let (mut lanes, now) = (lanes(), Instant::now());
        push(&mut lanes, OLD, append(1, 8));
        let undecided = lanes.next_batch(now);
        lanes.put_back(undecided, now + Duration::from_secs(1));
        lanes.resume();
        assert_eq!(begins(&lanes.next_batch(now)), [(1, 1)]);
    }

    #[test]
    fn disconnect_of_paused_lane_is_due_now() {
        let (mut lanes, now) = (lanes(), Instant::now());
        push(&mut lanes, OLD, append(1, 8));
        let undecided = lanes.next_batch(now);
        lanes.put_back(undecided, now + Duration::from_secs(1));
        lanes.disconnect(OLD);
        push(&mut lanes, OLD, append(2, 8));
        assert!(matches!(lanes.next_batch(now)[..], [(OLD, Input::Disconnected)]));
    }

    #[test]
    fn discarded_lane_keeps_only_its_disconnect() {
        let (mut lanes, now) = (lanes(), Instant::now());
        push(&mut lanes, OLD, append(1, 8));
        lanes.discard(OLD);
        lanes.disconnect(OLD);
        push(&mut lanes, OLD, append(2, 8));
        assert!(!lanes.lane(OLD).unwrap().has_room());
        assert!(matches!(lanes.next_batch(now)[..], [(OLD, Input::Disconnected)]));
    }

    #[test]
    fn removed_lane_drops_its_messages() {
        let (mut lanes, now) = (lanes(), Instant::now());
        push(&mut lanes, OLD, append(1, 8));
        let undecided = lanes.next_batch(now);
        lanes.remove(OLD);
        lanes.put_back(undecided, now);
        assert!(lanes.lane(OLD).is_none() && !lanes.is_due(now));
    }
}
