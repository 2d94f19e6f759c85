//! Paths that have beginnings in common, patterns for them, and paths a byte beside.

use beeway_model::PathMatch;

use super::Examples;
use beeway_model::testing::Dice;

const ALPHABETS: [&str; 4] =
    ["ab", "abc/", "abcdefghijklmnopqrstuvwxyz0123456789-_/", "aAbB01-_.~;=:@+,$!&'()*/"];
const SEGMENTS: [&str; 12] =
    ["a", "ab", "b", "api", "v1", "v11", "v2", "A", "x;y", "~u", "users", "index.html"];

/// Something to put behind a path.
pub fn tail(dice: &mut Dice, longest: usize) -> String {
    match dice.below(4) {
        0 => format!("/{}", dice.of(&SEGMENTS)),
        1 => "/".to_owned(),
        _ => {
            let (alphabet, length) = (dice.of(&ALPHABETS), dice.between(1, longest));
            dice.text(alphabet, length)
        }
    }
}

/// Paths of which many go along with another one for some bytes, and leave it anywhere.
pub fn family(dice: &mut Dice, count: usize, longest: usize) -> Vec<String> {
    let mut paths = vec!["/".to_owned()];
    while paths.len() <= count {
        let old = dice.of(&paths);
        // each path in part, some as a whole
        let cut = if dice.one_in(3) { old.len() } else { dice.between(1, old.len()) };
        let path = format!("{}{}", &old[..cut], tail(dice, longest));
        paths.push(plain(path));
    }
    if count > 4 {
        paths.remove(0);
    }
    paths
}

/// The path without what makes it one that needs normalising.
pub fn plain(path: String) -> String {
    let mut path: String = path.chars().filter(|c| c.is_ascii_graphic()).collect();
    path = path.replace(['%', '\\', '#', '?'], "_");
    while path.contains("/.") {
        path = path.replace("/.", "/_");
    }
    if path.starts_with('/') { path } else { format!("/{path}") }
}

/// A path beside another one.
pub fn nudge(dice: &mut Dice, path: &str) -> String {
    let mut bytes = path.as_bytes().to_vec();
    let at = dice.below(bytes.len().max(1));
    let flip = |byte: &mut u8| {
        if byte.is_ascii_alphabetic() {
            *byte ^= 0x20;
        }
    };
    match dice.below(14) {
        0 => bytes.push(b'/'),
        1 | 2 => bytes.extend_from_slice(tail(dice, 40).as_bytes()),
        3 => bytes.push(dice.byte("ab/s1.")),
        4 => drop(bytes.pop()),
        5 => bytes.truncate(at),
        6 if !bytes.is_empty() => drop(bytes.remove(at)),
        7 => bytes.insert(at, dice.byte("ab/s1.")),
        8 if !bytes.is_empty() => bytes[at] = dice.byte(ALPHABETS[3]),
        9 if !bytes.is_empty() => bytes[at] ^= 1,
        10 if !bytes.is_empty() => flip(&mut bytes[at]),
        11 => bytes.iter_mut().for_each(flip),
        12 if bytes.ends_with(b"/") => drop(bytes.pop()),
        13 if dice.one_in(4) => {
            let length = dice.between(100, 4000);
            bytes.extend_from_slice(dice.text(ALPHABETS[2], length).as_bytes());
        }
        _ => bytes.extend_from_slice(b"/b"),
    }
    plain(String::from_utf8_lossy(&bytes).into_owned())
}

/// A condition on one of these paths or one beside.
pub fn literal(dice: &mut Dice, paths: &[String]) -> PathMatch {
    let mut path = dice.of(paths);
    if dice.one_in(6) {
        path = nudge(dice, &path);
    }
    if dice.one_in(60) {
        // what no path that the kernel judges has, or none at all
        path =
            dice.of(&["", "a", "/a b", "/\u{e9}", "/a?b", "/%61", "/a/../b", "//", "/a\\b"]).into();
    }
    match dice.below(3) {
        0 => PathMatch::Prefix(path),
        1 => PathMatch::Segments(path),
        _ => PathMatch::Exact(path),
    }
}

