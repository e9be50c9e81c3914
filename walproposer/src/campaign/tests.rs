//! Reactions of the campaign to link events. The tests inject the events; the links dial a port on which nothing listens.

use consensus::{AcceptorGreeting, AcceptorMessage, Configuration, PeerState, ProposerMessage};
use tokio::sync::mpsc::error::TryRecvError;
use wal_types::{SegmentSize, SystemId, TenantTimelineId, Term, Tli};

use super::*;
use crate::config::SafekeeperAddress;
use crate::safekeeper_link::LinkEvent;

const NODE: NodeId = NodeId(1);

fn campaign() -> Campaign {
    let safekeepers = vec![SafekeeperAddress { id: NODE, host: "127.0.0.1".into(), port: 1 }];
    let cluster = Arc::new(Cluster { safekeepers, id: TenantTimelineId::default(), token: None });
    let options = ProposerOptions {
        id: cluster.id,
        proposer_id: ProposerId([7; 16]),
        segment_size: SegmentSize::POSTGRES_DEFAULT,
        system_id: SystemId(0),
        pg_version: 0,
        tli: Some(Tli::FIRST),
        safekeepers: cluster.nodes(),
        term_floor: Term::ZERO,
        primary: None,
        send_buffer_bytes_max: 1 << 20,
    };
    Campaign::start(&cluster, options, &StatusBoard::new(&cluster))
}

impl Campaign {
    fn connect(&mut self, incarnation: u64) -> mpsc::Receiver<ProposerMessage> {
        let (sender, queue) = mpsc::channel(2);
        self.inject(incarnation, LinkEvent::Connected(sender));
        self.send_due_messages();
        queue
    }

    fn inject(&mut self, incarnation: u64, event: LinkEvent) {
        self.handle_link_event(Envelope { node: NODE, incarnation, event }).unwrap();
    }

    fn state(&self) -> PeerState {
        self.proposer.status()[0].state.clone()
    }
}

fn greeting() -> LinkEvent {
    let greeting = AcceptorGreeting {
        node_id: NODE,
        term: Term(3),
        configuration: Configuration::default(),
        configuration_term: Term::ZERO,
    };
    LinkEvent::Message(AcceptorMessage::Greeting(greeting))
}

#[tokio::test]
async fn campaign_ignores_answer_of_earlier_connection() {
    let mut campaign = campaign();
    let mut old = campaign.connect(1);
    assert!(matches!(old.try_recv(), Ok(ProposerMessage::Greeting(_))));
    let mut new = campaign.connect(2);
    assert_eq!(old.try_recv(), Err(TryRecvError::Disconnected));
    assert!(matches!(new.try_recv(), Ok(ProposerMessage::Greeting(_))));

    campaign.inject(1, greeting());
    assert_eq!(campaign.state(), PeerState::Greeting);
    campaign.inject(1, LinkEvent::Disconnected(Some("late".into())));
    assert_eq!((campaign.state(), campaign.incarnation(NODE)), (PeerState::Greeting, Some(2)));
    campaign.inject(2, greeting());
    assert_eq!(campaign.state(), PeerState::Greeted);
}

#[tokio::test]
async fn campaign_closes_connection_on_unrequested_answer() {
    let mut campaign = campaign();
    let mut queue = campaign.connect(1);
    campaign.inject(1, greeting());
    campaign.inject(1, greeting());
    assert_eq!((campaign.state(), campaign.incarnation(NODE)), (PeerState::Offline, None));
    queue.try_recv().unwrap();
    assert_eq!(queue.try_recv(), Err(TryRecvError::Disconnected));
    // The reason stays when the link reports that it closed the connection.
    campaign.inject(1, LinkEvent::Disconnected(None));
    campaign.publish_status();
    let shown = campaign.board.read().safekeepers[0].last_error.clone();
    assert!(shown.unwrap().contains("does not fit"));
}

#[tokio::test]
async fn campaign_leaves_full_queue_until_there_is_room() {
    let mut campaign = campaign();
    let (sender, mut queue) = mpsc::channel(1);
    sender
        .try_send(ProposerMessage::PreVote(consensus::PreVoteRequest { generation: Generation(0) }))
        .unwrap();
    campaign.inject(1, LinkEvent::Connected(sender));
    campaign.send_due_messages();
    assert!(matches!(queue.try_recv(), Ok(ProposerMessage::PreVote(_))));
    assert!(queue.try_recv().is_err());
    campaign.send_due_messages();
    assert!(matches!(queue.try_recv(), Ok(ProposerMessage::Greeting(_))));
}

#[tokio::test(start_paused = true)]
async fn campaign_resets_connection_after_answer_timeout() {
    let mut campaign = campaign();
    let _queue = campaign.connect(1);
    tokio::time::advance(ANSWER_TIMEOUT).await;
    campaign.handle_tick();
    assert_eq!(campaign.state(), PeerState::Greeting);
    tokio::time::advance(Duration::from_millis(1)).await;
    campaign.handle_tick();
    assert_eq!(campaign.state(), PeerState::Offline);
}

#[tokio::test]
async fn campaign_dials_members_that_are_not_listed() {
    let members = |ids: std::ops::Range<u64>| {
        let member = |id| consensus::Member { id: NodeId(id), host: "127.0.0.1".into(), port: 1 };
        Configuration { members: ids.map(member).collect(), ..Configuration::default() }
    };
    for (dials, known) in [(true, vec![1, 2, 3]), (false, vec![1])] {
        let mut campaign = campaign();
        campaign.dials_unlisted_members = dials;
        let _queue = campaign.connect(1);
        let greeting = AcceptorGreeting {
            node_id: NODE,
            term: Term(3),
            configuration: members(1..4),
            configuration_term: Term::ZERO,
        };
        campaign.inject(1, LinkEvent::Message(AcceptorMessage::Greeting(greeting)));
        let ids: Vec<u64> = campaign.followers.keys().map(|node| node.0).collect();
        assert_eq!(ids, known, "dials: {dials}");
        assert_eq!(campaign.proposer.status().len(), known.len());
    }
}
