//! Generators of messages with every field filled; a test removes what its version does not carry.

use std::collections::BTreeMap;

use consensus::{
    AcceptorGreeting, AcceptorMessage, AppendRequest, AppendResponse, ChecksumRequest, ChecksumResponse,
    Configuration, ConfigureRequest, ConfigureResponse, HotStandbyFeedback, Member, PageserverFeedback,
    PreVoteRequest, PreVoteResponse, ProposerElected, ProposerGreeting, ProposerMessage, ProtocolVersion,
    TermHistory, TermStart, TliSwitch, VoteRequest, VoteResponse,
};
use proptest::prelude::*;
use wal_types::{
    Generation, Lsn, NodeId, PrimaryId, ProposerId, SystemId, TenantId, TenantTimelineId, Term, TimelineId,
    Tli,
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
            Message::Proposer(ProposerMessage::Vote(VoteRequest { generation, term, proposer_id }))
        }),
        elected().prop_map(ProposerMessage::Elected).prop_map(Message::Proposer),
        append().prop_map(ProposerMessage::Append).prop_map(Message::Proposer),
        checksum().prop_map(ProposerMessage::Checksum).prop_map(Message::Proposer),
        (any::<u64>(), term(), accepted()).prop_map(
            |(node_id, term, (configuration, configuration_term))| {
                let node_id = NodeId(node_id);
                let greeting = AcceptorGreeting { node_id, term, configuration, configuration_term };
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
                version: ProtocolVersion::Holdfast1,
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
            }
        },
    )
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
                history,
                timeline_start_lsn: start,
                tli_switches,
                configuration: accepted.0,
                configuration_term: accepted.1,
                lost,
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
    let primary = any::<Option<[u8; 16]>>();
    (any::<u32>(), members(), members(), primary).prop_map(|(generation, members, new_members, primary)| {
        Configuration {
            generation: Generation(if members.is_empty() { 0 } else { generation }),
            members,
            new_members,
            primary: primary.map(PrimaryId),
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
        let member = |(id, (host, port))| Member { id: NodeId(id), host, port };
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
