//! The words of a CEL expression (its language definition, "Syntax").

/// A word, and where it begins: characters from 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub at: usize,
    pub word: Word,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Word {
    Name(String),
    Text(String),
    Int(i64),
    Sign(&'static str),
    /// A sign that means nothing here.
    Other(char),
    End,
}

/// What went wrong, and where.
pub(super) fn at(place: usize, what: impl std::fmt::Display) -> String {
    format!("at {place}: {what}")
}

const SIGNS: [&str; 19] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "(", ")", "[", "]", ",", ".", "-", "?", ":",
    "+",
];

/// Cuts a text into words; the last is [`Word::End`].
pub(super) fn words(text: &str) -> Result<Vec<Token>, String> {
    let characters: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut place = 0;
    while let Some(&first) = characters.get(place) {
        let rest = &characters[place..];
        if first.is_ascii_whitespace() {
            place += 1;
            continue;
        }
        if rest.starts_with(&['/', '/']) {
            place += rest.iter().position(|c| *c == '\n').unwrap_or(rest.len());
            continue;
        }
        let (word, length) = word(rest).map_err(|what| at(place + 1, what))?;
        tokens.push(Token { at: place + 1, word });
        place += length;
    }
    tokens.push(Token { at: characters.len() + 1, word: Word::End });
    Ok(tokens)
}

/// The word at the beginning, and how many characters it has.
fn word(rest: &[char]) -> Result<(Word, usize), String> {
    let first = rest[0];
    match (first, rest.get(1)) {
        ('\'' | '"', _) => return quoted(rest, false),
        ('r' | 'R', Some('\'' | '"')) => {
            return quoted(&rest[1..], true).map(|(word, length)| (word, length + 1));
        }
        _ => {}
    }
    let run = |of: fn(&char) -> bool| rest.iter().take_while(|c| of(c)).collect::<String>();
    if first.is_ascii_alphabetic() || first == '_' {
        let name = run(|c| c.is_ascii_alphanumeric() || *c == '_');
        let length = name.len();
        return Ok((Word::Name(name), length));
    }
    if first.is_ascii_digit() {
        let digits = run(char::is_ascii_digit);
        let number = digits.parse().map_err(|_| "the number is too large".to_owned())?;
        return Ok((Word::Int(number), digits.len()));
    }
    let begins = |sign: &&&str| {
        rest.len() >= sign.len() && sign.chars().eq(rest[..sign.len()].iter().copied())
    };
    match SIGNS.iter().find(begins) {
        Some(sign) => Ok((Word::Sign(sign), sign.len())),
        None => Ok((Word::Other(first), 1)),
    }
}

/// Text between quotation marks. `raw`: a backslash is one.
fn quoted(rest: &[char], raw: bool) -> Result<(Word, usize), String> {
    let (mark, mut text, mut place) = (rest[0], String::new(), 1);
    loop {
        match rest.get(place) {
            None | Some('\n' | '\r') => return Err("the text has no end".to_owned()),
            Some(end) if *end == mark => return Ok((Word::Text(text), place + 1)),
            Some('\\') if !raw => {
                let (character, length) = escaped(&rest[place + 1..])?;
                text.push(character);
                place += 1 + length;
            }
            Some(character) => {
                text.push(*character);
                place += 1;
            }
        }
    }
}

/// What stands behind a backslash, and how many characters that is.
fn escaped(rest: &[char]) -> Result<(char, usize), String> {
    let unknown = || "the text has an escape that is not known".to_owned();
    let digits = match rest.first().ok_or_else(unknown)? {
        'n' => return Ok(('\n', 1)),
        'r' => return Ok(('\r', 1)),
        't' => return Ok(('\t', 1)),
        same @ ('\\' | '\'' | '"' | '`' | '?') => return Ok((*same, 1)),
        'x' => 2,
        'u' => 4,
        'U' => 8,
        _ => return Err(unknown()),
    };
    let code: String = rest.get(1..=digits).ok_or_else(unknown)?.iter().collect();
    let code = u32::from_str_radix(&code, 16).ok().and_then(char::from_u32);
    Ok((code.ok_or_else(unknown)?, 1 + digits))
}
