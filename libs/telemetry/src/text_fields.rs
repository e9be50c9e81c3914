//! Fields of the text log: writes each field of an event or span, with control characters of its value escaped.
//!
//! A value may come from a client, a role name for instance. Written as it came, a line break in it would begin what
//! looks like a line of the server, and an escape sequence would steer the operator's terminal. The layout is that of
//! tracing-subscriber's own fields, which escape no line break. The JSON format needs none of this. Called by
//! [`logging`](crate::logging).

use std::fmt::{self, Write};

use tracing::field::Field;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

/// ECMA-48 "Select Graphic Rendition": italic, faint, and back to normal.
const ITALIC: &str = "\u{1b}[3m";
const FAINT: &str = "\u{1b}[2m";
const NORMAL: &str = "\u{1b}[0m";

/// Writes `message name=value name=value`, the names styled where the log has colours.
pub(crate) fn text_fields() -> impl for<'w> FormatFields<'w> + Send + Sync + 'static {
    debug_fn(write_field).delimited(" ")
}

fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let name = field.name();
    if name != "message" {
        let name = name.trim_start_matches("r#");
        if writer.has_ansi_escapes() {
            write!(writer, "{ITALIC}{name}{NORMAL}{FAINT}={NORMAL}")?;
        } else {
            write!(writer, "{name}=")?;
        }
    }
    write!(Escaping(writer), "{value:?}")
}

/// Passes text on with each control character and Unicode line break as a Rust escape: `\n`, `\u{1b}`.
struct Escaping<'a, 'w>(&'a mut Writer<'w>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.split_inclusive(is_escaped) {
            let mut characters = piece.chars();
            match characters.next_back().filter(|last| is_escaped(*last)) {
                Some(last) => write!(self.0, "{}{}", characters.as_str(), last.escape_default())?,
                None => self.0.write_str(piece)?,
            }
        }
        Ok(())
    }
}

/// The line and paragraph separators are no control characters, but some viewers break lines at them.
fn is_escaped(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use tracing::dispatcher::with_default;

    use crate::LogFormat;
    use crate::test_log::TestLog;

    const FORGED: &str = "me\n2026-01-01T00:00:00Z  INFO proxy: \u{1b}[31maccepted\r\u{85}\u{2028}\tend";

    /// Logs [`FORGED`] in every place where a value can stand.
    fn logged(log: &TestLog) -> String {
        with_default(&log.subscriber, || {
            let _session = tracing::info_span!("session", peer = %FORGED, name = FORGED).entered();
            tracing::info!(role = %FORGED, database = FORGED, r#type = ?FORGED, "refused {FORGED}");
        });
        log.lines.text()
    }

    #[test]
    fn text_line_escapes_control_characters() {
        let text = logged(&TestLog::new(LogFormat::Text, "info"));
        let line = text.strip_suffix('\n').unwrap();
        assert!(!line.contains(super::is_escaped), "{text:?}");
        for shown in [
            "INFO session{peer=me\\n2026",
            " name=\"me\\n2026",
            "refused me\\n2026",
            "role=me\\n2026",
            "database=\"me\\n2026",
            " type=\"me\\n2026",
            "\\u{1b}[31maccepted\\r\\u{85}\\u{2028}\\tend",
        ] {
            assert!(line.contains(shown), "{shown} in {text:?}");
        }
    }

    /// Styles are the formatter's own escape sequences; those of a value are escaped all the same.
    #[test]
    fn coloured_line_escapes_control_characters() {
        let text = logged(&TestLog::coloured(LogFormat::Text, "info"));
        assert!(text.contains("\u{1b}[3mrole\u{1b}[0m\u{1b}[2m=\u{1b}[0mme\\n2026"), "{text:?}");
        assert!(!text.contains("\u{1b}[31m") && text.lines().count() == 1, "{text:?}");
    }

    #[test]
    fn json_line_escapes_control_characters() {
        let text = logged(&TestLog::new(LogFormat::Json, "info"));
        let line = text.strip_suffix('\n').unwrap();
        assert!(!line.contains(|character: char| character.is_ascii_control()), "{text:?}");
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["role"], FORGED);
        assert_eq!(line["span"]["peer"], FORGED);
    }
}
