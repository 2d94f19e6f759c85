//! Changes to header fields, as both APIs ask for them.

use beeway_model::HeaderEdits;

use crate::gateway::HeaderModifier;
use crate::istio::HeaderOperations;
use crate::problem::Report;

/// Istio's operations, and the new authority if `host` or `:authority` is among them.
///
/// The rules are those of Istio's validation: `:` begins no name, a `%` is doubled or belongs to
/// one of Envoy's commands. Those are not known here and stay as written.
pub(crate) fn istio(
    operations: &HeaderOperations,
    of_request: bool,
    mut report: Report<'_>,
) -> (HeaderEdits, Option<String>) {
    let mut edits = HeaderEdits::default();
    let mut authority = None;
    for (part, fields) in [("set", &operations.set), ("add", &operations.add)] {
        for (name, value) in fields {
            let path = format!("{part}.{name}");
            let Some(value) = istio_value(&path, name, value, &mut report) else {
                continue;
            };
            let lower = name.to_ascii_lowercase();
            if of_request && is_authority(&lower) {
                if authority.replace(value).is_some() {
                    report.error(&path, "the authority is set more than once");
                }
            } else if let Some(reason) = bad_name(&lower) {
                report.error(&path, reason);
            } else {
                let list = if part == "set" { &mut edits.set } else { &mut edits.add };
                list.push((lower, value));
            }
        }
    }
    edits.remove = names(&operations.remove, &mut report);
    (edits, authority)
}

fn is_authority(name: &str) -> bool {
    matches!(name, "host" | ":authority")
}

fn names(written: &[String], report: &mut Report<'_>) -> Vec<String> {
    let mut names = Vec::new();
    for (at, name) in written.iter().enumerate() {
        let lower = name.to_ascii_lowercase();
        match bad_name(&lower) {
            Some(reason) => report.error(&format!("remove.{at}"), reason),
            None => names.push(lower),
        }
    }
    names
}

fn istio_value(path: &str, name: &str, value: &str, report: &mut Report<'_>) -> Option<String> {
    if let Some(reason) = bad_value(name, value) {
        report.error(path, reason);
        return None;
    }
    let Some((literal, commands)) = literal(value) else {
        report.error(path, format!("header {name}: a single % must be doubled"));
        return None;
    };
    for command in commands {
        report.warning(path, format!("header {name}: {command} is sent as written"));
    }
    Some(literal)
}

/// A value with `%%` made `%`, and the commands of Envoy in it, which stay. `None`: a `%` stands
/// alone.
fn literal(value: &str) -> Option<(String, Vec<&str>)> {
    let mut text = String::with_capacity(value.len());
    let mut commands = Vec::new();
    let mut rest = value;
    while let Some(at) = rest.find('%') {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        if rest.starts_with("%%") {
            text.push('%');
            rest = &rest[2..];
        } else {
            let (command, after) = rest.split_at(command_length(rest)?);
            text.push_str(command);
            commands.push(command);
            rest = after;
        }
    }
    text.push_str(rest);
    Some((text, commands))
}

/// The length of `%NAME%`, `%NAME(arguments)%` or `%NAME(arguments):length%` in front of a text.
fn command_length(text: &str) -> Option<usize> {
    let opening = text.find('(');
    let closing = text[1..].find('%')? + 1;
    match opening.filter(|opening| *opening < closing) {
        Some(opening) => {
            let closing = opening + text[opening..].find(')')?;
            Some(closing + text[closing..].find('%')? + 1)
        }
        None => Some(closing + 1),
    }
}

/// Gateway API's modifier. Of a name given twice the first counts, as the API document has it.
pub(crate) fn gateway(modifier: &HeaderModifier, mut report: Report<'_>) -> HeaderEdits {
    let mut edits = HeaderEdits::default();
    for (part, fields, list) in
        [("set", &modifier.set, &mut edits.set), ("add", &modifier.add, &mut edits.add)]
    {
        for (at, field) in fields.iter().enumerate() {
            let lower = field.name.to_ascii_lowercase();
            let bad = bad_name(&lower).or_else(|| bad_value(&field.name, &field.value));
            if let Some(reason) = bad {
                report.error(&format!("{part}.{at}"), reason);
            } else if list.iter().all(|(name, _)| *name != lower) {
                list.push((lower, field.value.clone()));
            }
        }
    }
    edits.remove = names(&modifier.remove, &mut report);
    edits
}

/// Why a field of this name (in lower case) cannot be changed.
fn bad_name(name: &str) -> Option<String> {
    if name.starts_with(':') || name == "host" {
        Some(format!("header {name} cannot be changed here"))
    } else if !is_token(name) {
        Some(format!("`{name}` is no header name"))
    } else {
        None
    }
}

/// RFC 9110 section 5.6.2.
pub(crate) fn is_token(name: &str) -> bool {
    let special = b"!#$%&'*+-.^_`|~";
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || special.contains(&b))
}

/// RFC 9110 section 5.5: no control characters but the tab.
fn bad_value(name: &str, value: &str) -> Option<String> {
    let control = value.bytes().any(|b| (b < b' ' && b != b'\t') || b == 0x7f);
    control.then(|| format!("header {name}: a value has no control characters"))
}

/// The edits of `outer`, then those of `inner`, as one. Envoy removes before it sets and adds, so
/// what `inner` removes is what the message had, and not what `outer` gave it.
pub(crate) fn joined(mut outer: HeaderEdits, inner: HeaderEdits) -> HeaderEdits {
    let replaced = |name: &String| inner.set.iter().any(|(set, _)| set == name);
    outer.set.retain(|(name, _)| !replaced(name));
    outer.add.retain(|(name, _)| !replaced(name));
    outer.remove.extend(inner.remove);
    outer.set.extend(inner.set);
    outer.add.extend(inner.add);
    outer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_signs_are_envoy_s() {
        for (value, text, commands) in [
            ("100%%", "100%", &[][..]),
            ("a %REQ(x)% b", "a %REQ(x)% b", &["%REQ(x)%"]),
            ("%%%A%", "%%A%", &["%A%"]),
            ("%START_TIME(%Y-%m)%%%", "%START_TIME(%Y-%m)%%", &["%START_TIME(%Y-%m)%"]),
            ("%REQ(x):3%,%B%", "%REQ(x):3%,%B%", &["%REQ(x):3%", "%B%"]),
            ("plain", "plain", &[]),
        ] {
            assert_eq!(literal(value), Some((text.to_owned(), commands.to_vec())), "{value}");
        }
        for value in ["100%", "%A", "%REQ(x%", "a%%%"] {
            assert_eq!(literal(value), None, "{value}");
        }
    }

    #[test]
    fn inner_edits_come_after_outer_ones() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let outer = HeaderEdits {
            remove: vec!["a".into()],
            set: vec![pair("b", "1"), pair("c", "1")],
            add: vec![pair("d", "1")],
        };
        let inner = HeaderEdits {
            remove: vec!["e".into()],
            set: vec![pair("b", "2"), pair("d", "2")],
            add: vec![pair("c", "2")],
        };
        let wanted = HeaderEdits {
            remove: vec!["a".into(), "e".into()],
            set: vec![pair("c", "1"), pair("b", "2"), pair("d", "2")],
            add: vec![pair("c", "2")],
        };
        assert_eq!(joined(outer, inner), wanted);
    }
}
