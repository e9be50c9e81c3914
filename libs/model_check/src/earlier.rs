//! Checks that an earlier term is over: for a node that promised a higher term, and for a campaign that learns of one.
//! So terms can be explored one after the other; see [`Action::NextTerm`](crate::action::Action::NextTerm).

use consensus::{
    AcceptorGreeting, AcceptorMessage, AppendRequest, AppendResponse, ConfigureRequest, ConfigureResponse,
    ConnectionId, HotStandbyFeedback, PeerState, PreVoteResponse, Proposer, ProposerElected, ProposerMessage,
    VoteRequest, VoteResponse,
};
use wal_types::{Lsn, Term};

use crate::coverage::Coverage;
use crate::names::{CONNECTIONS, WRITERS, campaign, nth_connection};
use crate::node::{Delivery, Node};
use crate::record::{RECORD_BYTES, START, lsn};
use crate::writer::{self, Writer};

/// True when the node rejects every request of an earlier term, over all its connections, and every vote request of its
/// own term by another campaign.
pub(crate) fn is_over_for_node(node: &Node) -> bool {
    let own = node.acceptor.state().term;
    let connections = (0..CONNECTIONS).map(nth_connection);
    let votes = (0..WRITERS).map(campaign);
    let others =
        votes.filter(|campaign| node.acceptor.state().voted_for != Some(*campaign) && own > Term::ZERO);

    for proposer_id in others {
        let generation = node.acceptor.state().configuration.generation;
        let vote = ProposerMessage::Vote(VoteRequest {
            replica: wal_types::ReplicaId::default(),
            generation,
            term: own,
            proposer_id,
        });
        if !connections.clone().all(|from| is_rejected(node, from, vote.clone())) {
            return false;
        }
    }

    let rejects = |term: u64, from: ConnectionId| {
        earlier_requests(node, Term(term)).into_iter().all(|message| is_rejected(node, from, message))
    };
    connections.clone().all(|from| (1..own.0).all(|term| rejects(term, from)))
}

/// All requests that a campaign of `term` may send to the node.
fn earlier_requests(node: &Node, term: Term) -> Vec<ProposerMessage> {
    let state = node.acceptor.state();
    let (configuration, generation) = (state.configuration.clone(), state.configuration.generation);
    let mut messages: Vec<ProposerMessage> = Vec::new();

    for campaigner in 0..WRITERS {
        let proposer_id = campaign(campaigner);
        messages.push(ProposerMessage::Vote(VoteRequest {
            replica: wal_types::ReplicaId::default(),
            generation,
            term,
            proposer_id,
        }));
        for at in 0..=node.log().len() {
            let wal = vec![0; RECORD_BYTES].into();
            let (begin_lsn, commit_lsn) = (lsn(at), lsn(at + 1));
            let (epoch_start_lsn, truncate_lsn) = (Lsn::INVALID, lsn(at));
            messages.push(ProposerMessage::Append(AppendRequest {
                generation,
                term,
                epoch_start_lsn,
                begin_lsn,
                commit_lsn,
                truncate_lsn,
                proposer_id,
                wal,
            }));
        }
    }
    for at in 0..=node.log().len() {
        messages.push(ProposerMessage::Elected(ProposerElected {
            replica: wal_types::ReplicaId::default(),
            rebase: None,
            generation,
            term,
            start_streaming_at: lsn(at),
            history: state.history.up_to(lsn(at)).with_election(term, lsn(at), wal_types::Tli::FIRST, START),
            timeline_start_lsn: START,
            tli_switches: Vec::new(),
            configuration: configuration.clone(),
        }));
    }

    messages.push(ProposerMessage::Configure(ConfigureRequest { term, configuration }));
    messages
}

/// True when the node does not change and its replies grant nothing. The reply to an append may only say that the term
/// is over; the other replies name the node's term in any case.
fn is_rejected(node: &Node, from: ConnectionId, message: ProposerMessage) -> bool {
    let mut after = node.clone();
    let own = node.acceptor.state().term;
    let over = |message: &AcceptorMessage| match message {
        AcceptorMessage::Vote(vote) => vote.term == own && !vote.vote_given,
        AcceptorMessage::Append(append) => append.term == own && append.flush_lsn == Lsn::INVALID,
        AcceptorMessage::Configure(configure) => configure.term == own,
        _ => false,
    };
    match after.receive(from, message, usize::MAX, &Coverage::default()) {
        Ok(Delivery::Replies(replies)) => after == *node && replies.iter().all(|(_, message)| over(message)),
        Ok(Delivery::Refused) => after == *node,
        Ok(Delivery::Crashed) | Err(_) => false,
    }
}

/// True when the campaign ends at every kind of reply with a higher term, from every node that it talks to.
pub(crate) fn is_over_for_writer(writer: &Writer) -> bool {
    let Some(campaign) = &writer.campaign else { return true };
    let connected = campaign.status().into_iter().filter(|peer| peer.state != PeerState::Offline);
    connected.into_iter().all(|peer| {
        let replies = higher_term_replies(campaign, peer.id);
        replies.into_iter().all(|reply| campaign.clone().receive(peer.id, reply).is_err())
    })
}

/// One reply of each kind, from a node in the term above the campaign's.
fn higher_term_replies(campaign: &Proposer, node_id: wal_types::NodeId) -> [AcceptorMessage; 4] {
    let term = Term(campaign.term().0 + 1);
    let configuration = campaign.configuration().cloned().unwrap_or_default();
    let (generation, configuration_term) = (configuration.generation, Term::ZERO);
    let greeting = AcceptorGreeting {
        replica: wal_types::ReplicaId::default(),
        birth: None,
        node_id,
        term,
        configuration: configuration.clone(),
        configuration_term,
    };
    let AcceptorMessage::PreVote(PreVoteResponse { history, .. }) =
        writer::pre_vote_response(term.0, (configuration_term, configuration.clone()))
    else {
        return [0; 4].map(|_| AcceptorMessage::Greeting(greeting.clone()));
    };

    [
        AcceptorMessage::Greeting(greeting),
        AcceptorMessage::Vote(VoteResponse {
            heard: consensus::LeaderHeard::default(),
            commit_lsn: Lsn::INVALID,
            generation,
            term,
            vote_given: false,
            flush_lsn: START,
            truncate_lsn: Lsn::INVALID,
            history,
            timeline_start_lsn: START,
            tli_switches: Vec::new(),
            configuration,
            configuration_term,
            lost: false,
        }),
        AcceptorMessage::Append(AppendResponse {
            oldest_lsn: Lsn::INVALID,
            generation,
            term,
            flush_lsn: Lsn::INVALID,
            commit_lsn: Lsn::INVALID,
            hot_standby: HotStandbyFeedback::default(),
            pageserver: None,
        }),
        AcceptorMessage::Configure(ConfigureResponse { term, generation }),
    ]
}
