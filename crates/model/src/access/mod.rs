//! Who may call whom: policies, and the reference evaluator that says what they mean.
//!
//! | kind | becomes |
//! |---|---|
//! | AuthorizationPolicy | policies of [`Layer::Authorization`] on calls to workloads or services |
//! | NetworkPolicy `ingress` | one of [`Layer::Network`], allowing, on calls to workloads |
//! | NetworkPolicy `egress` | one of [`Layer::Network`], allowing, on calls from workloads |
//!
//! A call is allowed when both layers allow it, and egress as well as ingress of the network. The
//! rules, with Istio's documentation of AuthorizationPolicy and the Kubernetes API reference of
//! NetworkPolicy as their sources:
//!
//! 1. *Scope*: workloads of a namespace, or of all, with labels; or services by name. A service is
//!    called by its address; a call straight to an endpoint is one to all services behind which the
//!    endpoint stands.
//! 2. *Network*: no policy applies in a direction: allowed. Otherwise a rule of one of them must
//!    match.
//! 3. *Authorization*: CUSTOM policies that match ask their provider, and all must allow. A DENY
//!    rule that matches denies. If ALLOW policies apply, a rule of one of them must match. AUDIT
//!    policies, and those in dry run, change nothing and are reported.
//! 4. A policy without rules matches nothing (an ALLOW policy then denies all). Rules are
//!    alternatives. In a rule one of its sources, one of its operations and all its conditions must
//!    hold; a list without entries holds. In a source, operation or condition all clauses must
//!    hold; in a clause one of its values, or none when it is negated.
//! 5. On a connection that is not HTTP a rule that has a clause on HTTP never matches if it allows;
//!    in any other rule such clauses hold.
//! 6. What a token would say (`request.auth`, request principals) is not known here: such a clause
//!    fails in a rule that allows, negated or not, and holds in any other.
//! 7. The network's policies do not hold for what a workload sends to its own address ("A Pod cannot
//!    block access to itself", Kubernetes' documentation).

mod direct;
mod identity;
mod policy;
mod provider;
mod verdict;

pub use direct::{CalledAt, Direct, Guarded, Naming, add_direct, called_at};
pub use identity::{
    Entity, Identity, IdentityMatch, LabelSelector, LabelTest, Node, Party, TRUST_DOMAIN, principal,
};
pub use policy::{
    AccessPolicy, AccessRule, Clause, Direction, Effect, Field, Layer, PathTest, PortRange, Scope,
    Text,
};
pub use provider::{CheckedBody, HttpCheck, Provider, ProviderKind};
pub use verdict::{Access, Call, Decider, applies, evaluate};
