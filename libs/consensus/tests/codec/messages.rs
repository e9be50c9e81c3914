//! Generators of messages with every field filled; a test removes what its version does not carry.

use std::collections::BTreeMap;

use consensus::{
    AcceptorGreeting, AcceptorMessage, AppendRequest, AppendResponse, ChecksumRequest, ChecksumResponse,
    Configuration, ConfigureRequest, ConfigureResponse, HotStandbyFeedback, LeaderHeard, Lease, Member,
    PageserverFeedback, Paused, PreVoteRequest, PreVoteResponse, Primary, ProposerElected, ProposerGreeting,
    ProposerMessage, ProtocolVersion, TermHistory, TermStart, Ticket, TicketResponse, TliSwitch,
    UnknownField, VoteRequest, VoteResponse, WatchResponse,
};
use proptest::prelude::*;
use wal_types::{
    CopyId, Digest, Generation, InstanceId, Lsn, NodeId, PrimaryId, ProposerId, ReplicaId, SystemId,
    TenantId, TenantTimelineId, Term, TimelineId, Tli,
};

use crate::Message;

const MEMBERS_MAX: usize = 31;

pub(crate) fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        proposer_greeting().prop_map(ProposerMessage::Greeting).prop_map(Message::Proposer),
        generation().prop_map(|generation| Message::Proposer(ProposerMessage::PreVote(PreVoteRequest {
            generation
        }))),
        (generation(), term(), campaign()).prop_map(|(generation, term, proposer_id)| {
            Message::Proposer(ProposerMessage::Vote(VoteRequest {
                generation,
                term,
                proposer_id,
                replica: ReplicaId(proposer_id.0),
            }))
        }),
        elected().prop_map(ProposerMessage::Elected).prop_map(Message::Proposer),
        append().prop_map(ProposerMessage::Append).prop_map(Message::Proposer),
        checksum().prop_map(ProposerMessage::Checksum).prop_map(Message::Proposer),
        (any::<u64>(), term(), accepted()).prop_map(
            |(node_id, term, (configuration, configuration_term))| {
                let node_id = NodeId(node_id);
                let greeting = AcceptorGreeting {
                    node_id,
                    replica: ReplicaId(u128::from(term.0).to_be_bytes()),
                    birth: (term.0 % 2 == 0).then_some(Digest([term.0 as u8; 32])),
                    term,
                    configuration,
                    configuration_term,
                };
                Message::Acceptor(AcceptorMessage::Greeting(greeting))
            }
        ),
        pre_vote_response().prop_map(AcceptorMessage::PreVote).prop_map(Message::Acceptor),
        vote_response().prop_map(AcceptorMessage::Vote).prop_map(Message::Acceptor),
        append_response().prop_map(AcceptorMessage::Append).prop_map(Message::Acceptor),
        (lsn(), lsn(), any::<Option<u32>>()).prop_map(|(from, to, crc32c)| {
            Message::Acceptor(AcceptorMessage::Checksum(ChecksumResponse { from, to, crc32c }))
        }),
        accepted().prop_map(|(configuration, term)| {
            Message::Proposer(ProposerMessage::Configure(ConfigureRequest { term, configuration }))
        }),
        (term(), any::<u64>()).prop_map(|(term, number)| {
            Message::Proposer(ProposerMessage::Ticket(Ticket { term, number }))
        }),
        (term(), any::<u64>()).prop_map(|(term, number)| {
            Message::Acceptor(AcceptorMessage::Ticket(TicketResponse { term, number }))
        }),
        Just(Message::Proposer(ProposerMessage::Watch)),
        (term(), lsn(), accepted()).prop_map(|(term, lsn, (configuration, configuration_term))| {
            Message::Acceptor(AcceptorMessage::Watch(WatchResponse {
                copy: CopyId { node: NodeId(lsn.0), replica: ReplicaId([term.0 as u8; 16]) },
                term,
                flush_lsn: lsn,
                commit_lsn: Lsn(term.0),
                oldest_lsn: Lsn(lsn.0 / 2),
                configuration,
                configuration_term,
                lost: term.0 % 2 == 0,
                heard: heard(term),
            }))
        }),
        (term(), generation()).prop_map(|(term, generation)| {
            Message::Acceptor(AcceptorMessage::Configure(ConfigureResponse { term, generation }))
        }),
    ]
}

