//! CEL expressions → [`Expr`], with the kinds of their parts checked.

use super::filter::{ATTRIBUTES, Comparison, Expr, Kind, TextTest, Value};
use super::format;
use super::lexer::{Token, Word, at, words};

/// Characters of an expression at most.
const LONGEST: usize = 4096;
/// How deep expressions stand within each other at most: each level is some frames of the stack.
const DEEPEST: usize = 64;

/// An expression, its kind, and where it begins.
type Typed = (Expr, Kind, usize);

struct Parser {
    words: Vec<Token>,
    next: usize,
    depth: usize,
}

/// Reads a condition.
pub(super) fn parse(text: &str) -> Result<Expr, String> {
    if text.len() > LONGEST {
        return Err(format!("an expression has {LONGEST} characters at most"));
    }
    let mut parser = Parser { words: words(text)?, next: 0, depth: 0 };
    let (expr, kind, place) = parser.either()?;
    let Token { at: end, word } = parser.peek();
    match (word, kind) {
        (Word::End, Kind::Bool) => Ok(expr),
        (Word::End, kind) => {
            Err(at(place, format!("the expression is no condition, but {}", name(kind))))
        }
        (other, _) => Err(at(*end, unexpected(other))),
    }
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "a condition",
        Kind::Int => "a number",
        Kind::Text => "text",
        Kind::Span => "a duration",
    }
}

fn unexpected(word: &Word) -> String {
    let text = match word {
        Word::Name(name) => name.clone(),
        Word::Text(text) => format!("'{text}'"),
        Word::Int(number) => number.to_string(),
        Word::Sign(sign) => (*sign).to_owned(),
        Word::Other(other) => other.to_string(),
        Word::End => return "the expression ends too early".to_owned(),
    };
    format!("`{text}` is not expected")
}

impl Parser {
    fn peek(&self) -> &Token {
        // the last is the end, which nothing goes past
        &self.words[self.next.min(self.words.len() - 1)]
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        self.next += 1;
        token
    }

