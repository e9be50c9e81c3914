//! Codec of a [`SlotSet`], and of the frames of the file `slots`. Sans-IO; `file` writes the frames.
//!
//! ```text
//! frame:   magic │ sequence u64 │ length u32 │ CRC-32C u32 │ content         (little-endian)
//! content: format u32 │ slots │ ids of dropped slots                        (lists have a u32 count in front)
//! ```
//!
//! The file has two frames, A and B, so that a crash tears one at most. A frame that is torn or does not fit is no frame.
//! A frame with a good checksum and another format is not damage: another release wrote it.

use wal_types::Lsn;

use super::slot::{NAME_BYTES_MAX, OWNER_BYTES_MAX, Slot, SlotId, is_slot_name};
use super::slot_set::{SLOTS_MAX, SlotSet, TOMBSTONES_MAX};

const MAGIC: [u8; 8] = *b"WALSLOT1";
const HEADER_BYTES: usize = 24;
/// Version of the content.
const FORMAT: u32 = 1;

/// Room of one frame in the file. A torn page damages one frame only.
pub(super) const FRAME_BYTES: usize = 16 * 1024;

/// Id, lengths, times, position.
const SLOT_BYTES_MAX: usize = 16 + 1 + NAME_BYTES_MAX + 1 + OWNER_BYTES_MAX + 3 * 8;
const _: () = assert!(HEADER_BYTES + 12 + SLOTS_MAX * SLOT_BYTES_MAX + TOMBSTONES_MAX * 16 <= FRAME_BYTES);

/// What the two frames of a file say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frames {
    /// The newest slot set, and its sequence number. `is_settled` when both frames have it.
    Newest { sequence: u64, set: SlotSet, is_settled: bool },
    /// Neither frame is whole.
    Damaged,
    /// Another release wrote the file.
    OtherFormat(u32),
}

/// The bytes of one frame, without the unused rest of its room.
pub(super) fn encode_frame(sequence: u64, set: &SlotSet) -> Vec<u8> {
    let content = encode_content(set);
    let mut frame = Vec::with_capacity(HEADER_BYTES + content.len());
    frame.extend_from_slice(&MAGIC);
    frame.extend_from_slice(&sequence.to_le_bytes());
    // Bounded by `FRAME_BYTES`.
    frame.extend_from_slice(&(content.len() as u32).to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&frame), &content);
    frame.extend_from_slice(&checksum.to_le_bytes());
    frame.extend_from_slice(&content);
    frame
}

/// Reads the frames of a file. A shorter file has lost its end.
pub(super) fn decode_frames(file: &[u8]) -> Frames {
    let (first, second) = file.split_at(FRAME_BYTES.min(file.len()));
    let frames = [checked_content(first), checked_content(second)];
    let Some((sequence, content)) = frames.into_iter().flatten().max_by_key(|(sequence, _)| *sequence) else {
        return Frames::Damaged;
    };
    let format = content.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    if format != FORMAT {
        return Frames::OtherFormat(format);
    }
    match decode_content(content) {
        Some(set) => Frames::Newest { sequence, set, is_settled: frames[0] == frames[1] },
        None => Frames::Damaged,
    }
}

/// Sequence and content of a frame whose checksum is good.
fn checked_content(frame: &[u8]) -> Option<(u64, &[u8])> {
    let (header, rest) = frame.split_first_chunk::<HEADER_BYTES>()?;
    let length = u32::from_le_bytes(*header[16..20].first_chunk()?) as usize;
    let content = rest.get(..length)?;
    let checksum = u32::from_le_bytes(*header[20..24].first_chunk()?);
    let is_good = crc32c::crc32c_append(crc32c::crc32c(&header[..20]), content) == checksum;
    let sequence = u64::from_le_bytes(*header[8..16].first_chunk()?);
    (header[..8] == MAGIC && is_good).then_some((sequence, content))
}

fn encode_content(set: &SlotSet) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&(set.slots.len() as u32).to_le_bytes());
    for slot in set.slots.values() {
        out.extend_from_slice(&slot.id.0);
        for text in [&slot.name, &slot.owner] {
            // Bounded by `NAME_BYTES_MAX` and `OWNER_BYTES_MAX`.
            out.push(text.len() as u8);
            out.extend_from_slice(text.as_bytes());
        }
        for number in [slot.created, slot.last_active, slot.restart_lsn.0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }
    out.extend_from_slice(&(set.tombstones.len() as u32).to_le_bytes());
    for id in &set.tombstones {
        out.extend_from_slice(&id.0);
    }
    out
}

