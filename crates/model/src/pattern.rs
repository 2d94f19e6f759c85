//! Regular expressions of the configuration, compiled once.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use regex::Regex;

/// How many compiled patterns are kept. When there are more, all are forgotten and those in use
/// compiled again: slower, with the same result.
const PATTERNS: usize = 4096;

/// The regex that holds where a pattern holds for the whole of a text, compiled when it is first
/// asked for; `None`: the pattern is none by itself, whatever it may become between parentheses.
pub(crate) fn whole(pattern: &str, ignore_case: bool) -> Option<Arc<Regex>> {
    let flags = if ignore_case { "(?i)" } else { "" };
    compiled(format!("^{flags}(?:{pattern})$"), pattern)
}

/// The regex that finds a pattern anywhere in a text, as [`whole`].
pub(crate) fn anywhere(pattern: &str) -> Option<Arc<Regex>> {
    compiled(format!("(?:{pattern})"), pattern)
}

/// The regex `text`, if `pattern`, which is part of it, is a regex alone.
fn compiled(text: String, pattern: &str) -> Option<Arc<Regex>> {
    static KNOWN: LazyLock<RwLock<HashMap<String, Option<Arc<Regex>>>>> =
        LazyLock::new(RwLock::default);
    // What was kept stays right whoever panicked.
    if let Some(regex) = KNOWN.read().unwrap_or_else(PoisonError::into_inner).get(&text) {
        return regex.clone();
    }
    let alone = regex_syntax::parse(pattern).is_ok();
    let regex = Regex::new(&text).ok().filter(|_| alone).map(Arc::new);
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    if known.len() >= PATTERNS {
        known.clear();
    }
    known.insert(text, regex.clone());
    regex
}
