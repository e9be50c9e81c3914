//! [`Cluster`]: nodes, primaries and writers, and what can happen to them. Each method is one event.

use std::time::Duration;

use consensus::{ConnectionId, ProposerMessage};
use rand::RngExt;
use rand::rngs::SmallRng;
use wal_store::{Input, Output, Rejection, StoreError};
use wal_types::{Lsn, NodeId, TenantTimelineId};

use crate::node::{Death, Node};
use crate::oracle::{Oracle, Violation};
use crate::primary::{Layout, Primary, START};
use crate::stats::Stats;
use crate::trace::Trace;
use crate::writer::{Event, Writer};

/// Writers that may live at once.
pub(crate) const WRITERS_MAX: usize = 3;

/// Everything that a schedule acts on.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) primaries: Vec<Primary>,
    layout: Layout,
    /// Nothing more goes wrong.
    pub(crate) is_calm: bool,
    pub(crate) writers: Vec<Option<Writer>>,
    pub(crate) oracle: Oracle,
    pub(crate) stats: Stats,
    pub(crate) trace: Trace,
    next_connection: u64,
    next_campaign: u128,
    /// Every nth commit is checked against the loss of power on all nodes.
    durability_check_every: u64,
    commits: u64,
}

impl Cluster {
    pub(crate) fn new(nodes: u64, layout: Layout, trace: Trace) -> Self {
        let members: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
        Self {
            nodes: members
                .iter()
                .map(|&id| Node::create(id, &members, TenantTimelineId::default()))
                .collect(),
            primaries: vec![Primary::new(layout)],
            layout,
            is_calm: false,
            writers: (0..WRITERS_MAX).map(|_| None).collect(),
            oracle: Oracle::default(),
            stats: Stats { schedules: 1, ..Stats::default() },
            trace,
            next_connection: 0,
            next_campaign: 0,
            durability_check_every: 4,
            commits: 0,
        }
    }

    /// Starts a campaign in `slot`, for a primary or as a recovery.
    pub(crate) fn start_writer(&mut self, slot: usize, primary: Option<usize>) {
        self.end_writer(slot);
        self.next_campaign += 1;
        let ids = self.nodes.iter().map(|node| node.id).collect();
        self.trace.line(format_args!(
            "writer {slot} starts campaign {} for primary {primary:?}",
            self.next_campaign
        ));
        self.writers[slot] = Some(Writer::new(TenantTimelineId::default(), self.next_campaign, primary, ids));
    }

    /// The writer's process or its primary's connection ends.
    pub(crate) fn end_writer(&mut self, slot: usize) {
        if let Some(writer) = self.writers[slot].take() {
            self.trace.line(format_args!("writer {slot} ends"));
            for (node, link) in writer.links {
                self.node(node).deliver(link.id, Input::Disconnected);
            }
        }
    }

    pub(crate) fn connect(&mut self, slot: usize, node: NodeId) {
        let Some(writer) = self.writers[slot].as_mut().filter(|writer| !writer.links.contains_key(&node))
        else {
            return;
        };
        if !self.nodes.iter().any(|one| one.id == node && one.is_up()) {
            return;
        }
        self.next_connection += 1;
        writer.connect(node, ConnectionId(self.next_connection));
    }

    /// Both ends lose the connection; what was on its way is lost.
    pub(crate) fn cut(&mut self, slot: usize, node: NodeId) {
        if let Some(link) = self.writers[slot].as_mut().and_then(|writer| writer.disconnect(node)) {
            self.trace.line(format_args!("cut writer {slot} - node {node}"));
            self.node(node).deliver(link.id, Input::Disconnected);
        }
    }

    /// Moves messages from a writer into its connection.
    pub(crate) fn send(&mut self, slot: usize, node: NodeId, count: usize) {
        self.fetch(slot, node);
        if let Some(writer) = &mut self.writers[slot] {
            writer.send(node, count);
        }
    }

    /// Feeds a laggard from its donor, as far as the donor's term allows.
    fn fetch(&mut self, slot: usize, node: NodeId) {
        let Some(writer) = &mut self.writers[slot] else { return };
        let Some(fetch) = writer.proposer.poll_fetch(node) else { return };
        let donor = self.nodes.iter().find(|one| one.id == fetch.donor);
        let Some((donor, snapshot)) = donor.and_then(|donor| Some((donor, donor.snapshot()?))) else {
            return;
        };
        if snapshot.term != writer.proposer.term() {
            return;
        }
        let until = fetch.until.min(snapshot.flush_lsn).min(fetch.from.advance(4096));
        let wal = donor.read(fetch.from, until);
        if !wal.is_empty() {
            assert!(
                writer.proposer.fetched(node, fetch.from, &wal.into()),
                "fetched from where it was asked for"
            );
        }
    }