    fn takes(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek().word, Word::Sign(found) if found == sign);
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, sign: &str) -> Result<(), String> {
        if self.takes(sign) {
            return Ok(());
        }
        let Token { at: place, word } = self.peek();
        Err(at(*place, unexpected(word)))
    }

    fn deeper<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, String>,
    ) -> Result<T, String> {
        if self.depth >= DEEPEST {
            return Err(at(self.peek().at, "the expression is too deep"));
        }
        self.depth += 1;
        let read = read(self);
        self.depth -= 1;
        read
    }

    fn either(&mut self) -> Result<Typed, String> {
        let mut left = self.both()?;
        while self.takes("||") {
            let right = self.both()?;
            let place = left.2;
            left = (Expr::Or(condition(left)?, condition(right)?), Kind::Bool, place);
        }
        Ok(left)
    }

    fn both(&mut self) -> Result<Typed, String> {
        let mut left = self.comparison()?;
        while self.takes("&&") {
            let right = self.comparison()?;
            let place = left.2;
            left = (Expr::And(condition(left)?, condition(right)?), Kind::Bool, place);
        }
        Ok(left)
    }

    fn comparison(&mut self) -> Result<Typed, String> {
        let left = self.compared()?;
        let is_comparison = |word: &Word| {
            matches!(word, Word::Sign("==" | "!=" | "<" | "<=" | ">" | ">="))
                || matches!(word, Word::Name(name) if name == "in")
        };
        if !is_comparison(&self.peek().word) {
            return Ok(left);
        }
        let Token { at: place, word } = self.take();
        let compared = match word {
            Word::Sign(sign) => {
                let right = self.compared()?;
                compare(left, (sign, place), right)?
            }
            _ => self.among(left)?,
        };
        if is_comparison(&self.peek().word) {
            return Err(at(self.peek().at, "comparisons do not follow each other"));
        }
        Ok(compared)
    }

    /// What stands behind `in`: a list, or the fields of the request.
    fn among(&mut self, (left, kind, place): Typed) -> Result<Typed, String> {
        let start = self.peek().at;
        if !self.takes("[") {
            let fields = self.path()?;
            let Expr::Constant(Value::Text(field)) = left else {
                return Err(at(place, "the name of a field is written as text"));
            };
            if fields.join(".") != "request.headers" {
                return Err(at(start, "behind `in` stands a list, or request.headers"));
            }
            return Ok((Expr::Has(Box::new(header(&field, place)?)), Kind::Bool, place));
        }
        let mut list = Vec::new();
        while !self.takes("]") {
            if !list.is_empty() {
                self.expect(",")?;
            }
            let (element, of, place) = self.compared()?;
            match element {
                Expr::Constant(value) if of == kind => list.push(value),
                Expr::Constant(_) => {
                    let what = format!("{} is not found among {}", name(kind), name(of));
                    return Err(at(place, what));
                }
                _ => return Err(at(place, "a list is one of literals")),
            }
        }
        Ok((Expr::In(Box::new(left), list), Kind::Bool, place))
    }

    fn compared(&mut self) -> Result<Typed, String> {
        let place = self.peek().at;
        if self.takes("!") {
            let negated = self.deeper(Self::compared)?;
            return Ok((Expr::Not(condition(negated)?), Kind::Bool, place));
        }
        if self.takes("-") {
            return match self.take().word {
                Word::Int(number) => Ok((Expr::Constant(Value::Int(-number)), Kind::Int, place)),
                word => Err(at(place, unexpected(&word))),
            };
        }
        let mut typed = self.simple()?;
        while self.takes(".") {
            typed = self.called(typed)?;
        }
        Ok(typed)
    }

    /// A function of a text, behind its dot.
    fn called(&mut self, (of, kind, place): Typed) -> Result<Typed, String> {
        let Token { at: dot, word } = self.take();
        let dot = dot - 1;
        let Word::Name(function) = word else { return Err(at(dot + 1, unexpected(&word))) };
        let test = match function.as_str() {
            "startsWith" => Some(TextTest::StartsWith),
            "endsWith" => Some(TextTest::EndsWith),
            "contains" => Some(TextTest::Contains),
            "matches" => None,
            _ => return Err(at(dot, format!("there is no function {function}"))),
        };
        if kind != Kind::Text {
            return Err(at(dot, format!("{function} is of text, and this is {}", name(kind))));
        }
        self.expect("(")?;
        let (argument, kind, start) = self.deeper(Self::either)?;
        self.expect(")")?;
        let expr = match (test, argument) {
            (Some(test), argument) if kind == Kind::Text => {
                Expr::Text(Box::new(of), test, Box::new(argument))
            }
            (Some(_), _) => return Err(at(start, format!("{function} asks for text"))),
            (None, Expr::Constant(Value::Text(pattern))) => {
                if crate::pattern::anywhere(&pattern).is_none() {
                    return Err(at(start, format!("`{pattern}` is no regular expression")));
                }
                Expr::Matches(Box::new(of), pattern.into_owned())
            }
            (None, _) => return Err(at(start, "a pattern is written as text")),
        };
        Ok((expr, Kind::Bool, place))
    }

    fn simple(&mut self) -> Result<Typed, String> {
        let place = self.peek().at;
        if self.takes("(") {
            let inner = self.deeper(Self::either)?;
            self.expect(")")?;
            return Ok(inner);
        }
        let constant = |value, kind| Ok((Expr::Constant(value), kind, place));
        match &self.peek().word {
            Word::Text(_) | Word::Int(_) => match self.take().word {
                Word::Text(text) => constant(Value::Text(text.into()), Kind::Text),
                Word::Int(number) => constant(Value::Int(number), Kind::Int),
                word => Err(at(place, unexpected(&word))),
            },
            Word::Name(word) => match word.as_str() {
                "true" | "false" => {
                    let truth = word == "true";
                    self.next += 1;
                    constant(Value::Bool(truth), Kind::Bool)
                }
                "has" | "size" | "duration" => self.function(),
                _ => self.attribute(),
            },
            word => Err(at(place, unexpected(word))),
        }
    }

    /// `has(...)`, `size(...)`, `duration(...)`.
    fn function(&mut self) -> Result<Typed, String> {
        let Token { at: place, word } = self.take();
        self.expect("(")?;
        let (argument, kind, start) = self.deeper(Self::either)?;
        self.expect(")")?;
        let function = matches!(&word, Word::Name(name) if name == "has");
        match (word, argument) {
            (_, argument @ (Expr::Attribute(_) | Expr::Header(_))) if function => {
                Ok((Expr::Has(Box::new(argument)), Kind::Bool, place))
            }
            (_, _) if function => Err(at(start, "has() asks for an attribute")),
            (Word::Name(name), argument) if name == "size" => match kind {
                Kind::Text => Ok((Expr::Size(Box::new(argument)), Kind::Int, place)),
                _ => Err(at(start, "size() asks for text")),
            },
            (_, Expr::Constant(Value::Text(text))) => {
                let span =
                    duration(&text).ok_or_else(|| at(start, format!("`{text}` is no duration")))?;
                Ok((Expr::Constant(Value::Span(span)), Kind::Span, place))
            }
            _ => Err(at(start, "a duration is written as text")),
        }
    }

    /// Names with dots between them, as far as no function is called.
    fn path(&mut self) -> Result<Vec<String>, String> {
        let mut path = Vec::new();
        loop {
            match self.take() {
                Token { word: Word::Name(name), .. } => path.push(name),
                Token { at: place, word } => return Err(at(place, unexpected(&word))),
            }
            let called =
                matches!(self.words.get(self.next + 2), Some(Token { word: Word::Sign("("), .. }));
            if called || !self.takes(".") {
                return Ok(path);
            }
        }
    }

    fn attribute(&mut self) -> Result<Typed, String> {
        let place = self.peek().at;
        let path = self.path()?.join(".");
        if path == "request.headers" {
            self.expect("[")?;
            let Token { at: start, word } = self.take();
            let Word::Text(name) = word else {
                return Err(at(start, "the name of a field is written as text"));
            };
            self.expect("]")?;
            return Ok((header(&name, start)?, Kind::Text, place));
        }
        match ATTRIBUTES.iter().find(|(known, ..)| *known == path) {
            Some((_, attribute, kind)) => Ok((Expr::Attribute(*attribute), *kind, place)),
            None => Err(at(place, format!("{path} is not known"))),
        }
    }
}

