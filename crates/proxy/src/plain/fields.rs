//! Header fields as they stand in a message.

use beeway_model::HeaderEdits;

use crate::headers::HOP_BY_HOP;

/// Fields in their order, names in the case that they were sent in.
pub(super) struct Fields<'a>(pub Vec<(&'a str, &'a [u8])>);

/// Names of fields that say how a message is framed, or that the HTTP library treats in a way of
/// its own: rules that change them are not plain.
const FRAMING: [&str; 11] = [
    "connection",
    "content-length",
    "date",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

impl<'a> Fields<'a> {
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(found, _)| !found.eq_ignore_ascii_case(name));
    }

    pub fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|(found, _)| found.eq_ignore_ascii_case(name))
    }

    /// One field of this name, in the place of the first that is there.
    pub fn set(&mut self, name: &'a str, value: &'a [u8]) {
        let mut first = true;
        self.0.retain_mut(|(found, old)| {
            if !found.eq_ignore_ascii_case(name) {
                return true;
            }
            *old = value;
            std::mem::take(&mut first)
        });
        if first {
            self.0.push((name, value));
        }
    }

    pub fn edit(&mut self, edits: &'a HeaderEdits) {
        for name in &edits.remove {
            self.remove(name);
        }
        for (name, value) in &edits.set {
            self.set(name, value.as_bytes());
        }
        self.0.extend(edits.add.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
    }

    /// Removes fields that are about one connection only.
    pub fn strip(&mut self) {
        self.0.retain(|(name, _)| !is_hop_by_hop(name));
    }

    pub fn write(&self, out: &mut Vec<u8>) {
        for (name, value) in &self.0 {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
    }
}

fn is_hop_by_hop(name: &str) -> bool {
    // Most names are told from these by their length alone.
    matches!(name.len(), 2 | 7 | 10 | 16 | 17)
        && HOP_BY_HOP.iter().any(|hop| name.eq_ignore_ascii_case(hop.as_str()))
}

/// Whether edits can be carried out on the fields as they stand.
pub(super) fn are_plain(edits: &HeaderEdits) -> bool {
    let named = edits.set.iter().chain(&edits.add);
    edits.remove.iter().all(|name| is_plain_name(name))
        && named.into_iter().all(|(name, value)| is_plain_name(name) && is_text(value.as_bytes()))
}

fn is_plain_name(name: &str) -> bool {
    let token = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    !name.is_empty() && name.bytes().all(token) && !FRAMING.contains(&name)
}

/// Whether a value is visible ASCII and spaces.
pub(super) fn is_text(value: &[u8]) -> bool {
    value.iter().all(|b| (0x20..0x7f).contains(b))
}

/// Whether every line of a head ends with CR and LF, and none is empty before the last. The parser
/// takes an LF alone for the end of a line, and skips empty lines in front, as RFC 9112 section 2.2
/// lets it.
pub(super) fn has_strict_lines(head: &[u8]) -> bool {
    let bare =
        head.windows(2).fold(false, |bare, two| bare | (two[1] == b'\n') & (two[0] != b'\r'));
    !bare && !matches!(head, [b'\r' | b'\n', ..])
}

/// A length in its one form: digits, and no zero in front of others.
pub(super) fn length(value: &[u8]) -> Option<u64> {
    let plain = matches!(value, [b'0'] | [b'1'..=b'9', ..]) && value.len() <= 18;
    let digit = |sum: u64, b: &u8| b.is_ascii_digit().then(|| sum * 10 + u64::from(b - b'0'));
    if plain { value.iter().try_fold(0, digit) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(fields: &Fields<'_>) -> String {
        let mut out = Vec::new();
        fields.write(&mut out);
        String::from_utf8(out).unwrap().replace("\r\n", "|")
    }

    #[test]
    fn fields_are_removed_set_and_added() {
        let sent: &[(&str, &[u8])] =
            &[("A", b"1"), ("B", b"2"), ("a", b"3"), ("Keep-Alive", b"x"), ("TE", b"y")];
        let mut fields = Fields(sent.to_vec());
        fields.strip();
        let edits = HeaderEdits {
            remove: vec!["b".into()],
            set: vec![("a".into(), "4".into()), ("c".into(), "5".into())],
            add: vec![("a".into(), "6".into())],
        };
        fields.edit(&edits);
        assert_eq!(text(&fields), "A: 4|c: 5|a: 6|");
        assert!(fields.contains("C") && !fields.contains("b"));
    }

    #[test]
    fn edits_of_framing_are_not_plain() {
        let set = |name: &str, value: &str| HeaderEdits {
            set: vec![(name.into(), value.into())],
            ..HeaderEdits::default()
        };
        assert!(are_plain(&set("x-a", "text, more")) && are_plain(&HeaderEdits::default()));
        for (name, value) in
            [("host", "a"), ("X-A", "a"), ("", "a"), ("a b", "a"), ("x-a", "\r\n"), ("x-a", "ä")]
        {
            assert!(!are_plain(&set(name, value)), "{name} {value}");
        }
    }

    #[test]
    fn a_line_has_one_end() {
        for (head, strict) in [
            ("A: b\r\n\r\n", true),
            ("A: b\n\r\n", false),
            ("A: b\r\n\n", false),
            ("\r\nA: b\r\n\r\n", false),
            ("\nA: b\r\n\r\n", false),
        ] {
            assert_eq!(has_strict_lines(head.as_bytes()), strict, "{head:?}");
        }
    }

    #[test]
    fn a_length_has_one_form() {
        for (value, wanted) in [
            ("0", Some(0)),
            ("10", Some(10)),
            ("999999999999999999", Some(999_999_999_999_999_999)),
            ("9999999999999999999", None),
            ("010", None),
            ("+1", None),
            ("1 ", None),
            ("1,1", None),
            ("", None),
        ] {
            assert_eq!(length(value.as_bytes()), wanted, "{value}");
        }
    }
}
