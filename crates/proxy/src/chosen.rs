//! What a decision points at in the configuration.

use std::borrow::Cow;
use std::sync::LazyLock;

use beeway_model::action::rewrite;
use beeway_model::request::normalize_target;
use beeway_model::{
    Action, Backend, BackendPolicy, Decision, Match, PathMatch, Policy, Rule, ServicePort,
};

use crate::headers;

/// Of rules that ask for nothing.
static NOTHING: LazyLock<Policy> = LazyLock::new(Policy::default);

/// The rule that decided, and what of it.
#[derive(Clone, Copy)]
pub(crate) struct Chosen<'a> {
    pub rule: Option<&'a Rule>,
    pub matched: Option<&'a Match>,
    pub backend: Option<&'a Backend>,
    pub policy: &'a Policy,
}

impl<'a> Chosen<'a> {
    /// What a decision about a request to `port` has chosen.
    pub fn of(port: &'a ServicePort, decision: &Decision) -> Chosen<'a> {
        let rules = port.rules.as_deref().unwrap_or_default();
        let rule = decision.rule.map(|index| &rules[index]);
        let matched = rule.zip(decision.matched).map(|(rule, index)| &rule.matches[index]);
        let backend = rule.zip(decision.backend).and_then(|(rule, index)| match &rule.action {
            Action::Forward(backends) => backends.get(index),
            _ => None,
        });
        let policy = rule.and_then(|rule| rule.policy.as_deref()).unwrap_or(&NOTHING);
        Chosen { rule, matched, backend, policy }
    }

    /// The path condition of the match that held.
    pub fn held(&self) -> Option<&'a PathMatch> {
        self.matched?.path.as_ref()
    }

    /// What is done to the requests of the backend alone.
    pub fn own(&self) -> Option<&'a BackendPolicy> {
        self.backend?.policy.as_deref()
    }

    /// The authority and the target that take the place of those of the request, if any do. A path
    /// goes on as rules and policies compare it: they must not let pass what an endpoint takes for
    /// another one.
    pub fn rewritten(&self, target: &str) -> (Option<&'a str>, Option<String>) {
        let own = self.own().map(|own| (&own.rewrite, &own.request_headers));
        let edits = [Some((&self.policy.rewrite, &self.policy.request_headers)), own];
        let (mut authority, mut path) = (None, None);
        for (rewrite, fields) in edits.into_iter().flatten() {
            let named = rewrite.authority.as_deref().or_else(|| headers::host_of(fields));
            authority = named.or(authority);
            path = rewrite.path.as_ref().or(path);
        }
        let target = match path {
            Some(path) => Cow::Owned(rewrite::rewrite_target(path, self.held(), target)),
            None => normalize_target(target),
        };
        let target = match target {
            Cow::Owned(new) => Some(new),
            Cow::Borrowed(_) => None,
        };
        (authority, target)
    }
}