fn header(name: &str, place: usize) -> Result<Expr, String> {
    let name = name.to_ascii_lowercase();
    match format::FIELDS.contains(&name.as_str()) {
        true => Ok(Expr::Header(name)),
        false => Err(at(place, format::unkept(&name))),
    }
}

fn condition((expr, kind, place): Typed) -> Result<Box<Expr>, String> {
    match kind {
        Kind::Bool => Ok(Box::new(expr)),
        kind => Err(at(place, format!("a condition is expected, and this is {}", name(kind)))),
    }
}

fn compare(left: Typed, (sign, place): (&str, usize), right: Typed) -> Result<Typed, String> {
    let how = match sign {
        "==" => Comparison::Equal,
        "!=" => Comparison::Unequal,
        "<" => Comparison::Less,
        "<=" => Comparison::AtMost,
        ">" => Comparison::More,
        _ => Comparison::AtLeast,
    };
    if left.1 != right.1 {
        let what = format!("{} and {} cannot be compared", name(left.1), name(right.1));
        return Err(at(place, what));
    }
    if left.1 == Kind::Bool && !matches!(how, Comparison::Equal | Comparison::Unequal) {
        return Err(at(place, "only == and != compare conditions"));
    }
    Ok((Expr::Compare(Box::new(left.0), how, Box::new(right.0)), Kind::Bool, left.2))
}

/// Nanoseconds of a duration as protobuf's JSON and Go write it: `1.5s`, `1m30s`, `-2ms`.
fn duration(text: &str) -> Option<i64> {
    const UNITS: [(&str, f64); 6] =
        [("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text),
    };
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| c != '.' && !c.is_ascii_digit())?;
        let number: f64 = rest[..end].parse().ok()?;
        let unit = rest[end..].find(|c: char| c == '.' || c.is_ascii_digit());
        let (unit, after) = rest[end..].split_at(unit.unwrap_or(rest.len() - end));
        total += number * UNITS.iter().find(|(known, _)| *known == unit)?.1;
        rest = after;
    }
    (total < 9e18).then_some((sign * total) as i64)
}