/// `None` for a content that [`encode_content`] never gives.
fn decode_content(content: &[u8]) -> Option<SlotSet> {
    let mut input = Input(content);
    input.u32()?;
    let mut set = SlotSet::default();
    for _ in 0..input.count(SLOTS_MAX)? {
        let id = SlotId(input.array()?);
        let name = input.text().filter(|name| is_slot_name(name))?;
        let owner = input.text().filter(|owner| owner.len() <= OWNER_BYTES_MAX)?;
        let (created, last_active, restart_lsn) = (input.u64()?, input.u64()?, Lsn(input.u64()?));
        let slot = Slot { id, name: name.clone(), owner, created, last_active, restart_lsn };
        if set.slots.insert(name, slot).is_some() {
            return None;
        }
    }
    for _ in 0..input.count(TOMBSTONES_MAX)? {
        set.tombstones.push(SlotId(input.array()?));
    }
    input.0.is_empty().then_some(set)
}

/// The bytes that are left to read.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn count(&mut self, most: usize) -> Option<usize> {
        self.u32().map(|count| count as usize).filter(|count| *count <= most)
    }

    fn text(&mut self) -> Option<String> {
        let [length] = self.array()?;
        let (taken, rest) = self.0.split_at_checked(length.into())?;
        self.0 = rest;
        String::from_utf8(taken.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::slot_set::example;
    use super::*;

    fn set(restart_lsn: u64) -> SlotSet {
        let mut set = SlotSet::default();
        set.insert(example("archive", 1, restart_lsn));
        set.insert(example("standby_1", 2, 0));
        set.insert(example("gone", 3, 7));
        set.drop_slot(SlotId([3; 16]));
        set
    }

    /// A file with these frames.
    fn file(a: &[u8], b: &[u8]) -> Vec<u8> {
        let mut bytes = a.to_vec();
        bytes.resize(FRAME_BYTES, 0);
        bytes.extend_from_slice(b);
        bytes.resize(2 * FRAME_BYTES, 0);
        bytes
    }

    fn newest(sequence: u64, set: SlotSet, is_settled: bool) -> Frames {
        Frames::Newest { sequence, set, is_settled }
    }

    #[test]
    fn frames_give_the_newest_set_back() {
        let (old, new) = (encode_frame(4, &set(500)), encode_frame(5, &set(800)));
        assert_eq!(decode_frames(&file(&old, &old)), newest(4, set(500), true));
        assert_eq!(decode_frames(&file(&new, &old)), newest(5, set(800), false));
        assert_eq!(decode_frames(&file(&old, &new)), newest(5, set(800), false));
    }

    #[test]
    fn fullest_set_fits_its_frame() {
        let mut full = SlotSet::default();
        for number in 0..SLOTS_MAX as u8 {
            let name = format!("{number:0width$}", width = NAME_BYTES_MAX);
            full.insert(Slot { owner: "o".repeat(OWNER_BYTES_MAX), ..example(&name, number, 9) });
        }
        full.tombstones = (0..TOMBSTONES_MAX).map(|_| SlotId([9; 16])).collect();
        let frame = encode_frame(u64::MAX, &full);
        assert!(frame.len() <= FRAME_BYTES, "{}", frame.len());
        assert_eq!(decode_frames(&file(&frame, &frame)), newest(u64::MAX, full, true));
    }

    /// The other frame still counts, wherever one is damaged; and both damaged are noticed.
    #[test]
    fn damage_of_one_frame_is_survived() {
        let (old, new) = (encode_frame(4, &set(500)), encode_frame(5, &set(800)));
        for at in 0..new.len() {
            let mut bad = new.clone();
            bad[at] ^= 0x41;
            assert_eq!(decode_frames(&file(&bad, &old)), newest(4, set(500), false), "{at}");
            assert_eq!(decode_frames(&file(&bad, &bad)), Frames::Damaged, "{at}");
        }
        for length in 0..new.len() {
            assert_eq!(decode_frames(&file(&new[..length], &old)), newest(4, set(500), false), "{length}");
            assert_eq!(decode_frames(&new[..length]), Frames::Damaged, "{length}");
        }
    }

    /// Bytes that pass the checksum and are no slot set: another release, or a defect. They never panic.
    #[test]
    fn impossible_content_is_refused() {
        let content = encode_content(&set(500));
        for length in 4..content.len() {
            assert_eq!(decode_content(&content[..length]), None, "{length}");
        }
        assert_eq!(decode_content(&[&content[..], &[0]].concat()), None);
        for (at, byte) in [(4, 0xff), (24, 64), (25, b'A')] {
            let mut bad = content.clone();
            bad[at] = byte;
            assert_eq!(decode_content(&bad), None, "{at}");
        }
    }

    #[test]
    fn other_format_is_no_damage() {
        let mut frame = encode_frame(1, &set(500));
        frame[HEADER_BYTES] = 9;
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&frame[..20]), &frame[HEADER_BYTES..]);
        frame[20..24].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(decode_frames(&file(&frame, &frame)), Frames::OtherFormat(9));
    }
}