/// The text as a regular expression.
pub fn escape(text: &str) -> String {
    let special = |c: char| "\\.+*?()|[]{}^$".contains(c);
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

/// A regular expression for what begins with a path.
pub fn below(dice: &mut Dice, path: &str, examples: &mut Examples) -> PathMatch {
    let path = path.trim_end_matches('/');
    let (more, example) = dice.of(&[
        ("/[0-9]+", "/42"),
        ("[a-c]*", "ab"),
        ("/v[0-9]{1,3}/x", "/v12/x"),
        ("/[^/]+/b", "/x/b"),
        ("(/.*)?", "/x"),
        ("/.*", "/"),
        (r".*\.json", "/a/b.json"),
        ("/(a|ab)c?", "/abc"),
        ("/?", "/"),
    ]);
    let pattern = format!("{}{more}", escape(path));
    PathMatch::Regex(examples.keep(pattern, plain(format!("{path}{example}"))))
}

/// A regular expression about one of these paths.
pub fn regex(dice: &mut Dice, paths: &[String], examples: &mut Examples) -> PathMatch {
    let path = dice.of(paths);
    let path = path.trim_end_matches('/');
    let path = &path[..path.len().min(40)];
    let p = escape(path);
    let q = escape(&dice.of(paths).chars().take(40).collect::<String>());
    let (pattern, example) = match dice.below(28) {
        0 => (format!("{p}/.*"), format!("{path}/x/y")),
        1 => (format!("{p}.*"), format!("{path}x")),
        2 => (r".*\.json".to_owned(), format!("{path}.json")),
        3 => (r"/[a-z]+\.html".to_owned(), "/index.html".to_owned()),
        4 => (format!("{p}/[^/]+/b"), format!("{path}/x/b")),
        5 => (format!("(?i){p}"), path.to_ascii_uppercase()),
        6 => (format!("(?:{p}|{q})/c"), format!("{path}/c")),
        7 => (format!("{p}|{q}"), path.to_owned()),
        8 => (format!("{p}/v[0-9]{{1,3}}"), format!("{path}/v{}", dice.below(2000))),
        9 => (format!("{p}/?"), format!("{path}/")),
        10 => (format!("{p}(/.*)?"), path.to_owned()),
        11 => (format!("{p}/[^/]*"), format!("{path}/")),
        12 => (format!("{p}/(a|ab)(c|bcd)?"), format!("{path}/abcd")),
        13 => (format!("{p}/[a-c]+b[a-c]"), format!("{path}/aabc")),
        14 => (format!(".*{p}"), format!("/x{path}")),
        15 => (".+".to_owned(), "/".to_owned()),
        16 => (".*".to_owned(), path.to_owned()),
        17 => (format!(r"{p}/\d+"), format!("{path}/42")),
        18 => (format!(r"{p}/\w+"), format!("{path}/a_1")),
        19 => (format!(r"{p}\b.*"), format!("{path}/")),
        20 => (format!("^{p}$"), path.to_owned()),
        21 => (format!("{p}[.]x"), format!("{path}.x")),
        22 => (format!("{p}/[^a]"), format!("{path}/b")),
        23 => (format!("{p}/.{{3}}"), format!("{path}/abc")),
        24 => (format!("{p}/(?i:abc)d"), format!("{path}/AbCd")),
        _ => odd_regex(dice, path),
    };
    PathMatch::Regex(examples.keep(pattern, plain(example)))
}

/// Expressions that mean nothing, or what few expect.
fn odd_regex(dice: &mut Dice, path: &str) -> (String, String) {
    let p = escape(path);
    let pattern = match dice.below(12) {
        0 => "(".to_owned(),
        1 => String::new(),
        2 => "a{,3}{".to_owned(),
        3 => format!("(?m)^{p}$"),
        4 => format!("(?x) {p} "),
        5 => format!("(?x){p} # a remark"),
        6 => format!("{p}\u{e9}?"),
        7 => r"/\p{L}+".to_owned(),
        8 => r"(?-u:/\xff)".to_owned(),
        9 => format!(r"\A{p}\z"),
        10 => format!("(?U){p}a*"),
        _ => format!("{p})|(/b"),
    };
    (pattern, path.to_owned())
}