    /// Moves up to `count` messages of a connection to the node.
    pub(crate) fn deliver(&mut self, slot: usize, node: NodeId, count: usize) {
        let Some(link) = self.writers[slot].as_mut().and_then(|writer| writer.links.get_mut(&node)) else {
            return;
        };
        let id = link.id;
        let count = count.min(link.to_node.len());
        let messages: Vec<ProposerMessage> = link.to_node.drain(..count).collect();
        let target = self.node(node);
        messages.into_iter().for_each(|message| target.deliver(id, Input::Message(message)));
    }

    /// A node takes up to `count` waiting messages as one batch.
    pub(crate) fn run_node(
        &mut self,
        node: NodeId,
        count: usize,
        rng: &mut SmallRng,
    ) -> Result<(), Violation> {
        let index = self.index(node);
        // A cut is a few operations in a thousand: without help a crash hardly ever comes between two of them.
        if !self.is_calm && self.nodes[index].may_cut(count) && rng.random_range(0..4) == 0 {
            self.nodes[index].plan_crash(rng);
        }
        let before = self.nodes[index].snapshot();
        let Some((batch, output)) = self.nodes[index].run(count) else { return Ok(()) };
        if batch.is_empty() && output.refused.is_empty() {
            return Ok(());
        }
        let crashed = self.nodes[index].disk.has_crashed();
        if disk_failed(&output) || crashed {
            let elected = |input: &Input| matches!(input, Input::Message(ProposerMessage::Elected(_)));
            self.oracle.begins_anew(node, batch.iter().any(|(_, input)| elected(input)));
        }
        if crashed {
            return self.crash(node, if rng.random() { Death::Power } else { Death::Process }, rng);
        }
        self.post(node, output);
        if let (Some(before), Some(after)) = (before, self.nodes[index].snapshot()) {
            // Each cut counts twice: before its first file goes and when it is done.
            self.stats.truncations += after.truncations.saturating_sub(before.truncations) / 2;
            let segment = |lsn: Lsn| crate::primary::SEGMENT_SIZE.segment_of(lsn);
            self.stats.segment_changes += segment(after.flush_lsn).saturating_sub(segment(before.flush_lsn));
            self.trace.mix(&[node.0, after.term.0, after.flush_lsn.0, after.commit_lsn.0]);
            self.trace.line(format_args!(
                "node {node}: {} messages, term {}, flush {}, commit {}",
                batch.len(),
                after.term,
                after.flush_lsn,
                after.commit_lsn
            ));
        }
        self.oracle.a_node_keeps_what_it_knows_committed(&self.nodes[index])
    }

    /// Replies go into the connections they are for; refused connections are cut.
    fn post(&mut self, node: NodeId, output: Output) {
        for (to, message) in output.replies {
            self.oracle.hear(node, &message);
            let writers = self.writers.iter_mut().flatten();
            if let Some(link) =
                writers.filter_map(|writer| writer.links.get_mut(&node)).find(|link| link.id == to)
            {
                link.to_writer.push_back(message);
            }
        }
        for (connection, refusal) in output.refused {
            self.trace.line(format_args!("node {node} refuses: {refusal}"));
            let with = |writer: &Option<Writer>| {
                writer
                    .as_ref()
                    .is_some_and(|writer| writer.links.get(&node).is_some_and(|link| link.id == connection))
            };
            if let Some(slot) = self.writers.iter().position(with) {
                self.cut(slot, node);
            }
        }
    }

    /// Time passes on a node.
    pub(crate) fn tick(
        &mut self,
        node: NodeId,
        passed: Duration,
        rng: &mut SmallRng,
    ) -> Result<(), Violation> {
        let index = self.index(node);
        let Some(output) = self.nodes[index].tick(passed) else { return Ok(()) };
        if self.nodes[index].disk.has_crashed() {
            return self.crash(node, Death::Power, rng);
        }
        if disk_failed(&output) {
            self.oracle.begins_anew(node, false);
        }
        self.post(node, output);
        self.oracle.a_node_keeps_what_it_knows_committed(&self.nodes[index])
    }

    /// Hands the next bytes of the primary's WAL to its writer.
    pub(crate) fn stream(&mut self, slot: usize, bytes: u64) {
        if let Some(writer) = &mut self.writers[slot]
            && let Some(primary) = writer.primary
        {
            writer.stream(&self.primaries[primary], bytes);
        }
    }

    /// A writer takes the next message of a node in.
    pub(crate) fn receive(&mut self, slot: usize, node: NodeId) -> Result<(), Violation> {
        let Some(writer) = &mut self.writers[slot] else { return Ok(()) };
        let primary = writer.primary.map(|index| &self.primaries[index]);
        for event in writer.receive(node, primary) {
            self.happened(slot, event)?;
        }
        Ok(())
    }

