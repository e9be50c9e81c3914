//! Follower: tracks where messages begin and end in a server's byte stream, without keeping the bytes.
//!
//! The relay feeds it every byte that goes to the client.

/// Length of a message header: type byte and length field.
const HEADER_BYTES: usize = 5;

/// The position inside the message stream.
#[derive(Debug, Default)]
pub(super) struct Follower {
    header: [u8; HEADER_BYTES],
    /// Bytes of the next header that have arrived; 0 inside a body.
    header_bytes: usize,
    /// Bytes of the current body that are still to come.
    body_left: usize,
    /// Type of the last message that began.
    tag: u8,
    /// Transaction status of the last complete ReadyForQuery: `I`, `T` or `E`; 0 before the first.
    status: u8,
    copy_both: bool,
    /// The bytes are not messages, so the position is unknown from here on.
    lost: bool,
}

impl Follower {
    /// Follows the next bytes. Returns whether a ReadyForQuery ended in them.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> bool {
        let mut ready = false;
        while !bytes.is_empty() && !self.lost {
            if self.body_left == 0
                && self.header_bytes == 0
                && let Some((header, body)) = bytes.split_first_chunk()
            {
                self.begin_message(*header);
                bytes = body;
            } else if self.body_left == 0 {
                let taken = bytes.len().min(HEADER_BYTES - self.header_bytes);
                self.header[self.header_bytes..][..taken].copy_from_slice(&bytes[..taken]);
                self.header_bytes += taken;
                bytes = &bytes[taken..];
                if self.header_bytes == HEADER_BYTES {
                    self.begin_message(self.header);
                }
            } else {
                let taken = bytes.len().min(self.body_left);
                if self.tag == b'Z' {
                    self.status = bytes[taken - 1];
                }
                self.body_left -= taken;
                bytes = &bytes[taken..];
                if self.body_left == 0 && self.tag == b'Z' {
                    ready = true;
                    self.copy_both = false;
                }
            }
        }
        ready
    }

    fn begin_message(&mut self, [tag, length @ ..]: [u8; HEADER_BYTES]) {
        self.header_bytes = 0;
        self.tag = tag;
        self.copy_both |= tag == b'W';
        // The length counts itself.
        let length =
            usize::try_from(i32::from_be_bytes(length)).ok().and_then(|length| length.checked_sub(4));
        self.lost = length.is_none();
        self.body_left = length.unwrap_or_default();
    }

    /// Whether the position is between two messages, so that the proxy may insert one.
    pub(super) const fn at_boundary(&self) -> bool {
        !self.lost && self.body_left == 0 && self.header_bytes == 0
    }

    /// Whether the last message was an error: then the server has given the reason itself.
    pub(super) const fn last_was_error(&self) -> bool {
        self.tag == b'E'
    }

    /// `I`, `T` or `E` of the last ReadyForQuery.
    pub(super) const fn status(&self) -> u8 {
        self.status
    }

    /// Both sides send CopyData: a replication session is never idle.
    pub(super) const fn in_copy_both(&self) -> bool {
        self.copy_both
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use pq_proto::{Encode, Frame};
    use proptest::prelude::*;

    use super::*;

    fn message() -> impl Strategy<Value = (u8, Vec<u8>)> {
        let any_body = prop::collection::vec(any::<u8>(), 0..40);
        prop_oneof![
            3 => (prop::sample::select(&b"DTCSNAdEHW123"[..]), any_body),
            1 => prop::sample::select(&b"ITE"[..]).prop_map(|status| (b'Z', vec![status])),
        ]
    }

    proptest! {
        /// For any split of the bytes, the position depends only on the bytes before it.
        #[test]
        fn any_cut_of_any_messages_is_followed(
            messages in prop::collection::vec(message(), 0..20),
            cuts in prop::collection::vec(1usize..60, 1..40),
        ) {
            let mut wire = BytesMut::new();
            let (mut ends, mut readies) = (vec![0], Vec::new());
            for (tag, body) in &messages {
                Frame { tag: *tag, body: Bytes::copy_from_slice(body) }.encode(&mut wire).unwrap();
                ends.push(wire.len());
                if *tag == b'Z' {
                    readies.push((wire.len(), body[0]));
                }
            }
            let (mut follower, mut at) = (Follower::default(), 0);
            for cut in cuts.into_iter().cycle() {
                let from = at;
                at = (at + cut).min(wire.len());
                let ready = follower.feed(&wire[from..at]);
                prop_assert_eq!(follower.at_boundary(), ends.contains(&at));
                prop_assert_eq!(ready, readies.iter().any(|(end, _)| (from + 1..=at).contains(end)));
                if follower.at_boundary() {
                    let last = readies.iter().rfind(|(end, _)| *end <= at).map_or(0, |(_, status)| *status);
                    prop_assert_eq!(follower.status(), last);
                    let begun = ends.iter().filter(|end| **end < at).count();
                    let last_tag = begun.checked_sub(1).map_or(0, |last| messages[last].0);
                    prop_assert_eq!(follower.last_was_error(), last_tag == b'E');
                }
                if at == wire.len() {
                    break;
                }
            }
        }
    }

    #[test]
    fn copy_both_lasts_until_ready_for_query() {
        let mut follower = Follower::default();
        follower.feed(b"W\0\0\0\x07\0\0\0d\0\0\0\x05x");
        assert!(follower.in_copy_both() && follower.at_boundary());
        assert!(follower.feed(b"Z\0\0\0\x05I"));
        assert!(!follower.in_copy_both());
    }

    #[test]
    fn follower_loses_its_position_on_invalid_bytes() {
        for header in [&b"D\0\0\0\x03"[..], b"D\xff\xff\xff\xff"] {
            let mut follower = Follower::default();
            follower.feed(header);
            follower.feed(b"Z\0\0\0\x05I");
            assert!(!follower.at_boundary() && follower.status() == 0, "{header:?}");
        }
    }
}
