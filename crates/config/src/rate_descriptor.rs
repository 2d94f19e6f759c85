//! Descriptors of local rate limits → buckets with the conditions on which a request has one.
//!
//! Envoy makes descriptors of a request by lists of actions, and compares each with those that have
//! a bucket. What a list of actions and a descriptor have in common can be told beforehand: it is a
//! condition on header fields, or never.

use beeway_model::{Bucket, HeaderMatch, Match, PathMatch, StringMatch};

use crate::envoy_filter::{Action, Actions, Descriptor, Entry, HeaderMatcher};
use crate::rate_limit::{Fault, bucket, fault};

/// What a request must be for an action to give an entry.
enum Condition {
    Always,
    Never,
    /// Each caller is one by himself.
    Caller,
    Headers(Vec<HeaderMatcher>),
}

/// The buckets of descriptors, in their order; none has an id yet.
pub(crate) fn special(
    path: &str,
    descriptors: &[Descriptor],
    actions: &[Actions],
) -> Result<Vec<Bucket>, Fault> {
    let mut special = Vec::new();
    for descriptor in descriptors {
        let Some(tokens) = &descriptor.token_bucket else {
            return fault(path, "a descriptor without a token_bucket");
        };
        let (mut matches, mut per_caller, mut always) = (Vec::new(), None, false);
        for list in actions.iter().filter(|l| l.actions.len() == descriptor.entries.len()) {
            let Some((m, caller)) = meet(path, &descriptor.entries, &list.actions)? else {
                continue;
            };
            if per_caller.is_some_and(|known| known != caller) {
                return fault(
                    path,
                    "a descriptor that is for callers by some actions only is not supported",
                );
            }
            per_caller = Some(caller);
            always |= m == Match::default();
            matches.push(m);
        }
        let Some(per_caller) = per_caller else {
            let reason = "a descriptor that no actions (rate_limits) ever make";
            return fault(path, reason);
        };
        if always {
            matches.clear();
        }
        special.push(bucket(path, tokens, per_caller, matches)?);
    }
    Ok(special)
}

/// When actions make this descriptor, and whether for each caller. `None`: never.
fn meet(path: &str, entries: &[Entry], actions: &[Action]) -> Result<Option<(Match, bool)>, Fault> {
    let (mut m, mut caller) = (Match::default(), false);
    for (entry, action) in entries.iter().zip(actions) {
        match condition(path, entry, action)? {
            Condition::Always => {}
            Condition::Never => return Ok(None),
            Condition::Caller => caller = true,
            Condition::Headers(wanted) => {
                for wanted in &wanted {
                    require(path, &mut m, wanted)?;
                }
            }
        }
    }
    Ok(Some((m, caller)))
}

fn condition(path: &str, entry: &Entry, action: &Action) -> Result<Condition, Fault> {
    let fixed = |key: &str, usual: &str, value: &str| {
        let key = if key.is_empty() { usual } else { key };
        entry.key == key && entry.value == value
    };
    let one = match action {
        Action {
            remote_address: Some(_),
            request_headers: None,
            generic_key: None,
            header_value_match: None,
        } => match (entry.key == "remote_address", entry.value.is_empty()) {
            (false, _) => Condition::Never,
            (true, true) => Condition::Caller,
            (true, false) => {
                return fault(path, "a descriptor of one remote_address is not supported");
            }
        },
        Action {
            remote_address: None,
            request_headers: Some(asked),
            generic_key: None,
            header_value_match: None,
        } => {
            if entry.key != asked.descriptor_key {
                Condition::Never
            } else if entry.value.is_empty() {
                return fault(path, "a bucket for each value of a header is not supported");
            } else {
                Condition::Headers(vec![HeaderMatcher {
                    name: asked.header_name.clone(),
                    string_match: None,
                    exact_match: Some(entry.value.clone()),
                    prefix_match: None,
                    safe_regex_match: None,
                    present_match: None,
                    invert_match: false,
                }])
            }
        }
        Action {
            remote_address: None,
            request_headers: None,
            generic_key: Some(asked),
            header_value_match: None,
        } => match fixed(&asked.descriptor_key, "generic_key", &asked.descriptor_value) {
            true => Condition::Always,
            false => Condition::Never,
        },
        Action {
            remote_address: None,
            request_headers: None,
            generic_key: None,
            header_value_match: Some(asked),
        } => {
            if asked.expect_match == Some(false) {
                return fault(path, "header_value_match with expect_match false is not supported");
            }
            match fixed(&asked.descriptor_key, "header_match", &asked.descriptor_value) {
                true => Condition::Headers(asked.headers.clone()),
                false => Condition::Never,
            }
        }
        _ => return fault(path, "an action that is none, or two, of those supported"),
    };
    Ok(one)
}

/// Adds a condition on a header field, or on what HTTP/2 calls one.
fn require(path: &str, m: &mut Match, wanted: &HeaderMatcher) -> Result<(), Fault> {
    let value = value(path, wanted)?;
    let name = wanted.name.to_ascii_lowercase();
    if name.starts_with(':') && wanted.invert_match {
        return fault(path, format!("invert_match on {name} is not supported"));
    }
    match (name.as_str(), value) {
        (":path", StringMatch::Exact(text)) if m.path.is_none() && !text.contains('?') => {
            m.path = Some(PathMatch::Exact(text));
        }
        (":path", StringMatch::Prefix(text)) if m.path.is_none() && !text.contains('?') => {
            m.path = Some(PathMatch::Prefix(text));
        }
        (":method", value) if m.method.is_none() => m.method = Some(value),
        (":authority", value) => {
            m.headers.push(HeaderMatch { name: "host".to_owned(), value, invert: false })
        }
        (pseudo, _) if pseudo.starts_with(':') => {
            return fault(path, format!("this condition on {pseudo} is not supported"));
        }
        (_, value) => m.headers.push(HeaderMatch { name, value, invert: wanted.invert_match }),
    }
    Ok(())
}

fn value(path: &str, wanted: &HeaderMatcher) -> Result<StringMatch, Fault> {
    let string = wanted.string_match.as_ref();
    let regex = |regex: &crate::envoy_filter::Regex| StringMatch::Regex(regex.regex.clone());
    let mut values = Vec::new();
    values.extend(wanted.exact_match.clone().map(StringMatch::Exact));
    values.extend(wanted.prefix_match.clone().map(StringMatch::Prefix));
    values.extend(wanted.safe_regex_match.as_ref().map(regex));
    values.extend(string.and_then(|s| s.exact.clone()).map(StringMatch::Exact));
    values.extend(string.and_then(|s| s.prefix.clone()).map(StringMatch::Prefix));
    values.extend(string.and_then(|s| s.safe_regex.as_ref()).map(regex));
    if wanted.present_match == Some(true) || (wanted.present_match.is_none() && values.is_empty()) {
        values.push(StringMatch::Present);
    }
    match (values.pop(), values.is_empty()) {
        (Some(value), true) => Ok(value),
        _ => fault(path, format!("this condition on {} is not supported", wanted.name)),
    }
}
