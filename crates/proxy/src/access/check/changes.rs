//! What an authorizer changes of a head.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::headers::is_of_message;

/// Changes of header fields, in order. What says how a message is framed, or where it goes, stays.
#[derive(Debug, Default)]
pub(crate) struct Changes(Vec<Change>);

#[derive(Debug)]
enum Change {
    Remove(HeaderName),
    Set(HeaderName, HeaderValue),
    /// Another field of this name.
    Add(HeaderName, HeaderValue),
    SetIfAbsent(HeaderName, HeaderValue),
    SetIfPresent(HeaderName, HeaderValue),
}

impl Changes {
    pub fn remove(&mut self, name: &str) {
        if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
            self.push(Change::Remove(name));
        }
    }

    pub fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.push(Change::Set(name, value));
    }

    pub fn add(&mut self, name: HeaderName, value: HeaderValue) {
        self.push(Change::Add(name, value));
    }

    pub fn set_if(&mut self, present: bool, name: HeaderName, value: HeaderValue) {
        self.push(match present {
            true => Change::SetIfPresent(name, value),
            false => Change::SetIfAbsent(name, value),
        });
    }

    fn push(&mut self, change: Change) {
        if !is_of_message(change.name()) {
            self.0.push(change);
        }
    }

    /// These, then others.
    pub fn extend(&mut self, others: Changes) {
        self.0.extend(others.0);
    }

    pub fn apply(self, headers: &mut HeaderMap) {
        for change in self.0 {
            let present = headers.contains_key(change.name());
            match change {
                Change::Remove(name) => {
                    headers.remove(name);
                }
                Change::Add(name, value) => {
                    headers.append(name, value);
                }
                Change::SetIfAbsent(..) if present => {}
                Change::SetIfPresent(..) if !present => {}
                Change::Set(name, value)
                | Change::SetIfAbsent(name, value)
                | Change::SetIfPresent(name, value) => {
                    headers.insert(name, value);
                }
            }
        }
    }
}

impl Change {
    fn name(&self) -> &HeaderName {
        match self {
            Change::Remove(name)
            | Change::Set(name, _)
            | Change::Add(name, _)
            | Change::SetIfAbsent(name, _)
            | Change::SetIfPresent(name, _) => name,
        }
    }
}
