//! What goes to standard output and standard error: text without colour, logs on stderr only.

use std::fmt::Write as _;
use std::io::{self, Write};

use anyhow::{Context, Result};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

/// Starts logging to stderr. `BEEWAY_LOG`, or `RUST_LOG`, says what is logged; `info` when neither
/// is set.
pub fn start_log() {
    let wanted = std::env::var("BEEWAY_LOG").or_else(|_| std::env::var("RUST_LOG"));
    let filter = EnvFilter::new(wanted.as_deref().unwrap_or("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
}

/// Says why a command failed, causes included.
pub fn error(error: &anyhow::Error) {
    eprintln!("beeway: {error:#}");
}

/// Writes text to standard output. A reader that has gone (`| head`) is no error.
pub fn text(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("write to standard output"),
    }
}

/// Writes a value as one JSON document.
pub fn json(value: &impl Serialize) -> Result<()> {
    let document = serde_json::to_string_pretty(value).context("write JSON")?;
    text(&(document + "\n"))
}

/// Rows of cells as aligned columns, two blanks apart. Columns whose number is in `right` are
/// aligned to the right; rows may be of different lengths.
pub fn table(rows: &[Vec<String>], right: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            line += &match right.contains(&column) {
                true => format!("  {cell:>width$}"),
                false => format!("  {cell:<width$}"),
            };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// Text in which nothing ends a line or says anything to a terminal: control characters, and those
/// that do not show or change the direction of writing, are escaped, and so is the backslash.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\'' => shown.push(c),
            _ => shown.extend(c.escape_debug()),
        }
    }
    shown
}

/// A JSON document in ASCII, which means the same: beyond it are characters that say something to
/// terminals. Outside of strings there are none.
pub fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\u{7f}'.. => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(text, "\\u{unit:04x}");
                }
            }
            _ => text.push(c),
        }
    }
    text
}

/// A number and the word for that many things.
pub fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a".into(), "1".into()], vec!["long".into(), "10".into(), "x".into()]];
        assert_eq!(table(&rows, &[1]), "  a      1\n  long  10  x\n");
        assert_eq!(table(&[], &[]), "");
        assert_eq!(ascii("[\"\u{9b}\u{7f}ä😀\"]"), r#"["\u009b\u007f\u00e4\ud83d\ude00"]"#);
        assert_eq!(printable("a b\x1b\r\"\u{202e}ä"), "a b\\u{1b}\\r\"\\u{202e}ä");
        assert_eq!((count(1, "rule"), count(0, "rule")), ("1 rule".into(), "0 rules".into()));
    }
}
