//! A count that a peer claims does not decide how much memory its message costs.
//!
//! Alone in its binary because it replaces the allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::{Bytes, BytesMut};
use consensus::ProtocolVersion;
use consensus::codec::{decode_acceptor, decode_feedback, decode_proposer};

thread_local! {
    /// Bytes asked for by this thread since it was last set to zero.
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

#[expect(unsafe_code, reason = "an allocator cannot be written without; this one only counts")]
// SAFETY: every call is passed on unchanged; the cell is no allocation and has no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get() + layout.size());
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Memory that a byte of a message may cost: the entry of a list is a few times larger than on the wire, and checking a
/// configuration needs a set of its members.
const COST_PER_BYTE_MAX: usize = 10;

/// What any message may cost beyond that: a host name is no byte but a string, a slice a counter.
const COST_MAX: usize = 512;

#[test]
fn claimed_counts_cost_no_memory() {
    // Every place in a message where a count can stand is overwritten with every count that is tempting.
    let tags = b"gpveacm";
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
    for version in [ProtocolVersion::V2, ProtocolVersion::V3, ProtocolVersion::Holdfast1] {
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
                    most = most.max(cost(version, bytes.freeze()));
                }
            }
        }
    }

    assert!(most > 0, "nothing was measured");
}

fn cost(version: ProtocolVersion, bytes: Bytes) -> usize {
    ALLOCATED.set(0);
    let _ = decode_proposer(version, bytes.clone());
    let proposer = ALLOCATED.replace(0);
    let _ = decode_acceptor(version, bytes.clone());
    let acceptor = ALLOCATED.replace(0);
    let _ = decode_feedback(bytes.clone());
    let most = proposer.max(acceptor).max(ALLOCATED.get());
    let limit = bytes.len() * COST_PER_BYTE_MAX + COST_MAX;
    assert!(most <= limit, "{most} bytes allocated for {bytes:?} of version {version:?}");
    most
}
