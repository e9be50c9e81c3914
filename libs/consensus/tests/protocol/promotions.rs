//! Promotions: a log that PostgreSQL's timeline changed more often than a message can carry still elects.

use bytes::BytesMut;
use consensus::codec::{decode_acceptor, encode_acceptor};
use consensus::term_history::TLI_SWITCHES_MAX;
use consensus::{AcceptorMessage, ConnectionId, Effect, ProposerMessage, ProtocolVersion, VoteRequest};
use wal_types::{ProposerId, Term, Tli};

use crate::cluster::{Campaign, Cluster, configuration, greeting};

const NODES: &[u64] = &[1, 2, 3];
const VERSION: ProtocolVersion = ProtocolVersion::Holdfast2;

/// Each promotion is an election on a new timeline, and a record behind it.
#[test]
fn log_elects_after_tli_switches_max_promotions() {
    let configuration = configuration(1, NODES, &[]);
    let mut cluster = Cluster::new(&configuration);
    let promotions = TLI_SWITCHES_MAX as u32 + 3;
    for tli in 1..=promotions {
        let mut campaign = Campaign::on_timeline(tli as u8, Tli(tli), NODES);
        campaign.exchange(&mut cluster, NODES).unwrap();
        assert!(campaign.proposer.election().is_some(), "timeline {tli}: {:?}", cluster.refusals);
        campaign.write(&mut cluster, 8, NODES);
    }

    let state = cluster.state(1);
    let (first, last) = (state.tli_switches.first().unwrap(), state.tli_switches.last().unwrap());
    assert_eq!(state.tli_switches.len(), TLI_SWITCHES_MAX);
    assert_eq!((last.parent, last.tli), (Tli(promotions - 1), Tli(promotions)));
    assert_eq!(first.tli, Tli(promotions - TLI_SWITCHES_MAX as u32 + 1), "the oldest are dropped");

    // What the next campaign would read.
    let request = VoteRequest {
        generation: configuration.generation,
        term: Term(state.term.0 + 1),
        proposer_id: ProposerId([9; 16]),
        replica: crate::cluster::copy(1).replica,
    };
    let node = cluster.nodes.get_mut(&1).unwrap();
    let connection = ConnectionId(u64::MAX);
    node.step(connection, ProposerMessage::Greeting(greeting(VERSION, configuration))).unwrap();
    let effects = node.step(connection, ProposerMessage::Vote(request)).unwrap();
    let vote = effects.into_iter().find_map(|effect| match effect {
        Effect::Reply { message: message @ AcceptorMessage::Vote(_), .. } => Some(message),
        _ => None,
    });
    assert!(survives_the_wire(&vote.unwrap()));
}

fn survives_the_wire(message: &AcceptorMessage) -> bool {
    let mut bytes = BytesMut::new();
    encode_acceptor(VERSION, message, &mut bytes).unwrap();
    decode_acceptor(VERSION, bytes.freeze()).as_ref() == Ok(message)
}
