//! SASLprep (RFC 4013): normalises a password before it is hashed, exactly as PostgreSQL does. Used by `keys`.
//!
//! PostgreSQL differs from the RFC in three points, and so does this file:
//!
//! * A password that SASLprep forbids, or that is not UTF-8, is hashed unchanged.
//! * Forbidden characters are looked for before the normalisation, not after it.
//! * A password of nothing but characters that SASLprep drops counts as forbidden.

use std::borrow::Cow;

use stringprep::tables;
use unicode_normalization::UnicodeNormalization;

/// Returns the bytes of the password that are hashed.
pub(crate) fn prepare(password: &[u8]) -> Cow<'_, [u8]> {
    let prepared = str::from_utf8(password).ok().filter(|text| !text.is_ascii()).and_then(saslprep);
    prepared.map_or(Cow::Borrowed(password), |text| Cow::Owned(text.into_bytes()))
}

/// Returns `None` when SASLprep forbids the password.
fn saslprep(password: &str) -> Option<String> {
    let space = |c| if tables::non_ascii_space_character(c) { ' ' } else { c };
    let mapped: Vec<char> =
        password.chars().map(space).filter(|c| !tables::commonly_mapped_to_nothing(*c)).collect();
    let is_forbidden = |c: &char| is_prohibited(*c) || tables::unassigned_code_point(*c);
    if mapped.is_empty() || mapped.iter().any(is_forbidden) || mixes_directions(&mapped) {
        return None;
    }
    Some(mapped.into_iter().nfkc().collect())
}

/// Tables C of RFC 3454 that RFC 4013, section 2.3, prohibits.
fn is_prohibited(c: char) -> bool {
    tables::ascii_control_character(c)
        || tables::non_ascii_control_character(c)
        || tables::private_use(c)
        || tables::non_character_code_point(c)
        || tables::surrogate_code(c)
        || tables::inappropriate_for_plain_text(c)
        || tables::inappropriate_for_canonical_representation(c)
        || tables::change_display_properties_or_deprecated(c)
        || tables::tagging_character(c)
}

/// RFC 3454, section 6: right-to-left text begins and ends with right-to-left letters, and has no left-to-right letter.
fn mixes_directions(text: &[char]) -> bool {
    let is_rtl = |c: &char| tables::bidi_r_or_al(*c);
    let ends_are_rtl = || text.first().is_some_and(is_rtl) && text.last().is_some_and(is_rtl);
    text.iter().any(is_rtl) && (text.iter().any(|c| tables::bidi_l(*c)) || !ends_are_rtl())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prepare_keeps_forbidden_passwords_unchanged() {
        for (password, expected) in [
            // RFC 4013, section 3.
            ("I\u{ad}X", "IX"),
            ("user", "user"),
            ("USER", "USER"),
            ("\u{aa}", "a"),
            ("\u{2168}", "IX"),
            ("\u{7}", "\u{7}"),
            ("\u{627}\u{31}", "\u{627}\u{31}"),
            // A no-break space is a space, a decomposed letter is composed.
            ("a\u{a0}b", "a b"),
            ("o\u{308}", "\u{f6}"),
            // Forbidden before the normalisation, which would make an allowed character of it.
            ("a\u{340}", "a\u{340}"),
            // SASLprep drops its only character.
            ("\u{ad}", "\u{ad}"),
            // Not assigned in Unicode 3.2.
            ("\u{221}a", "\u{221}a"),
            ("\u{1f600}\u{aa}", "\u{1f600}\u{aa}"),
            ("\u{5d0}\u{aa}", "\u{5d0}\u{aa}"),
            ("", ""),
        ] {
            assert_eq!(prepare(password.as_bytes()), expected.as_bytes(), "{password:?}");
        }
        assert_eq!(prepare(b"\xff\xc2\xaa"), &b"\xff\xc2\xaa"[..]);
    }
}
