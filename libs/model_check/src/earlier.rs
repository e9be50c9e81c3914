//! Checks what allows to explore one term after the other: a term is over for a node that promised a higher one, and for
//! a campaign that hears of it. See [`Action::Term`](crate::action::Action::Term).

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

/// Asks the node for everything that a campaign of an earlier term may ask for, over all its connections; and once more
/// for the vote of its term, for another campaign.
pub(crate) fn is_over_for_node(node: &Node) -> bool {
    let own = node.acceptor.state().term;
    let connections = (0..CONNECTIONS).map(nth_connection);
    let votes = (0..WRITERS).map(campaign);
    let others =
        votes.filter(|campaign| node.acceptor.state().voted_for != Some(*campaign) && own > Term::ZERO);
    for proposer_id in others {
        let generation = node.acceptor.state().configuration.generation;
        let vote = ProposerMessage::Vote(VoteRequest { generation, term: own, proposer_id });
        if !connections.clone().all(|from| is_rejected(node, from, vote.clone())) {
            return false;
        }
    }
    let asked = |term: u64, from: ConnectionId| {
        earlier_requests(node, Term(term)).into_iter().all(|message| is_rejected(node, from, message))
    };
    connections.clone().all(|from| (1..own.0).all(|term| asked(term, from)))
}

fn earlier_requests(node: &Node, term: Term) -> Vec<ProposerMessage> {
    let state = node.acceptor.state();
    let (configuration, generation) = (state.configuration.clone(), state.configuration.generation);
    let mut messages: Vec<ProposerMessage> = Vec::new();
    for campaigner in 0..WRITERS {
        let proposer_id = campaign(campaigner);
        messages.push(ProposerMessage::Vote(VoteRequest { generation, term, proposer_id }));
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

/// The answer to an append may say nothing but that the term is over; the others name the node's term in any case.
fn is_rejected(node: &Node, from: ConnectionId, message: ProposerMessage) -> bool {
    let mut asked = node.clone();
    let own = node.acceptor.state().term;
    let over = |message: &AcceptorMessage| match message {
        AcceptorMessage::Vote(vote) => vote.term == own && !vote.vote_given,
        AcceptorMessage::Append(append) => append.term == own && append.flush_lsn == Lsn::INVALID,
        AcceptorMessage::Configure(configure) => configure.term == own,
        _ => false,
    };
    match asked.receive(from, message, usize::MAX, &Coverage::default()) {
        Ok(Delivery::Answers(answers)) => asked == *node && answers.iter().all(|(_, message)| over(message)),
        Ok(Delivery::Refused) => asked == *node,
        Ok(Delivery::Crashed) | Err(_) => false,
    }
}

/// Tells the campaign of a higher term, in every kind of answer, by every node that it talks to.
pub(crate) fn is_over_for_writer(writer: &Writer) -> bool {
    let Some(campaign) = &writer.campaign else { return true };
    let connected = campaign.status().into_iter().filter(|peer| peer.state != PeerState::Offline);
    connected.into_iter().all(|peer| {
        let told = higher_term_replies(campaign, peer.id);
        told.into_iter().all(|answer| campaign.clone().receive(peer.id, answer).is_err())
    })
}

fn higher_term_replies(campaign: &Proposer, node_id: wal_types::NodeId) -> [AcceptorMessage; 4] {
    let term = Term(campaign.term().0 + 1);
    let configuration = campaign.configuration().cloned().unwrap_or_default();
    let (generation, configuration_term) = (configuration.generation, Term::ZERO);
    let greeting =
        AcceptorGreeting { node_id, term, configuration: configuration.clone(), configuration_term };
    let AcceptorMessage::PreVote(PreVoteResponse { history, .. }) =
        writer::pre_vote_response(term.0, (configuration_term, configuration.clone()))
    else {
        return [0; 4].map(|_| AcceptorMessage::Greeting(greeting.clone()));
    };
    [
        AcceptorMessage::Greeting(greeting),
        AcceptorMessage::Vote(VoteResponse {
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
