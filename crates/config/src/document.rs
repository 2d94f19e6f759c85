//! YAML text → trees of values that remember their line, one for each document.
//!
//! A file is cut into documents before it is parsed, so that a mistake in one document costs that
//! document only. The cut is exact: a line that begins with `---` or `...` ends a document even
//! inside a block scalar (YAML 1.2 section 9.1.2).

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// A YAML value and the line that it begins on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    /// Line in the document, counted from 1.
    pub line: usize,
    /// The value.
    pub value: Value,
}

/// What a [`Node`] holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// A number that fits.
    Int(i64),
    /// A number that only fits without a sign.
    Unsigned(u64),
    /// A number with a fraction.
    Float(f64),
    /// Text.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping in the order of the file.
    Map(Vec<Entry>),
}

/// One key of a mapping.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    /// The key, as it is written.
    pub key: String,
    /// Line of the key in the document.
    pub line: usize,
    /// What it maps to.
    pub node: Node,
}

/// A document that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Malformed {
    /// Line in the document.
    pub line: usize,
    /// What the parser says.
    pub reason: String,
}

/// Cuts a file into its documents, each with the number of lines before it; those without content
/// are left out.
pub(crate) fn cut(text: &str) -> Vec<(usize, &str)> {
    // A byte order mark is legal at the start of a stream, and no part of the first key.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut pieces = pieces(text);
    pieces.retain(|(_, piece)| piece.lines().any(|line| !is_blank(line)));
    pieces
}

/// Nothing that makes a document: comments, directives and markers.
fn is_blank(line: &str) -> bool {
    let rest = line.strip_prefix("---").or_else(|| line.strip_prefix("...")).unwrap_or(line).trim();
    rest.is_empty() || rest.starts_with('#') || line.starts_with('%')
}

fn pieces(text: &str) -> Vec<(usize, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if number > start_line && is_marker(line) {
            parts.push((start_line, &text[start..at]));
            (start, start_line) = (at, number);
        }
        at += line.len();
    }
    parts.push((start_line, &text[start..]));
    parts
}

fn is_marker(line: &str) -> bool {
    line.strip_prefix("---")
        .or_else(|| line.strip_prefix("..."))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Parses a document; `None`: there is nothing in it. Lines count from its own first one, so that
/// the result is the same wherever in a file it stands.
pub(crate) fn parse(text: &str) -> Option<Result<Node, Malformed>> {
    // A `...` line ends the document before it; here it only begins the piece.
    let body: Cow<'_, str> = match text.strip_prefix("...") {
        Some(_) => {
            text.split_once('\n').map_or(Cow::default(), |(_, rest)| format!("\n{rest}").into())
        }
        None => Cow::Borrowed(text),
    };
    // The depth bounds recursion here and in every walk over the tree. The other limits are wide
    // enough for a dump of a large cluster in one `List`.
    // Only `true` and `false` are booleans (YAML 1.2): a header value `on` or `no` stays text.
    let options = serde_saphyr::options! {
        strict_booleans: true,
        budget: serde_saphyr::budget! { max_depth: 64, max_nodes: 8_000_000, max_events: 32_000_000 },
    };
    match serde_saphyr::from_str_with_options::<Spanned<Value>>(&body, options) {
        Ok(root) => Some(Node::from(root)).filter(|node| node.value != Value::Null).map(Ok),
        Err(error) => {
            let line = error.location().map_or(1, |at| at.line() as usize).max(1);
            // The parser may stop one line past the end; the last line is the better place.
            let line = line.min(body.lines().count().max(1));
            Some(Err(Malformed { line, reason: one_line(&error) }))
        }
    }
}

/// The fields of the top level of a document that is no YAML, as far as each can be read by itself.
pub(crate) fn fields(text: &str) -> Vec<Entry> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let begins = |first: char| first.is_ascii_alphabetic() || matches!(first, '"' | '\'');
    let starts: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].starts_with(begins)).collect();
    let mut fields = Vec::new();
    for (at, start) in starts.iter().enumerate() {
        let end = starts.get(at + 1).copied().unwrap_or(lines.len());
        // As many empty lines in front as there were others: lines keep their numbers.
        let alone = "\n".repeat(*start) + &lines[*start..end].concat();
        if let Some(Ok(Node { value: Value::Map(read), .. })) = parse(&alone) {
            fields.extend(read);
        }
    }
    fields
}

/// The message without the source snippet and the position, which [`Malformed::line`] carries.
fn one_line(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let first = text.lines().next().unwrap_or("not YAML");
    let first = first.split(" at line ").next().unwrap_or(first);
    first.strip_prefix("error: ").unwrap_or(first).to_owned()
}

impl From<Spanned<Value>> for Node {
    fn from(spanned: Spanned<Value>) -> Self {
        Self { line: spanned.referenced.line() as usize, value: spanned.value }
    }
}

