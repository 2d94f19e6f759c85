//! Bytes of a request that could pretend to be something else in a log: another line, another field,
//! a command to a terminal. They are written by their numbers.

use std::fmt::Write;

/// Characters that are written of one value. More is cut off, and `...` says so.
pub(super) const LONGEST: usize = 4096;

/// Whether a character is no part of a text that people read: control characters, ends of lines of
/// any kind, and what changes the direction of writing or is not seen.
fn is_odd(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// The beginning of a text, and whether that is not all of it.
fn cut(text: &str) -> (&str, bool) {
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) if text.len() > LONGEST => (&text[..at], true),
        _ => (text, false),
    }
}

/// A JSON string (RFC 8259, section 7), with its quotation marks.
pub(super) fn json(out: &mut String, text: &str) {
    out.push('"');
    let (text, more) = cut(text);
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_odd(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push_str(if more { "...\"" } else { "\"" });
}

/// Text within a line, as nginx escapes it: what is odd, quotation marks and backslashes, and outside
/// of quotation marks spaces, byte by byte as `\xHH`.
pub(super) fn text(out: &mut String, text: &str, quoted: bool) {
    let (text, more) = cut(text);
    for c in text.chars() {
        if c == '"' || c == '\\' || is_odd(c) || (c.is_whitespace() && !(quoted && c == ' ')) {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                let _ = write!(out, "\\x{byte:02X}");
            }
        } else {
            out.push(c);
        }
    }
    if more {
        out.push_str("...");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that has ever been used to forge a line.
    const HOSTILE: &str =
        "a\r\n\"b\\\u{1b}[31m\u{7f}\u{85}\u{2028}\u{202e}\u{feff}\u{e0041}\u{fffd} \tä";

    #[test]
    fn json_reads_back_what_it_was_and_is_one_line_of_what_can_be_seen() {
        let mut out = String::new();
        json(&mut out, HOSTILE);
        assert_eq!(serde_json::from_str::<String>(&out).expect("it is JSON"), HOSTILE);
        assert!(!out.chars().any(is_odd), "{out}");
    }

    #[test]
    fn text_has_neither_quotation_marks_nor_ends_of_lines() {
        for quoted in [true, false] {
            let mut out = String::new();
            text(&mut out, HOSTILE, quoted);
            assert!(!out.contains('"') && !out.chars().any(is_odd), "{out}");
            assert_eq!(out.contains(' '), quoted, "{out}");
            assert!(out.contains("\\x0D\\x0A\\x22b\\x5C\\x1B[31m\\x7F\\xC2\\x85\\xE2\\x80\\xA8"));
        }
    }

    #[test]
    fn what_is_too_long_is_cut_at_a_character() {
        let mut out = String::new();
        json(&mut out, &"ä".repeat(LONGEST * 3));
        assert_eq!(out.chars().count(), LONGEST + 5);
        let mut out = String::new();
        text(&mut out, &"ä".repeat(LONGEST), true);
        assert_eq!(out.chars().count(), LONGEST);
    }
}
