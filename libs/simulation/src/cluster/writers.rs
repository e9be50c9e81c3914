//! Events of writers: they begin, stream, receive replies, lead, commit and end. Standbys are promoted.

use candidacy::EndKind;
use consensus::{Dialect, LostTerm, ProtocolVersion};
use rand::RngExt;
use wal_store::Snapshot;
use wal_types::{Lsn, NodeId, ProposerId, Term, Tli};

use super::Cluster;
use crate::invariants::Violation;
use crate::mirror::offset;
use crate::node::Node;
use crate::primary::{Primary, START, Timeline};
use crate::writer::{Campaign, Writer, WriterEvent, primary_id};

/// One commit in this many is checked against a power failure of all nodes.
const DURABILITY_CHECK_EVERY: u64 = 8;

impl Cluster {
    /// Starts a campaign in `slot`, for a primary or as a recovery, that knows of all nodes.
    pub(crate) fn start_writer(&mut self, slot: usize, primary: Option<usize>) {
        let usable = self.nodes.iter().filter(|node| !node.is_gone || node.anew > 0);
        let usable = usable.map(|node| node.id).collect();
        self.start_writer_among(slot, primary, usable);
    }

    /// Starts a campaign whose operator lists only the copies that no one has told their members. Two machines of three were
    /// replaced, say, and the third is not listed.
    pub(crate) fn start_writer_among_newcomers(&mut self, slot: usize) {
        let is_new = |node: &&Node| {
            node.serving().is_some_and(|at| at.configuration.is_unset() && at.history.entries().is_empty())
        };
        let newcomers: Vec<NodeId> = self.nodes.iter().filter(is_new).map(|node| node.id).collect();
        if newcomers.is_empty() {
            return;
        }
        self.stats.newcomer_campaigns += 1;
        self.start_writer_among(slot, None, newcomers.clone());
        newcomers.into_iter().for_each(|node| self.connect(slot, node));
    }

    fn start_writer_among(&mut self, slot: usize, primary: Option<usize>, safekeepers: Vec<NodeId>) {
        self.end_writer(slot);
        self.end_kinds[slot] = EndKind::Other;
        self.next_campaign += 1;
        let version = match self.dialect {
            Dialect::Holdfast => ProtocolVersion::Holdfast2,
            Dialect::Neon if self.rng.random() => ProtocolVersion::V2,
            Dialect::Neon => ProtocolVersion::V3,
        };
        let id = ProposerId(self.next_campaign.to_be_bytes());
        let campaign = Campaign { id, version, primary, term_floor: self.term_floors[slot] };
        self.trace
            .line(format_args!("writer {slot} starts campaign {id} for primary {primary:?}, {version:?}"));
        let server = primary.map(|index| &self.primaries[index]);
        self.writers[slot] = Some(Writer::new(&campaign, server, safekeepers));
    }

    /// Ends the writer: its process or its primary's connection has ended.
    pub(crate) fn end_writer(&mut self, slot: usize) {
        if let Some(writer) = self.writers[slot].take() {
            self.trace.line(format_args!("writer {slot} ends"));
            for (node, link) in writer.links {
                self.abandon(node, link);
            }
        }
    }

    /// Gives the next bytes of the primary's WAL to its writer.
    pub(crate) fn stream(&mut self, slot: usize, bytes: u64) {
        if let Some(writer) = &mut self.writers[slot]
            && let Some(primary) = writer.primary
        {
            writer.stream(&self.primaries[primary], bytes);
        }
    }

    /// A writer handles the next message of a node.
    pub(crate) fn receive(&mut self, slot: usize, node: NodeId) -> Result<(), Violation> {
        let Some(writer) = &mut self.writers[slot] else { return Ok(()) };
        let primary = writer.primary.map(|index| &self.primaries[index]);
        for event in writer.receive(node, primary) {
            self.handle_event(slot, event)?;
        }
        self.check_recovery_persisted(slot)
    }

