//! [`Shard`]: the task of a shard's thread: its inbox, its connections, its timelines, and one timer.
//!
//! Every socket, the inbox and the timer wake this one task. A turn is a function that never waits, except for the disk.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use consensus::{ConnectionId, ProtocolVersion};
use pq_proto::{ErrorResponse, SqlState};
use tokio::sync::mpsc::{UnboundedReceiver, WeakUnboundedSender};
use tokio::time::{Instant as TokioInstant, Sleep, sleep};
use wal_store::Retention;

use super::command::{ShardCommand, TimelineKey};
use super::lent_copy::{LentCopy, PushEnd};
use super::owned_timeline::Delivery;
use super::proposer_connection::{ProposerConnection, Received, send_failed};
use super::ready_list::ReadyList;
use super::rounds::{Rounds, TICK_INTERVAL};
use super::workers::Workers;
use crate::data_dir::DataDirLock;
use crate::metrics::Metrics;

/// Interval in which the shard looks for proposers that are silent.
const SILENCE_CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// One shard. Only its own task touches it.
pub(super) struct Shard {
    inbox: UnboundedReceiver<ShardCommand>,
    /// The sending end of `inbox`, for the results of `workers`. Weak: the inbox ends with its other senders.
    own: WeakUnboundedSender<ShardCommand>,
    workers: Workers,
    connections: Connections,
    rounds: Rounds,
    ready: ReadyList,
    /// The connections of this turn; kept for its memory.
    ready_now: Vec<ConnectionId>,
    /// Connections whose lanes had no room: no event of their sockets tells that there is more to read.
    without_room: Vec<ConnectionId>,
    /// Connections that go back to their sessions when everything received is decided.
    draining: Vec<ConnectionId>,
    /// One timer, which is never made anew.
    next_tick: Pin<Box<Sleep>>,
    tick_interval: Duration,
    origin: Instant,
    silence_checked_at: Instant,
    is_stopping: bool,
    /// Keeps other processes out of the directory while this shard may write.
    _lock: DataDirLock,
}

/// The connections of a shard.
#[derive(Default)]
struct Connections {
    open: BTreeMap<ConnectionId, ProposerConnection>,
    /// Connections that failed while they were answered; their lanes still have to learn of it.
    failed: Vec<(TimelineKey, ConnectionId)>,
}

impl Connections {
    /// Sends a reply to a connection, or closes it. One that is gone needs neither.
    fn deliver(&mut self, id: ConnectionId, delivery: Delivery) {
        let Some(connection) = self.open.get_mut(&id) else { return };
        let end = match delivery {
            Delivery::Reply(reply) => match connection.reply(reply) {
                Ok(()) => return,
                Err(end) => {
                    self.failed.push((connection.key, id));
                    end
                }
            },
            Delivery::Close(reason) => send_failed(reason),
        };
        self.end(id, end);
    }

    /// Gives a connection back to its session, and returns its timeline.
    fn end(&mut self, id: ConnectionId, end: PushEnd) -> Option<TimelineKey> {
        let connection = self.open.remove(&id)?;
        let key = connection.key;
        connection.end(end);
        Some(key)
    }
}

impl Shard {
    /// A shard without timelines. Must be called in the shard's runtime.
    pub(super) fn new(
        inbox: UnboundedReceiver<ShardCommand>,
        own: WeakUnboundedSender<ShardCommand>,
        workers: Workers,
        retention: Retention,
        metrics: Metrics,
        lock: DataDirLock,
    ) -> Self {
        Self {
            inbox,
            own,
            workers,
            connections: Connections::default(),
            rounds: Rounds::new(retention, metrics),
            ready: ReadyList::default(),
            ready_now: Vec::new(),
            without_room: Vec::new(),
            draining: Vec::new(),
            next_tick: Box::pin(sleep(TICK_INTERVAL)),
            tick_interval: TICK_INTERVAL,
            origin: Instant::now(),
            silence_checked_at: Instant::now(),
            is_stopping: false,
            _lock: lock,
        }
    }

    /// Runs until [`ShardCommand::Stop`], and returns when everything received is on disk.
    pub(super) async fn run(mut self) {
        poll_fn(|cx| self.turn(cx)).await;
        let Self { rounds, connections, .. } = &mut self;
        rounds.finish(&mut |id, delivery| connections.deliver(id, delivery));
    }

    /// One turn: commands, messages, one round, and the tick when it is time.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.ready.set_shard(cx.waker());
        self.handle_commands(cx);

        let now = Instant::now();
        let mut ready_now = std::mem::take(&mut self.ready_now);
        self.ready.take(&mut ready_now);
        for id in ready_now.drain(..) {
            self.serve(id, now);
        }
        self.ready_now = ready_now;

        if self.rounds.is_due() {
            let Self { rounds, connections, .. } = self;
            rounds.round(now, &mut |id, delivery| connections.deliver(id, delivery));
        }
        self.tick_if_due(cx);
        for (key, work) in self.rounds.take_work() {
            self.workers.send(key, work, self.own.clone());
        }
        self.follow_up(now);

