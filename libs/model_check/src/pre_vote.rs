//! Start of campaigns: a pre-vote by all nodes as one step.

use consensus::CampaignPhase;

use crate::names::{WRITERS, id};
use crate::shared::Shared;
use crate::state::ClusterState;
use crate::step::Step;
use crate::writer::{self, Writer};

impl Step<'_> {
    /// Starts a campaign and takes it up to its vote requests. The pre-vote is one step, because it changes no node. It
    /// leaves the campaign only its term and the newest reported configuration. So all nodes report an empty log, the
    /// term before, and the same configuration: one that some nodes hold or once held. The other nodes might have
    /// reported an older one, as all nodes held the first one at the beginning.
    pub(crate) fn begin_campaign(
        mut self,
        writer: usize,
        term: u64,
        configuration: usize,
    ) -> Option<ClusterState> {
        self.end_campaign(writer);
        let mut acting = Writer::clone(&self.state.writers[writer]);
        acting.last_term = term;
        self.pre_vote(&mut acting, writer, term, configuration)?;
        self.finish(writer, acting)
    }

    /// Ends everything of earlier terms, and begins the next term.
    pub(crate) fn next_term(mut self, configurations: [usize; WRITERS]) -> ClusterState {
        self.state.term += 1;
        let term = self.state.term;
        for writer in 0..WRITERS {
            self.end_campaign(writer);
            for node in 0..self.state.nodes.len() {
                self.drop_late_messages(writer, node);
            }
        }

        self.ledger(|ledger| ledger.elected.clear());
        for node in &mut self.state.nodes {
            node.change(|node| node.current_term = term);
        }

        for (writer, configuration) in configurations.into_iter().enumerate() {
            let mut acting = Writer::clone(&self.state.writers[writer]);
            // A primary whose WAL matches no log is replaced by a standby if its campaign is won, whatever its WAL is.
            if !self.state.nodes.iter().any(|node| acting.wal.starts_with(node.log())) {
                acting.wal.clear();
            }
            if self.pre_vote(&mut acting, writer, term, configuration).is_none() {
                acting.campaign = None;
            }
            let lost = acting.campaign.is_none();
            self.state.writers[writer] = Shared::new(acting);
            if lost {
                self.state.writers[writer].change(|writer| writer.campaign = None);
                (0..self.state.nodes.len()).for_each(|node| self.close_if_open(writer, node));
            }
        }
        self.state
    }

    /// Runs the pre-vote of a campaign for `term`, in which nodes report the configuration with this index in the
    /// ledger; `None` when the campaign ends there.
    fn pre_vote(
        &mut self,
        acting: &mut Writer,
        writer: usize,
        term: u64,
        configuration: usize,
    ) -> Option<()> {
        let nodes = self.state.nodes.len();
        let reported = self.state.ledger.configurations.get(configuration)?.clone();
        acting.campaign = Some(writer::proposer(writer, nodes, self.bounds.kind));
        for node in 0..nodes {
            let proposer = acting.campaign.as_mut()?;
            proposer.connected(id(node));
            let greeting = proposer.poll_send(id(node))?;
            proposer.receive(id(node), writer::pre_vote_greeting(id(node), term, reported.clone())).ok()?;
            proposer.poll_send(id(node))?;
            proposer.receive(id(node), writer::pre_vote_response(term, reported.clone())).ok()?;
            self.link_mut(writer, node, |link| link.is_open = true);
            self.deliver(acting, writer, node, greeting, usize::MAX);
            self.link_mut(writer, node, |link| link.to_writer.clear());
        }
        let proposer =
            acting.campaign.as_mut().filter(|proposer| proposer.phase() == CampaignPhase::PreVoted)?;

        proposer.request_votes().ok()?;

        if self.bounds.messages_wait() && !self.bounds.interleaved {
            // A vote request that is sent late is the same as one that arrives late.
            for node in 0..nodes {
                let request = acting.campaign.as_mut()?.poll_send(id(node));
                self.link_mut(writer, node, |link| link.to_node.extend(request));
            }
        }
        Some(())
    }

    fn close_if_open(&mut self, writer: usize, node: usize) {
        if self.link(writer, node).is_open {
            self.close(writer, node);
        }
    }
}