    fn handle_event(&mut self, slot: usize, event: WriterEvent) -> Result<(), Violation> {
        match event {
            WriterEvent::Leads(election) => {
                self.stats.elections += 1;
                self.trace
                    .line(format_args!("writer {slot} leads term {} from {}", election.term, election.start));
                self.trace.mix(&[election.term.0, election.start.0, election.donor.0]);
                let sets = self.sets(slot);
                let Some(writer) = &mut self.writers[slot] else { return Ok(()) };
                let campaign = writer.campaign;
                let dialect = self.dialect;
                if let Some(primary) = writer.primary.filter(|_| dialect == Dialect::Neon) {
                    self.primaries[primary].led = Some(election.term);
                }
                let voters = self.oracle.one_leader_per_term(election.term, campaign, &sets)?;
                let steps = std::mem::take(&mut writer.steps);
                self.oracle.quorums_of_neighbouring_configurations_intersect(sets, voters, steps)?;
                if let Some(primary) = writer.primary.filter(|_| dialect == Dialect::Holdfast) {
                    self.oracle.record_term_primary(election.term, primary_id(primary));
                    self.oracle.only_the_designated_primary_writes()?;
                }
                self.oracle.record_term_start(&election);
                self.oracle.term_begins_above_all_commits()
            }
            WriterEvent::Committed(lsn) => self.committed(slot, lsn),
            WriterEvent::Configured(configuration) => self.configured(slot, &configuration),
            WriterEvent::Disconnect(node) => {
                self.cut_connection(slot, node);
                Ok(())
            }
            WriterEvent::Diverged => {
                self.end_kinds[slot] = EndKind::Diverged;
                self.end_writer(slot);
                Ok(())
            }
            WriterEvent::Ended(lost) => {
                self.end_kinds[slot] = match lost {
                    Some(LostTerm::Deposed { term, .. }) => EndKind::Rival { term },
                    Some(LostTerm::Outvoted(_)) => EndKind::Rival { term: Term::ZERO },
                    _ => EndKind::Other,
                };
                if let Some(LostTerm::Deposed { term, .. }) = lost {
                    self.term_floors[slot] = self.term_floors[slot].max(term);
                }
                self.end_writer(slot);
                Ok(())
            }
        }
    }

    fn committed(&mut self, slot: usize, lsn: Lsn) -> Result<(), Violation> {
        self.trace.line(format_args!("writer {slot} commits {lsn}"));
        self.trace.mix(&[lsn.0]);
        let sets = self.sets(slot);
        let Some(writer) = &mut self.writers[slot] else { return Ok(()) };
        let term = writer.engine.term();

        let quorum = self.oracle.commit_is_acknowledged_by_a_majority(term, lsn, &sets)?;
        let steps = std::mem::take(&mut writer.steps);
        self.oracle.quorums_of_neighbouring_configurations_intersect(sets.clone(), quorum, steps)?;
        self.oracle.record_term_commit(term, lsn);
        self.oracle.term_begins_above_all_commits()?;

        let writes = match writer.primary {
            Some(index) => Some(index),
            None => self.primary_of_recovered_log(slot, lsn)?,
        };
        if let Some(index) = writes {
            let primary = &self.primaries[index];
            self.oracle.timeline_number_begins_once(primary.timeline, lsn)?;
            self.oracle.commit_is_a_record_end(primary, lsn)?;
            self.oracle.committed_bytes_never_change(primary.slice(START, lsn))?;
            self.stats.committed_records = self.stats.committed_records.max(primary.records_up_to(lsn));
        }

        self.commits += 1;
        if self.commits.is_multiple_of(DURABILITY_CHECK_EVERY) && self.oracle.commit_lsn() >= lsn {
            self.oracle.commit_is_durable_on_a_quorum(self.nodes.iter(), &sets, term, lsn)?;
        }
        Ok(())
    }

    /// The primary that wrote the log which a recovery committed. A recovery has no WAL of its own; its committed log
    /// is what the nodes that follow it hold.
    fn primary_of_recovered_log(&mut self, slot: usize, lsn: Lsn) -> Result<Option<usize>, Violation> {
        let Some(writer) = &self.writers[slot] else { return Ok(None) };
        let term = writer.engine.term();
        let follows = |node: &&Node| {
            // A node that has only voted may still have a dead tail.
            let led_by =
                |at: &Snapshot| at.term == term && at.history.last().is_some_and(|last| last.term == term);
            node.serving().is_some_and(|at| led_by(&at))
        };

        let holders = self
            .nodes
            .iter()
            .filter(|node| node.is_mirrored())
            .filter(follows)
            .filter(|node| !self.oracle.is_damaged(node.id));
        let mut holders =
            holders.filter(|node| node.mirror.end() >= lsn && node.mirror.base() <= self.oracle.commit_lsn());

        let Some(holder) = holders.next() else { return Ok(None) };
        let (held, tli) = (&holder.mirror, holder.serving().and_then(|at| at.history.tli_at(lsn)));
        // Everything below the start of a later log is committed.
        let committed = &self.oracle.committed()[..offset(held.base())];
        let log = &[committed, held.slice(held.base(), lsn)].concat();
        let wrote =
            |primary: &Primary| primary.flush_lsn() >= lsn && primary.slice(START, lsn) == log.as_slice();

        // Of several primaries with these bytes the first promoted one wrote them. A segment switch has the same bytes
        // on every timeline, so the timeline is compared first.
        let on_timeline = |primary: &Primary| Some(primary.timeline.tli) == tli && wrote(primary);
        let primaries = || self.primaries.iter();
        let wrote = primaries().position(on_timeline).or_else(|| primaries().position(wrote));
        self.oracle.committed_bytes_were_written_by_a_primary(wrote.is_some(), lsn)?;
        Ok(wrote)
    }

