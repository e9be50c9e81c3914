//! A count that a peer claims does not decide how much memory its message costs.
//!
//! Alone in its binary because it replaces the allocator.

#[path = "../../pq_proto/tests/counting_allocator/mod.rs"]
mod counting_allocator;

use bytes::{Bytes, BytesMut};
use consensus::ProtocolVersion;
use consensus::codec::{decode_acceptor, decode_feedback, decode_proposer};

use crate::counting_allocator::cost;

/// Memory that a byte of a message may cost: the entry of a list is a few times larger than on the wire, and checking a
/// configuration needs a set of its members.
const COST_PER_BYTE_MAX: usize = 10;

/// What any message may cost beyond that: a host name is no byte but a string, a slice a counter.
const COST_MAX: usize = 512;

#[test]
fn claimed_counts_cost_no_memory() {
    // Every place in a message where a count can stand is overwritten with every count that is tempting.
    let tags = b"gpveacmtw";
    let counts: [[u8; 4]; 7] = [
        [0xff; 4],
        [0x7f, 0xff, 0xff, 0xff],
        [0, 0, 0x03, 0xe8],
        [0xe8, 0x03, 0, 0],
        [0, 0, 0, 31],
        [0, 0, 0x27, 0x10],
        [0, 1, 0, 0],
    ];

    let mut most = 0;
    for version in [ProtocolVersion::V2, ProtocolVersion::V3, ProtocolVersion::Holdfast2] {
        for &tag in tags {
            for at in 1..140 {
                for count in counts {
                    let mut bytes = BytesMut::zeroed(144);
                    bytes[0] = tag;
                    if tag == b'g' {
                        bytes[1..33].fill(b'a');
                        bytes[34..66].fill(b'a');
                    }
                    bytes[at..at + 4].copy_from_slice(&count);
                    most = most.max(cost_of_decoding(version, &bytes.freeze()));
                }
            }
        }
    }

    assert!(most > 0, "nothing was measured");
}

/// Checks that no decoder allocates more for `bytes` than the limit, and returns the most that one did.
fn cost_of_decoding(version: ProtocolVersion, bytes: &Bytes) -> usize {
    let costs = [
        cost(|| drop(decode_proposer(version, bytes.clone()))),
        cost(|| drop(decode_acceptor(version, bytes.clone()))),
        cost(|| drop(decode_feedback(bytes.clone()))),
    ];
    let most = costs.into_iter().max().unwrap_or_default();
    let limit = bytes.len() * COST_PER_BYTE_MAX + COST_MAX;
    assert!(most <= limit, "{most} bytes allocated for {bytes:?} of version {version:?}");
    most
}