fn proposer_greeting() -> impl Strategy<Value = ProposerGreeting> {
    let numbers = (any::<u32>(), any::<u64>(), any::<u32>(), any::<u32>());
    (any::<[u8; 16]>(), any::<[u8; 16]>(), numbers, campaign(), configuration()).prop_map(
        |(tenant, timeline, (pg_version, system_id, segment_bytes, tli), proposer_id, configuration)| {
            ProposerGreeting {
                version: ProtocolVersion::Holdfast2,
                id: TenantTimelineId { tenant: TenantId(tenant), timeline: TimelineId(timeline) },
                pg_version,
                system_id: SystemId(system_id),
                segment_bytes,
                tli: Tli(tli),
                proposer_id,
                configuration,
            }
        },
    )
}

fn elected() -> impl Strategy<Value = ProposerElected> {
    (generation(), term(), (lsn(), lsn()), history(), switches(), configuration()).prop_map(
        |(
            generation,
            term,
            (start_streaming_at, timeline_start_lsn),
            history,
            tli_switches,
            configuration,
        )| {
            ProposerElected {
                generation,
                term,
                start_streaming_at,
                history,
                timeline_start_lsn,
                tli_switches,
                configuration,
                replica: ReplicaId([term.0 as u8; 16]),
                rebase: (term.0 % 2 == 0).then_some(Lsn(term.0 | 1)),
            }
        },
    )
}

fn heard(term: Term) -> LeaderHeard {
    let lease = Lease { term, instance: InstanceId([term.0 as u8; 16]), left_ms: term.0 as u32 };
    let ago_ms = Some(term.0 as u32).filter(|&ago_ms| ago_ms != u32::MAX);
    LeaderHeard { ago_ms, lease: term.0.is_multiple_of(3).then_some(lease) }
}

fn append() -> impl Strategy<Value = AppendRequest> {
    let begin = 0..=u64::MAX - 300;
    let wal = prop::collection::vec(any::<u8>(), 0..300);
    (generation(), term(), (lsn(), begin, lsn(), lsn()), campaign(), wal).prop_map(
        |(generation, term, (epoch_start_lsn, begin, commit_lsn, truncate_lsn), proposer_id, wal)| {
            AppendRequest {
                generation,
                term,
                epoch_start_lsn,
                begin_lsn: Lsn(begin),
                commit_lsn,
                truncate_lsn,
                proposer_id,
                wal: wal.into(),
            }
        },
    )
}

fn checksum() -> impl Strategy<Value = ChecksumRequest> {
    (generation(), term(), lsn(), lsn()).prop_map(|(generation, term, one, other)| ChecksumRequest {
        generation,
        term,
        from: one.min(other),
        to: one.max(other),
    })
}

fn pre_vote_response() -> impl Strategy<Value = PreVoteResponse> {
    (generation(), term(), (lsn(), lsn(), lsn()), history(), switches(), accepted(), any::<bool>()).prop_map(
        |(generation, term, (flush_lsn, commit_lsn, start_lsn), history, tli_switches, accepted, lost)| {
            PreVoteResponse {
                generation,
                term,
                flush_lsn,
                commit_lsn,
                start_lsn,
                history,
                tli_switches,
                configuration: accepted.0,
                configuration_term: accepted.1,
                lost,
                heard: heard(term),
            }
        },
    )
}

fn vote_response() -> impl Strategy<Value = VoteResponse> {
    let flags = (any::<bool>(), any::<bool>());
    (generation(), term(), flags, (lsn(), lsn(), lsn()), history(), switches(), accepted()).prop_map(
        |(generation, term, (vote_given, lost), positions, history, tli_switches, accepted)| {
            let (flush_lsn, truncate_lsn, start) = positions;
            VoteResponse {
                generation,
                term,
                vote_given,
                flush_lsn,
                truncate_lsn,
                commit_lsn: Lsn(term.0),
                history,
                timeline_start_lsn: start,
                tli_switches,
                configuration: accepted.0,
                configuration_term: accepted.1,
                lost,
                heard: heard(term),
            }
        },
    )
}