        if self.is_stopping {
            return Poll::Ready(());
        }
        if self.rounds.is_due() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn handle_commands(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(command) = self.inbox.poll_recv(cx) {
            match command {
                Some(ShardCommand::Own { key, timeline }) => self.rounds.own(key, *timeline),
                Some(ShardCommand::Serve { key, connection, version, lent }) => {
                    self.begin(key, connection, version, *lent);
                }
                Some(ShardCommand::Drain { connection }) => self.draining.push(connection),
                Some(ShardCommand::Close { connection }) => self.disconnect(connection, PushEnd::ByProposer),
                Some(ShardCommand::Bootstrap { key, members, answer }) => {
                    // Without the timeline the sender is dropped, which says that the shard does not own it.
                    let Self { rounds, connections, .. } = self;
                    let mut deliver = |id, delivery| connections.deliver(id, delivery);
                    if let Some(result) = rounds.bootstrap(key, members, &mut deliver) {
                        // The client may be gone.
                        let _ = answer.send(result);
                    }
                }
                Some(ShardCommand::WorkDone { key, done }) => {
                    let Self { rounds, connections, .. } = self;
                    rounds.finish_work(key, *done, Instant::now(), &mut |id, delivery| {
                        connections.deliver(id, delivery);
                    });
                }
                Some(ShardCommand::Stop) => self.is_stopping = true,
                None => {
                    self.is_stopping = true;
                    return;
                }
            }
        }
    }

    /// Takes over a connection. Its first turn reads what was read ahead.
    fn begin(&mut self, key: TimelineKey, id: ConnectionId, version: ProtocolVersion, lent: LentCopy) {
        let Some(lent) = lent.attach() else { return };
        let Some(readers) = self.rounds.open_lane(key, id) else {
            let reason = "this shard does not own the timeline";
            return lent.give_back(send_failed(ErrorResponse::fatal(SqlState::INTERNAL_ERROR, reason)));
        };
        let ready = self.ready.add(id);
        self.connections.open.insert(id, ProposerConnection::new(key, ready, lent, version, readers));
    }

    /// Reads from and writes to a connection whose socket is ready.
    fn serve(&mut self, id: ConnectionId, now: Instant) {
        let Some(connection) = self.connections.open.get_mut(&id) else { return };
        connection.ready.clear();
        let key = connection.key;
        let is_draining = self.draining.contains(&id);
        let Some(lane) = self.rounds.lane(key, id) else { return };

        let received = match connection.send_rest() {
            Ok(()) if is_draining => return,
            Ok(()) => connection.receive(lane, now),
            Err(end) => Err(end),
        };
        match received {
            Ok(Received::All) => self.rounds.enqueue(key, now),
            Ok(Received::UpToRoom) => {
                self.without_room.push(id);
                self.rounds.enqueue(key, now);
            }
            Err(end) => self.disconnect(id, end),
        }
    }

    /// Ends a connection. What was received is handled before its lane is removed.
    fn disconnect(&mut self, id: ConnectionId, end: PushEnd) {
        if let Some(key) = self.connections.end(id, end) {
            self.rounds.disconnect(key, id, Instant::now());
        }
    }

    /// After the replies: lanes of failed connections, connections that wait for room, and those that drain.
    fn follow_up(&mut self, now: Instant) {
        for (key, id) in self.connections.failed.drain(..) {
            self.rounds.discard(key, id, now);
        }

        let Self { connections, rounds, without_room, draining, .. } = self;
        without_room.retain(|id| {
            let Some(connection) = connections.open.get(id) else { return false };
            let has_room = rounds.lane(connection.key, *id).is_none_or(|lane| lane.has_room());
            if has_room {
                connection.ready.note();
            }
            !has_room
        });

        let mut drained = Vec::new();
        draining.retain(|id| {
            let Some(connection) = connections.open.get(id) else { return false };
            let is_drained = rounds.lane(connection.key, *id).is_none_or(|lane| lane.is_empty());
            drained.extend(is_drained.then_some(*id));
            !is_drained
        });
        for id in drained {
            self.disconnect(id, PushEnd::Drained);
        }
    }

    /// Runs the tick when it is time, and sets the time of the next one. A shard whose timelines are all idle wakes up seldom.
    fn tick_if_due(&mut self, cx: &mut Context<'_>) {
        let is_due = self.next_tick.as_mut().poll(cx).is_ready();
        if is_due {
            self.tick();
        }
        let interval = self.rounds.tick_interval();
        if is_due || interval < self.tick_interval {
            self.tick_interval = interval;
            self.next_tick.as_mut().reset(TokioInstant::now() + interval);
            // Only a timer that was polled wakes.
            if self.next_tick.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
    }

    fn tick(&mut self) {
        let Self { rounds, connections, .. } = self;
        rounds.tick(self.origin.elapsed(), &mut |id, delivery| connections.deliver(id, delivery));

        let now = Instant::now();
        if now.saturating_duration_since(self.silence_checked_at) >= SILENCE_CHECK_INTERVAL {
            self.silence_checked_at = now;
            let open = self.connections.open.iter();
            let silent: Vec<_> = open
                .filter_map(|(id, connection)| Some((*id, connection.check_silence(now).err()?)))
                .collect();
            for (id, end) in silent {
                self.disconnect(id, end);
            }
        }
    }
}
