//! [`Writer`]: a `Proposer` with its connections and the checks against the primary that walproposer makes around it.

use std::collections::{BTreeMap, VecDeque};

use consensus::{
    AcceptorMessage, Action, ConnectionId, Election, Proposer, ProposerMessage, ProposerOptions, WalBuffer,
};
use wal_types::{Lsn, NodeId, ProposerId, TenantTimelineId, Term, Tli};

use crate::primary::{CONTEXT, Primary, SEGMENT_SIZE};

/// WAL that a simulated proposer keeps in memory: little, so that laggards are fed by donors.
const SEND_BUFFER_BYTES_MAX: u64 = 8 * 1024;

/// A connection of a writer to a node: two queues that are cut together.
pub(crate) struct Link {
    pub(crate) id: ConnectionId,
    pub(crate) to_node: VecDeque<ProposerMessage>,
    pub(crate) to_writer: VecDeque<AcceptorMessage>,
}

/// What a writer learns that the oracle must hear of.
pub(crate) enum Event {
    /// It begins to lead.
    Leads(Election),
    /// It told its primary that everything below is safe.
    Committed(Lsn),
    /// It wants to close a connection.
    Cut(NodeId),
    /// It gave up: deposed, or the log and the primary disagree.
    Ended,
}

/// One campaign and, if it wins, its term.
pub(crate) struct Writer {
    /// The primary that it writes for; none for a recovery.
    pub(crate) primary: Option<usize>,
    campaign: ProposerId,
    pub(crate) proposer: Proposer,
    pub(crate) links: BTreeMap<NodeId, Link>,
    /// What the primary's bytes below the term's start sum up to, while the donor is being asked.
    expected_checksum: Option<(Election, u32)>,
}

impl Writer {
    pub(crate) fn new(
        id: TenantTimelineId,
        campaign: u128,
        primary: Option<usize>,
        safekeepers: Vec<NodeId>,
    ) -> Self {
        let with_primary = primary.is_some();
        let campaign = ProposerId(campaign.to_be_bytes());
        let proposer = Proposer::new(ProposerOptions {
            id,
            proposer_id: campaign,
            segment_size: SEGMENT_SIZE,
            system_id: if with_primary { CONTEXT.system_id } else { Default::default() },
            pg_version: if with_primary { 150_000 } else { 0 },
            tli: with_primary.then_some(Tli::FIRST),
            term_floor: Term::ZERO,
            primary: None,
            safekeepers,
            send_buffer_bytes_max: SEND_BUFFER_BYTES_MAX,
        });
        Self { primary, campaign, proposer, links: BTreeMap::new(), expected_checksum: None }
    }

    /// Name of this campaign.
    pub(crate) const fn campaign(&self) -> ProposerId {
        self.campaign
    }

    /// True when a recovery has nothing left to do.
    pub(crate) fn is_settled(&self) -> bool {
        let election = self.proposer.election();
        election.is_some_and(|election| self.proposer.commit_lsn() >= election.start)
            && self.proposer.start_is_settled()
    }

    /// Opens a connection to `node`.
    pub(crate) fn connect(&mut self, node: NodeId, id: ConnectionId) {
        self.links.insert(node, Link { id, to_node: VecDeque::new(), to_writer: VecDeque::new() });
        self.proposer.connected(node);
    }

    /// Notices that the connection to `node` is gone; what was on its way is lost.
    pub(crate) fn disconnect(&mut self, node: NodeId) -> Option<Link> {
        self.proposer.disconnected(node);
        self.links.remove(&node)
    }

    /// Moves up to `count` messages from the proposer into the connection.
    pub(crate) fn send(&mut self, node: NodeId, count: usize) -> usize {
        let Some(link) = self.links.get_mut(&node) else { return 0 };
        let messages: Vec<_> = std::iter::from_fn(|| self.proposer.poll_send(node)).take(count).collect();
        let sent = messages.len();
        link.to_node.extend(messages);
        sent
    }

    /// Takes the next message of `node` in.
    pub(crate) fn receive(&mut self, node: NodeId, primary: Option<&Primary>) -> Vec<Event> {
        let Some(message) = self.links.get_mut(&node).and_then(|link| link.to_writer.pop_front()) else {
            return Vec::new();
        };
        match self.proposer.receive(node, message) {
            Ok(actions) => actions.into_iter().flat_map(|action| self.act(action, primary)).collect(),
            Err(_) => vec![Event::Ended],
        }
    }

    /// Hands the next `bytes` of the primary's WAL to the proposer.
    pub(crate) fn stream(&mut self, primary: &Primary, bytes: u64) {
        let from = self.proposer.received_lsn();
        let to = from.advance(bytes).min(primary.flush_lsn());
        if self.proposer.wants_wal() && from < to {
            assert!(self.proposer.append(from, primary.read(from, to)), "the stream has no holes");
        }
    }

    fn act(&mut self, action: Action, primary: Option<&Primary>) -> Vec<Event> {
        match action {
            Action::Surveyed { flush_lsn, .. } => {
                if primary.is_some_and(|primary| primary.flush_lsn() < flush_lsn)
                    || self.proposer.campaign().is_err()
                {
                    return vec![Event::Ended];
                }
                Vec::new()
            }
            Action::Elected(election) => self.check(election, primary),
            Action::Checksum { from, response } => {
                let asked = self.expected_checksum.take_if(|(election, _)| election.donor == from);
                match asked {
                    Some((election, sum)) if response.crc32c == Some(sum) => self.lead(election, primary),
                    Some(_) => vec![Event::Ended],
                    None => Vec::new(),
                }
            }
            Action::Committed(lsn) => vec![Event::Committed(lsn)],
            Action::Configured(_) => Vec::new(),
            Action::Reset(node) => vec![Event::Cut(node)],
        }
    }

    /// Between the votes and the first message that cuts a log: is the primary's WAL the log's?
    fn check(&mut self, election: Election, primary: Option<&Primary>) -> Vec<Event> {
        let Some(primary) = primary else { return self.lead(election, None) };
        if primary.flush_lsn() < election.start {
            return vec![Event::Ended];
        }
        let from = election.compare_from(SEGMENT_SIZE);
        let sum = crc32c::crc32c(primary.slice(from, election.start));
        self.proposer.ask_checksum(election.donor, from, election.start);
        self.expected_checksum = Some((election, sum));
        Vec::new()
    }

    fn lead(&mut self, election: Election, primary: Option<&Primary>) -> Vec<Event> {
        let mut wal = WalBuffer::new(primary.map_or(election.start, |_| election.compare_from(SEGMENT_SIZE)));
        if let Some(primary) = primary {
            assert!(
                wal.push(wal.end(), primary.read(wal.end(), election.start)),
                "an empty buffer takes everything"
            );
        }
        self.proposer.approve(wal);
        vec![Event::Leads(election)]
    }
}