fn append_response() -> impl Strategy<Value = AppendResponse> {
    let standby = (any::<i64>(), any::<u64>(), any::<u64>())
        .prop_map(|(timestamp, xmin, catalog_xmin)| HotStandbyFeedback { timestamp, xmin, catalog_xmin });
    (generation(), term(), lsn(), lsn(), standby, prop::option::of(feedback())).prop_map(
        |(generation, term, flush_lsn, commit_lsn, hot_standby, pageserver)| AppendResponse {
            generation,
            term,
            flush_lsn,
            commit_lsn,
            oldest_lsn: Lsn(term.0),
            hot_standby,
            pageserver,
        },
    )
}

fn feedback() -> impl Strategy<Value = PageserverFeedback> {
    (any::<u64>(), (lsn(), lsn(), lsn()), any::<i64>(), any::<u32>(), any::<bool>()).prop_map(
        |(size, (received, disk, remote), reply_time, shard, corruption_detected)| PageserverFeedback {
            current_timeline_size: size,
            last_received_lsn: received,
            disk_consistent_lsn: disk,
            remote_consistent_lsn: remote,
            reply_time,
            shard_number: shard % 3,
            corruption_detected,
        },
    )
}

fn configuration() -> impl Strategy<Value = Configuration> {
    let paused = prop::option::of(("[a-zé]{0,20}", "[a-z ]{0,40}"));
    let fields = prop::collection::btree_map(5..u16::MAX, (any::<u16>(), any::<[u8; 9]>()), 0..4);
    let fields = (any::<Option<[u8; 16]>>(), any::<u64>(), any::<bool>(), paused, fields);
    (any::<u32>(), members(), members(), fields).prop_map(|(generation, members, mut new_members, fields)| {
        let (primary, void_to, automatic, paused, unknown) = fields;
        // A copy has one number.
        new_members.retain(|new| members.iter().all(|old: &Member| old.replica != new.replica));
        let unknown = unknown.into_iter().map(|(tag, (since, value))| UnknownField {
            tag,
            since,
            value: value.to_vec().into(),
        });
        Configuration {
            generation: Generation(if members.is_empty() { 0 } else { generation }),
            members,
            new_members,
            primary: primary
                .map(|name| Primary { name: PrimaryId(name), instance: InstanceId([void_to as u8; 16]) }),
            void_to: Term(void_to),
            automatic,
            paused: paused.map(|(by, why)| Paused { by, why }),
            unknown: unknown.collect(),
        }
    })
}

/// A configuration and the term under which it was accepted.
fn accepted() -> impl Strategy<Value = (Configuration, Term)> {
    (configuration(), term())
}

fn members() -> impl Strategy<Value = Vec<Member>> {
    let ids: BoxedStrategy<BTreeMap<u64, (String, u16)>> =
        prop::collection::btree_map(any::<u64>(), ("[a-z0-9.:é-]{0,20}", any::<u16>()), 0..=MEMBERS_MAX)
            .boxed();
    ids.prop_map(|members| {
        let member = |(id, (host, port))| {
            let replica = ReplicaId(u128::from(id).to_be_bytes());
            Member { id: NodeId(id), host, port, replica }
        };
        members.into_iter().map(member).collect()
    })
}

fn history() -> impl Strategy<Value = TermHistory> {
    let step = (1..=u64::from(u32::MAX), 0..=u64::from(u32::MAX), any::<u32>());
    prop::collection::vec(step, 0..20).prop_map(|steps| {
        let (mut term, mut start) = (0, 0);
        let entries = steps.into_iter().map(|(terms, bytes, tli)| {
            term += terms;
            start += bytes;
            TermStart { term: Term(term), start: Lsn(start), tli: Tli(tli) }
        });
        TermHistory::new(entries.collect()).expect("steps go upward")
    })
}

fn switches() -> impl Strategy<Value = Vec<TliSwitch>> {
    let switch = (any::<u32>(), any::<u32>(), lsn());
    prop::collection::vec(
        switch.prop_map(|(parent, tli, at)| TliSwitch { parent: Tli(parent), tli: Tli(tli), at }),
        0..5,
    )
}

fn generation() -> impl Strategy<Value = Generation> {
    any::<u32>().prop_map(Generation)
}

fn term() -> impl Strategy<Value = Term> {
    any::<u64>().prop_map(Term)
}

fn lsn() -> impl Strategy<Value = Lsn> {
    any::<u64>().prop_map(Lsn)
}

fn campaign() -> impl Strategy<Value = ProposerId> {
    any::<[u8; 16]>().prop_map(ProposerId)
}
