//! Startup `options`: finds the words that name an endpoint and removes them.

use std::ops::Range;

use bytes::Bytes;
use pq_proto::Text;
use pq_proto::startup::option_word_ranges;

/// The beginnings of words that name an endpoint.
pub(super) const OPTION_PREFIXES: [&[u8]; 2] = [b"endpoint=", b"project="];

/// Returns the endpoints that `options` names, and the rest of `options`. Without any, the rest is `options` byte for byte.
pub(super) fn take_from_options(options: &Text) -> (Vec<Bytes>, Option<Text>) {
    let text = options.as_bytes();
    let value_of = |word: &Range<usize>| {
        let word = &text[word.clone()];
        OPTION_PREFIXES.iter().find_map(|prefix| word.strip_prefix(*prefix))
    };
    let (taken, left): (Vec<_>, Vec<_>) = option_word_ranges(text).partition(|word| value_of(word).is_some());
    if taken.is_empty() {
        return (Vec::new(), Some(options.clone()));
    }
    let taken = taken.iter().filter_map(value_of).map(Bytes::copy_from_slice).collect();
    let left: Vec<&[u8]> = left.into_iter().map(|word| &text[word]).collect();
    let left = left.join(&b' ');
    (taken, (!left.is_empty()).then(|| Text::new(left)))
}
