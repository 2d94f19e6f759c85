//! What is said to who may not.

use beeway_model::AccessPolicy;
use beeway_model::action::grpc::status_of_http;
use beeway_model::action::retry::Failure;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::record::Flags;

/// The body of a denied request's answer, as Envoy's.
const DENIED: &str = "RBAC: access denied";

/// Which policy forbids something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Denied {
    /// Its name, for people; empty: none.
    pub policy: String,
    /// What Envoy's access log would say (`%RESPONSE_CODE_DETAILS%`).
    pub detail: String,
}

impl Denied {
    /// By a rule that denies; or, without one, because none that allows matches.
    pub fn new(by: Option<(&AccessPolicy, Option<usize>)>) -> Denied {
        let policy = by.map(|(policy, _)| policy.name.clone()).unwrap_or_default();
        let rule = match by {
            Some((policy, Some(rule))) => rule_id(&policy.name, rule),
            _ => "none".to_owned(),
        };
        Denied { policy, detail: format!("rbac_access_denied_matched_policy[{rule}]") }
    }
}

/// As Istio names a rule for Envoy: `ns[NAMESPACE]-policy[NAME]-rule[N]`.
fn rule_id(policy: &str, rule: usize) -> String {
    let object = policy.split_once(' ').map_or(policy, |(_, object)| object);
    let (namespace, name) = object.split_once('/').unwrap_or(("", object));
    format!("ns[{namespace}]-policy[{name}]-rule[{rule}]")
}

/// An answer that is given in the place of an endpoint's.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub denied: Denied,
    /// For the record.
    pub flags: Flags,
}

impl Refusal {
    /// What policies say.
    pub fn of(denied: Denied) -> Refusal {
        Refusal {
            status: StatusCode::FORBIDDEN,
            headers: HeaderMap::new(),
            body: Bytes::from_static(DENIED.as_bytes()),
            denied,
            flags: Flags::default(),
        }
    }

    /// What it is for a rule that says what is tried again. `grpc`: the client speaks that, and is
    /// answered in it.
    pub fn as_failure(&self, grpc: bool) -> Failure {
        let status = self.status.as_u16();
        match grpc && !self.status.is_success() {
            true => Failure::Answered { status: 200, grpc_status: Some(status_of_http(status)) },
            false => Failure::Answered { status, grpc_status: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_named_as_istio_names_them() {
        for (policy, wanted) in [
            ("AuthorizationPolicy shop/reviews", "ns[shop]-policy[reviews]-rule[2]"),
            ("reviews", "ns[]-policy[reviews]-rule[2]"),
        ] {
            assert_eq!(rule_id(policy, 2), wanted);
        }
        assert_eq!(Denied::new(None).detail, "rbac_access_denied_matched_policy[none]");
    }
}