    fn happened(&mut self, slot: usize, event: Event) -> Result<(), Violation> {
        match event {
            Event::Leads(election) => {
                self.stats.elections += 1;
                self.trace
                    .line(format_args!("writer {slot} leads term {} from {}", election.term, election.start));
                self.trace.mix(&[election.term.0, election.start.0, election.donor.0]);
                let campaign = self.writers[slot].as_ref().map(Writer::campaign).unwrap_or_default();
                self.oracle.one_leader_per_term(election.term, campaign)
            }
            Event::Committed(lsn) => self.committed(slot, lsn),
            Event::Cut(node) => {
                self.cut(slot, node);
                Ok(())
            }
            Event::Ended => {
                self.end_writer(slot);
                Ok(())
            }
        }
    }

    fn committed(&mut self, slot: usize, lsn: Lsn) -> Result<(), Violation> {
        self.trace.line(format_args!("writer {slot} commits {lsn}"));
        self.trace.mix(&[lsn.0]);
        let Some(writer) = &self.writers[slot] else { return Ok(()) };
        match writer.primary {
            Some(index) => {
                let primary = &self.primaries[index];
                self.oracle.a_commit_is_a_record_end(primary, lsn)?;
                self.oracle.committed_bytes_never_change(primary.slice(START, lsn))?;
                self.stats.committed_records = self.stats.committed_records.max(primary.records_up_to(lsn));
            }
            None => {
                // A recovery has no log of its own: what it settled is what the nodes under it hold, on disks that may
                // have stopped a moment ago.
                let term = writer.proposer.term();
                let followers =
                    self.nodes.iter().filter(|node| node.snapshot().is_some_and(|at| at.term == term));
                if let Some(log) = followers.filter_map(|node| node.after_power_loss(lsn).ok()).next() {
                    self.oracle.committed_bytes_never_change(&log)?;
                }
            }
        }
        self.commits += 1;
        if self.commits.is_multiple_of(self.durability_check_every) && self.oracle.commit_lsn() >= lsn {
            self.oracle.a_commit_is_durable_on_a_quorum(self.nodes.iter(), lsn)?;
        }
        Ok(())
    }

    /// A node goes down; its connections with it.
    pub(crate) fn crash(&mut self, node: NodeId, death: Death, rng: &mut SmallRng) -> Result<(), Violation> {
        let index = self.index(node);
        if !self.nodes[index].is_up() {
            return Ok(());
        }
        self.stats.crashes += 1;
        self.trace.line(format_args!("node {node} dies: {death:?}"));
        self.trace.mix(&[node.0, u64::from(death == Death::Power)]);
        self.nodes[index].die(death, rng);
        for writer in self.writers.iter_mut().flatten() {
            writer.disconnect(node);
        }
        Ok(())
    }

    /// A node that is down starts.
    pub(crate) fn start_node(&mut self, node: NodeId, rng: &mut SmallRng) -> Result<(), Violation> {
        let index = self.index(node);
        if self.nodes[index].is_up() {
            return Ok(());
        }
        match self.nodes[index].start() {
            Ok(()) => {}
            Err(StoreError::Corrupt(what)) => {
                let detail = format!("node {node} believes that it lost something: {what}");
                return Err(Violation { invariant: "a_node_that_lost_nothing_starts", detail });
            }
            // No room, or another crash: it can be tried again.
            Err(error) => {
                self.trace.line(format_args!("node {node} does not start: {error}"));
                self.nodes[index].die(Death::Power, rng);
                return Ok(());
            }
        }
        self.trace.line(format_args!("node {node} starts"));
        self.oracle.a_restart_forgets_nothing(&self.nodes[index])
    }

    /// A standby that replayed what is committed becomes a primary: after a recovery has settled the log.
    pub(crate) fn promote(&mut self) -> usize {
        self.stats.failovers += 1;
        self.primaries.push(Primary::from_log(self.oracle.committed().to_vec(), self.layout));
        self.primaries.len() - 1
    }

    /// Compares all logs with each other.
    pub(crate) fn compare_logs(&self) -> Result<(), Violation> {
        for (index, one) in self.nodes.iter().enumerate() {
            for other in &self.nodes[index + 1..] {
                self.oracle.logs_match_where_histories_do(one, other)?;
            }
        }
        Ok(())
    }

    pub(crate) fn index(&self, node: NodeId) -> usize {
        node.0 as usize - 1
    }

    fn node(&mut self, node: NodeId) -> &mut Node {
        let index = self.index(node);
        &mut self.nodes[index]
    }
}

fn disk_failed(output: &Output) -> bool {
    output.refused.iter().any(|(_, why)| matches!(why, Rejection::Disk(_)))
}
