//! Values of headers and query parameters, conditions on them, and values a byte beside.

use beeway_model::StringMatch;

use super::Examples;
use super::paths::escape;
use beeway_model::testing::Dice;

pub const NAMES: [&str; 9] =
    ["x-version", "end-user", "cookie", "x", "host", ":authority", "x-v", "accept-language", "te"];
pub const PARAMETERS: [&str; 9] = ["q", "version", "v", "qq", "", "Q", "a%20b", "a+b", "user[]"];
const VALUES: [&str; 16] = [
    "v1",
    "v",
    "v2",
    "v11",
    "jason",
    "jas",
    "",
    "a b",
    "shop",
    "V1",
    "user=jason; x=1",
    "Mozilla/5.0 (X11) Chrome/120.0",
    "1.2.3",
    "a=b",
    "gr\u{fc}n",
    "de-DE,de;q=0.9",
];

/// Values that several rules name.
pub fn pool(dice: &mut Dice) -> Vec<String> {
    let mut pool: Vec<String> = (0..5).map(|_| dice.of(&VALUES).to_owned()).collect();
    let length = dice.between(1, 40);
    pool.push(dice.text("ab", length));
    if dice.one_in(6) {
        let length = dice.of(&[64, 128, 255, 256]);
        pool.push(dice.text("abc", length));
    }
    pool
}

/// A condition on one of these values.
pub fn condition(
    dice: &mut Dice,
    values: &[String],
    regex: bool,
    examples: &mut Examples,
) -> StringMatch {
    let value = dice.of(values);
    match dice.below(if regex { 10 } else { 7 }) {
        0 => StringMatch::Present,
        1 | 2 => {
            let length = (0..=value.len()).rev().step_by(dice.between(1, 3));
            let cut = length.filter(|at| value.is_char_boundary(*at)).nth(dice.below(2));
            StringMatch::Prefix(value[..cut.unwrap_or_default()].to_owned())
        }
        3..7 => StringMatch::Exact(value),
        _ => {
            let (pattern, example) = pattern(dice, &value);
            StringMatch::Regex(examples.keep(pattern, example))
        }
    }
}

fn pattern(dice: &mut Dice, value: &str) -> (String, String) {
    let short: String = value.chars().take(40).collect();
    let v = escape(&short);
    match dice.below(17) {
        0 => ("v[0-9]+".to_owned(), "v12".to_owned()),
        1 => (".*Chrome.*".to_owned(), "Mozilla Chrome/1".to_owned()),
        2 => (format!("(?i){v}"), short.to_ascii_uppercase()),
        3 => ("^(.*?;)?(user=jason)(;.*)?$".to_owned(), "user=jason; x".to_owned()),
        4 => (format!("{v}|b"), short),
        5 => (format!("{v}.*"), format!("{short}x")),
        6 => (format!(".*{v}"), format!("x{short}")),
        7 => (".+".to_owned(), "x".to_owned()),
        8 => (".*".to_owned(), short),
        9 => (r"\d{1,3}(\.\d+)*".to_owned(), "1.2.3".to_owned()),
        10 => ("[^;]*".to_owned(), short),
        11 => (r"\w+".to_owned(), "abc".to_owned()),
        12 => (format!(r"\b{v}\b.*"), format!("{short} x")),
        13 => ("gr.n".to_owned(), "gr\u{fc}n".to_owned()),
        14 => ("(".to_owned(), short),
        15 => (String::new(), String::new()),
        _ => (format!("[^a]{v}?"), format!("b{short}")),
    }
}

/// A value for which a condition holds.
pub fn holding(dice: &mut Dice, condition: &StringMatch, examples: &Examples) -> Vec<u8> {
    match condition {
        StringMatch::Present => dice.of(&VALUES).as_bytes().to_vec(),
        StringMatch::Exact(value) => value.as_bytes().to_vec(),
        StringMatch::Prefix(value) => {
            let more = dice.of(&["", "x", " y", "-1", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]);
            format!("{value}{more}").into_bytes()
        }
        StringMatch::Regex(pattern) => examples.of(pattern).into_bytes(),
    }
}

/// A value beside another one; of bytes that a field may have.
pub fn nudge(dice: &mut Dice, value: &[u8]) -> Vec<u8> {
    let mut bytes = value.to_vec();
    let at = dice.below(bytes.len().max(1));
    match dice.below(12) {
        0 => drop(bytes.pop()),
        1 => bytes.push(dice.byte("ab1; ")),
        2 => bytes.insert(at, dice.byte("ab1;\t ")),
        3 if !bytes.is_empty() => drop(bytes.remove(at)),
        4 if !bytes.is_empty() => bytes[at] = dice.byte("abv12"),
        5 if !bytes.is_empty() && bytes[at].is_ascii_alphabetic() => bytes[at] ^= 0x20,
        6 => bytes.truncate(at),
        // left to userspace under a regex
        7 if dice.one_in(2) => bytes.insert(at, dice.of(&[0x80, 0xff, 0xc3, 0xe4])),
        8 if dice.one_in(2) => drop(bytes.splice(at..at, "\u{e4}".bytes())),
        9 if dice.one_in(3) => {
            let length = dice.of(&[200, 254, 255, 256, 257, 300, 1000]);
            bytes.extend_from_slice(dice.text("abc", length).as_bytes());
        }
        10 => bytes = dice.of(&VALUES).as_bytes().to_vec(),
        _ => bytes.push(b'x'),
    }
    bytes
}