    /// Checks a recovery that has just finished.
    fn check_recovery_persisted(&mut self, slot: usize) -> Result<(), Violation> {
        let sets = self.sets(slot);
        let Some(writer) = self.writers[slot]
            .as_mut()
            .filter(|writer| !writer.has_reported_recovery && writer.primary.is_none())
        else {
            return Ok(());
        };
        if !writer.is_recovery_done() {
            return Ok(());
        }
        writer.has_reported_recovery = true;
        let start = writer.engine.election().map_or(START, |election| election.start);
        self.oracle.recovered_commit_is_persisted_on_a_quorum(self.nodes.iter(), &sets, start)
    }

    /// Promotes a standby that replayed the committed log, after a recovery in `slot` has finished. PostgreSQL takes
    /// the next free timeline number that it knows of; a server that is only restarted keeps the old one. Returns the
    /// new primary's index.
    pub(crate) fn promote(&mut self, slot: usize) -> usize {
        self.stats.failovers += 1;
        let election = self.writers[slot].as_ref().and_then(|writer| writer.engine.election());
        let (recovered, log_tli) = election.map_or((START, None), |election| (election.start, election.tli));
        let wal = &self.oracle.committed()[..offset(self.promotion_point(slot, recovered))];
        let (end, ordinal) = (START.advance(wal.len() as u64), self.primaries.len());

        let parent = self.timeline_at(wal);
        // A server that was elected here and wrote nothing that lasted may have taken a number.
        let may_stay = log_tli.is_none_or(|log| log == parent.tli);
        let timeline = if self.dialect == Dialect::Neon || (may_stay && self.rng.random_range(0..3) == 0) {
            parent
        } else {
            self.stats.timeline_switches += 1;
            Timeline { tli: Tli(parent.tli.0 + 1), fork: Some((parent.tli, end)), begun_by: ordinal }
        };

        let wal = wal.to_vec();
        self.primaries.push(Primary::promoted(wal, self.layout, timeline));
        ordinal
    }

    /// The newest primary is gone, and an operator starts it again from an image that lacks up to `records_max` records: they
    /// may be committed, or known to one node only, or not yet sent. It writes other WAL from there on.
    pub(crate) fn restore_primary(&mut self, records_max: usize) {
        let (Some(newest), Dialect::Holdfast) = (self.primaries.last(), self.dialect) else { return };
        let wal = newest.without_last_records(self.rng.random_range(0..=records_max)).to_vec();
        let timeline = newest.timeline;
        // An image from before its promotion would still be the server that it was.
        if timeline.fork.is_some_and(|(_, at)| START.advance(wal.len() as u64) < at) {
            return;
        }
        let gone = self.primaries.len() - 1;
        let of_gone = |writer: &Option<Writer>| writer.as_ref().is_some_and(|one| one.primary == Some(gone));
        for slot in (0..self.writers.len()).filter(|&slot| of_gone(&self.writers[slot])).collect::<Vec<_>>() {
            self.end_writer(slot);
        }
        self.stats.restored_primaries += 1;
        self.trace.line(format_args!("primary {gone} is restored from an image, as primary {}", gone + 1));
        self.primaries.push(Primary::promoted(wal, self.layout, timeline));
    }

    /// A clone of a primary from before its last record. Returns the clone's index.
    pub(crate) fn roll_back(&mut self, primary: usize) -> usize {
        let Primary { timeline, .. } = self.primaries[primary];
        let wal = self.primaries[primary].without_last_records(1).to_vec();
        self.primaries.push(Primary::promoted(wal, self.layout, timeline));
        self.primaries.len() - 1
    }

    /// End of the log that a promoted standby has. It receives WAL until its promotion, so it may have more than the
    /// recovery's start.
    fn promotion_point(&self, slot: usize, recovered: Lsn) -> Lsn {
        let has_more = self.dialect == Dialect::Holdfast && slot == 1;
        let commit = self.oracle.commit_lsn();
        if has_more { commit } else { recovered.min(commit) }
    }

    /// The newest timeline that a server which replayed `wal` knows.
    fn timeline_at(&self, wal: &[u8]) -> Timeline {
        let end = START.advance(wal.len() as u64);
        let has = |primary: &&Primary| primary.flush_lsn() >= end && primary.slice(START, end) == wal;
        let has_begun = |timeline: &Timeline| timeline.fork.is_none_or(|(_, at)| at < end);
        let timelines = self.primaries.iter().filter(has).map(|primary| primary.timeline).filter(has_begun);
        timelines.max_by_key(|timeline| timeline.tli).unwrap_or(Timeline::FIRST)
    }
}