impl Node {
    /// The value under a key of a mapping.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|e| e.key == key).map(|e| &e.node),
            _ => None,
        }
    }

    /// The items of a `List` object, if this is one and `list` says so; else the node itself.
    pub(crate) fn into_list_items(mut self, list: bool) -> Result<Vec<Node>, Node> {
        if let (true, Value::Map(entries)) = (list, &mut self.value)
            && let Some(entry) = entries.iter_mut().find(|e| e.key == "items")
            && let Value::List(items) = &mut entry.node.value
        {
            return Ok(std::mem::take(items));
        }
        Err(self)
    }

    /// The text under a key of a mapping.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match &self.get(key)?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The line of what a dotted path names (`spec.http.0.match`), or of the deepest part of the
    /// path that is there.
    pub(crate) fn line_of(&self, path: &str) -> usize {
        let Some((step, rest)) = path.split_once('.').or((!path.is_empty()).then_some((path, "")))
        else {
            return self.line;
        };
        match &self.value {
            Value::Map(entries) => match entries.iter().find(|e| e.key == step) {
                Some(entry) if rest.is_empty() => entry.line,
                Some(entry) => match entry.node.value {
                    Value::Map(_) | Value::List(_) => entry.node.line_of(rest),
                    _ => entry.line,
                },
                // Keys that hold dots themselves, such as label names.
                None => entries.iter().find(|e| e.key == path).map_or(self.line, |e| e.line),
            },
            Value::List(items) => match step.parse::<usize>().ok().and_then(|at| items.get(at)) {
                Some(item) => item.line_of(rest),
                None => self.line,
            },
            _ => self.line,
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::Unsigned(value), Value::Int))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<Spanned<Value>>()? {
            items.push(item.into());
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        // As text: a label `1.0` or `on` must not become another name.
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let (line, key) = (key.referenced.line() as usize, key.value);
            let node = map.next_value::<Spanned<Value>>()?.into();
            entries.push(Entry { key, line, node });
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Result<Node, Malformed>> {
        cut(text).into_iter().filter_map(|(_, piece)| parse(piece)).collect()
    }

    #[test]
    fn documents_keep_their_lines() {
        let text = "# head\na: 1\n---\n---\n# only a comment\n--- # c\nb:\n- x\n- y: {z: 2}\n...\n---\nc: 3\n";
        let documents: Vec<(usize, Node)> = cut(text)
            .into_iter()
            .filter_map(|(before, piece)| Some((before, parse(piece)?.unwrap())))
            .collect();
        assert_eq!(documents.len(), 3);
        let line_of = |document: usize, path: &str| {
            let (before, node) = &documents[document];
            before + node.line_of(path)
        };
        assert_eq!(line_of(0, "a"), 2);
        assert_eq!(line_of(1, "b"), 7);
        assert_eq!(line_of(1, "b.0"), 8);
        assert_eq!(line_of(1, "b.1.y.z"), 9);
        assert_eq!(line_of(1, "b.1.y.absent"), 9);
        assert_eq!(line_of(2, "c"), 12);
    }

    #[test]
    fn one_bad_document_costs_only_itself() {
        for (bad, line) in
            [("b: [1, 2\n", 3), ("b: 1\nb: 2\n", 4), ("b: 1\n c: 2\n", 4), ("b: *x\n", 3)]
        {
            let text = format!("a: 1\n---\n{bad}---\nc: 3\n");
            let read = read(&text);
            assert_eq!(read.len(), 3, "{bad}");
            assert!(read[0].is_ok() && read[2].is_ok(), "{bad}");
            let malformed = read[1].clone().unwrap_err();
            assert_eq!(cut(&text)[1].0 + malformed.line, line, "{bad} {malformed:?}");
            assert!(!malformed.reason.contains('\n'), "{malformed:?}");
        }
    }

    #[test]
    fn fields_are_read_one_by_one() {
        let read = fields("a: 1\n\"b\":\n  c: 2\nd: [\n\te: 3\nf: x: y\ng: 4\n");
        let read: Vec<(&str, usize)> = read.iter().map(|e| (e.key.as_str(), e.line)).collect();
        assert_eq!(read, [("a", 1), ("b", 2), ("g", 7)]);
    }

    #[test]
    fn keys_and_words_stay_what_is_written() {
        let node = read("y: on\n1.0: no\n0x1: off\ntrue: Yes\n").remove(0).unwrap();
        let Value::Map(entries) = &node.value else { panic!("{node:?}") };
        let keys: Vec<&str> = entries.iter().map(|e| e.key.as_str()).collect();
        assert_eq!(keys, ["y", "1.0", "0x1", "true"]);
        let texts: Vec<Value> = entries.iter().map(|e| e.node.value.clone()).collect();
        assert_eq!(texts, ["on", "no", "off", "Yes"].map(|text| Value::Text(text.into())));
    }

    #[test]
    fn scalars_keep_their_types() {
        let text =
            "a: 1\nb: '1'\nc: true\nd: ~\ne: 1.5\nf: 18446744073709551615\ng: |\n  x\n  y\nh: -3\n";
        let node = read(text).remove(0).unwrap();
        let value = |key| node.get(key).unwrap().value.clone();
        assert_eq!(value("a"), Value::Int(1));
        assert_eq!(value("b"), Value::Text("1".into()));
        assert_eq!(value("c"), Value::Bool(true));
        assert_eq!(value("d"), Value::Null);
        assert_eq!(value("e"), Value::Float(1.5));
        assert_eq!(value("f"), Value::Unsigned(u64::MAX));
        assert_eq!(value("g"), Value::Text("x\ny\n".into()));
        assert_eq!(value("h"), Value::Int(-3));
    }
}
