//! Symmetry: fingerprints that do not depend on the names of safekeepers and writers, so that states that differ only
//! in names are explored once.
//!
//! The three safekeepers are alike, so each state has up to six copies. A state is seen as one column per node: the
//! node, what each proposer knows about it, and the queues between them. The fingerprint of a state does not depend on
//! the order of its columns.
//!
//! The fields in which a proposer keeps what it knows about a node are private. But they are hashed node by node, each
//! part behind the node's id, and ids are numbers that occur nowhere else ([`ID_FIRST`]). So the parts are found in the
//! stream of hashed words. A proposer with ids elsewhere is hashed as a whole; that is correct and only leaves more
//! states.
//!
//! The two writers are alike too. A writer leaves only the names of its campaigns and of its connections elsewhere. A
//! fingerprint is computed for both orders of the writers, and the lower one counts.

use std::hash::{Hash, Hasher};
use std::sync::LazyLock;

use consensus::Proposer;

use crate::names::{CONNECTION_FIRST, CONNECTIONS, ID_FIRST, ID_LAST, MEMBERS, initial_configuration};

/// Hash of a value, and its hash with the two writers exchanged. Both are the same in every run.
pub(crate) type Pair = [u64; 2];

/// Hashes of a value.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Fingerprint {
    /// Of everything that does not belong to one node.
    pub(crate) common: Pair,
    /// Of the part of each node; empty where the parts were not found.
    pub(crate) columns: Vec<Pair>,
}

impl Fingerprint {
    /// Fingerprint of any value.
    pub(crate) fn of(value: &impl Hash) -> Self {
        Self { common: pair(&words(value)), columns: Vec::new() }
    }

    /// Fingerprint of a node without its name.
    pub(crate) fn of_node(node: &impl Hash) -> Self {
        let mut words = without_members(words(node));
        let mut ids = words.iter().filter(|&&word| is_id(word));
        let own = ids.next().copied();
        if ids.all(|&id| Some(id) == own) {
            words.retain(|&word| !is_id(word));
        }
        Self { common: pair(&words), columns: Vec::new() }
    }

    /// Fingerprint of a proposer, which lists the nodes and [`SENTINEL`](crate::names::SENTINEL) behind them.
    /// Which of several equal logs its election named as the donor makes no difference to what it sends.
    pub(crate) fn of_proposer(proposer: &Proposer) -> Self {
        let mut words = without_members(words(proposer));
        let ids: Vec<usize> = (0..words.len()).filter(|&at| is_id(words[at])).collect();
        let expected = (0..MEMBERS as u64).map(|node| ID_FIRST + node).chain([ID_LAST]);
        let twice = expected.clone().chain(expected);
        // The list of nodes, then the parts, then perhaps the donor.
        let found = ids.iter().take(2 * (MEMBERS + 1)).map(|&at| words[at]).eq(twice);
        let donor = ids.get(2 * (MEMBERS + 1)).copied();
        if !found || ids.len() > 2 * (MEMBERS + 1) + 1 {
            return Self { common: pair(&words), columns: Vec::new() };
        }

        let parts = &ids[MEMBERS + 1..];
        let columns = (0..MEMBERS).map(|node| pair(&words[parts[node] + 1..parts[node + 1]])).collect();

        if let Some(at) = donor {
            words[at] = ID_FIRST;
        }
        words.drain(parts[0]..parts[MEMBERS]);
        Self { common: pair(&words), columns }
    }

    /// Fingerprint of two values together, of which the second has columns.
    pub(crate) fn with(&self, other: Self) -> Self {
        let common = [0, 1].map(|which| hash(&[self.common[which], other.common[which]]));
        Self { common, columns: other.columns }
    }
}

const fn is_id(word: u64) -> bool {
    word >= ID_FIRST && word <= ID_LAST
}

/// The stream of words that a value feeds to its hasher.
fn words(value: &impl Hash) -> Vec<u64> {
    let mut recorder = Recorder(Vec::with_capacity(512));
    value.hash(&mut recorder);
    recorder.0
}

/// Removes every occurrence of the initial member list, in which the nodes are alike.
fn without_members(words: Vec<u64>) -> Vec<u64> {
    static NAMED: LazyLock<Vec<u64>> = LazyLock::new(|| self::words(&initial_configuration().members));
    let mut rest = words.as_slice();
    let mut kept = Vec::with_capacity(words.len());
    while let Some((&word, behind)) = rest.split_first() {
        kept.push(word);
        rest = if rest.first() == NAMED.first() && rest.starts_with(&NAMED) {
            &rest[NAMED.len()..]
        } else {
            behind
        };
    }
    kept
}

/// Hashes of a stream, independent of the order in which maps list the connections of the two writers.
fn pair(words: &[u64]) -> Pair {
    let mut swapped: Vec<u64> = words.iter().map(|&word| other_writer(word)).collect();
    let is_connection = |word: u64| (CONNECTION_FIRST..CONNECTION_FIRST + CONNECTIONS).contains(&word);
    let connections = words.iter().filter(|&&word| is_connection(word)).count();
    for _ in 1..connections {
        for at in 2..swapped.len() {
            let (one, other) = (swapped[at - 2], swapped[at]);
            if is_connection(one) && is_connection(other) && one > other {
                swapped.swap(at - 2, at);
            }
        }
    }
    [hash(words), hash(&swapped)]
}

/// The word with the two writers exchanged: their campaigns and connections.
fn other_writer(word: u64) -> u64 {
    let repeated = |byte: u8| u64::from_be_bytes([byte; 8]);
    if (CONNECTION_FIRST..CONNECTION_FIRST + CONNECTIONS).contains(&word) {
        return CONNECTION_FIRST + ((word - CONNECTION_FIRST) ^ 2);
    }
    let byte = word as u8;
    if word == repeated(byte) {
        return match byte {
            name @ (1 | 2) => repeated(3 - name),
            _ => word,
        };
    }
    word
}

/// Folds the two 64-bit halves of a product for each word: quick, and as good as random.
pub(crate) fn hash(words: &[u64]) -> u64 {
    const MULTIPLIERS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93];
    let fold = |state: u64, word: u64| {
        let product = u128::from(state ^ word.wrapping_mul(MULTIPLIERS[1])) * u128::from(MULTIPLIERS[0]);
        (product as u64 ^ (product >> 64) as u64).rotate_left(23).wrapping_add(MULTIPLIERS[1])
    };
    fold(words.iter().fold(words.len() as u64, |state, &word| fold(state, word)), 0)
}

/// A hasher that records its input.
struct Recorder(Vec<u64>);

impl Hasher for Recorder {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            self.0.push(chunk.iter().fold(0, |word, &byte| word << 8 | u64::from(byte)));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.0.push(value.into());
    }

    fn write_u16(&mut self, value: u16) {
        self.0.push(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.0.push(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        self.0.push(value);
    }

    fn write_usize(&mut self, value: usize) {
        self.0.push(value as u64);
    }

    fn write_isize(&mut self, value: isize) {
        self.0.push(value as u64);
    }

    fn finish(&self) -> u64 {
        0
    }
}
