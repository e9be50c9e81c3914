//! Reactions of the campaign to connections and answers. The tests inject both; the dialers find a port on which nothing
//! listens.

use std::task::Waker;

use consensus::{AcceptorGreeting, AcceptorMessage, Configuration, PeerState, ProposerMessage};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use wal_types::{SegmentSize, SystemId, TenantTimelineId, Term, Tli};

use super::*;
use crate::config::SafekeeperAddress;
use crate::safekeeper_dialer::{DialEvent, OpenLink};
use crate::safekeeper_link::SafekeeperLink;
use crate::scripted_server;

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
    /// Gives the campaign a connection of the present dialer.
    async fn connect(&mut self) -> TcpStream {
        let (copy, server) = scripted_server::copy_both_on_socket().await;
        self.open(self.followers[&NODE].dialer, SafekeeperLink::new(copy));
        server
    }

    /// Reports a connection, and sends what is due on it.
    fn open(&mut self, dialer: u64, link: SafekeeperLink) {
        let (kept, _) = oneshot::channel();
        self.dialed(dialer, DialEvent::Connected(Box::new(OpenLink { link, kept })));
        self.send_due_messages(&mut Context::from_waker(Waker::noop()));
    }

    fn dialed(&mut self, dialer: u64, event: DialEvent) {
        self.handle_dialed(Dialed { node: NODE, dialer, event });
    }

    fn state(&self) -> PeerState {
        self.proposer.status()[0].state.clone()
    }
}

fn greeting(configuration: Configuration) -> AcceptorMessage {
    AcceptorMessage::Greeting(AcceptorGreeting {
        replica: wal_types::ReplicaId::default(),
        birth: None,
        node_id: NODE,
        term: Term(3),
        configuration,
        configuration_term: Term::ZERO,
    })
}

/// The end of a connection, as its server sees it.
async fn is_closed(server: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    server.read_to_end(&mut rest).await.is_ok()
}

#[tokio::test]
async fn campaign_ignores_connection_of_removed_dialer() {
    let mut campaign = campaign();
    let old_dialer = campaign.followers[&NODE].dialer;
    let address = campaign.followers[&NODE].address.clone();
    campaign.remove_follower(NODE);
    campaign.dial(address);
    let (copy, mut old) = scripted_server::copy_both_on_socket().await;
    campaign.open(old_dialer, SafekeeperLink::new(copy));
    assert_eq!((campaign.state(), campaign.incarnation(NODE)), (PeerState::Offline, None));
    assert!(is_closed(&mut old).await);

    let mut new = campaign.connect().await;
    assert!(!scripted_server::receive(&mut new).await.is_empty());
    assert_eq!((campaign.state(), campaign.incarnation(NODE)), (PeerState::Greeting, Some(1)));
    campaign.dialed(old_dialer, DialEvent::Failed("late".into()));
    assert_eq!((campaign.state(), campaign.incarnation(NODE)), (PeerState::Greeting, Some(1)));
}

#[tokio::test]
async fn campaign_closes_connection_on_unrequested_answer() {
    let mut campaign = campaign();
    let mut server = campaign.connect().await;
    campaign.handle_answer(NODE, greeting(Configuration::default())).unwrap();
    assert_eq!(campaign.state(), PeerState::Greeted);
    campaign.handle_answer(NODE, greeting(Configuration::default())).unwrap();
    assert_eq!((campaign.state(), campaign.incarnation(NODE)), (PeerState::Offline, None));
    assert!(is_closed(&mut server).await);
    // The reason stays while the dialer opens the next connection.
    campaign.dialed(campaign.followers[&NODE].dialer, DialEvent::Connecting);
    campaign.publish_status();
    let shown = campaign.board.read().safekeepers[0].last_error.clone();
    assert!(shown.unwrap().contains("does not fit"));
}

/// Messages for a link whose socket takes nothing stay with the proposer, and the other links go on.
#[tokio::test]
async fn campaign_leaves_full_link_until_there_is_room() {
    let mut campaign = campaign();
    let (copy, mut server) = scripted_server::copy_both_on_socket().await;
    let mut link = SafekeeperLink::new(copy);
    let message = ProposerMessage::PreVote(consensus::PreVoteRequest { generation: Generation(0) });
    while !link.has_unsent() {
        while link.has_room() {
            link.encode(&message).unwrap();
        }
        poll_fn(|cx| Poll::Ready(link.write(cx))).await.unwrap();
    }
    while link.has_room() {
        link.encode(&message).unwrap();
    }
    campaign.open(campaign.followers[&NODE].dialer, link);
    assert_eq!(campaign.state(), PeerState::Greeting);
    assert_eq!(campaign.followers[&NODE].unanswered_since(), None);

    let mut received = vec![0; 1 << 20];
    while campaign.followers[&NODE].has_unsent() || campaign.followers[&NODE].unanswered_since().is_none() {
        tokio::select! {
            stepped = campaign.step() => stepped.unwrap(),
            read = server.read(&mut received) => assert!(read.unwrap() > 0),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn campaign_resets_connection_after_answer_timeout() {
    let mut campaign = campaign();
    let _server = campaign.connect().await;
    let since = campaign.followers[&NODE].unanswered_since().unwrap();
    tokio::time::advance(since + ANSWER_TIMEOUT - Instant::now()).await;
    campaign.handle_tick();
    assert_eq!(campaign.state(), PeerState::Greeting);
    tokio::time::advance(Duration::from_millis(1)).await;
    campaign.handle_tick();
    assert_eq!(campaign.state(), PeerState::Offline);
}

#[tokio::test]
async fn campaign_dials_members_that_are_not_listed() {
    let members = |ids: std::ops::Range<u64>| {
        let member = |id| consensus::Member {
            id: NodeId(id),
            host: "127.0.0.1".into(),
            port: 1,
            replica: wal_types::ReplicaId::default(),
        };
        Configuration { members: ids.map(member).collect(), ..Configuration::default() }
    };
    for (dials, known) in [(true, vec![1, 2, 3]), (false, vec![1])] {
        let mut campaign = campaign();
        campaign.dials_unlisted_members = dials;
        let _server = campaign.connect().await;
        campaign.handle_answer(NODE, greeting(members(1..4))).unwrap();
        let ids: Vec<u64> = campaign.followers.keys().map(|node| node.0).collect();
        assert_eq!(ids, known, "dials: {dials}");
        assert_eq!(campaign.proposer.status().len(), known.len());
    }
}
