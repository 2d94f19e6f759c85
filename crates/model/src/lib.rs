//! What a mesh *is*: services, workloads, clusters and routes, and the reference router that says
//! where a request goes. [`access`] says who may send it.
//!
//! Everything here is a plain value and every function is pure. The configuration crate builds a
//! [`Mesh`]; the table compiler, the detour proxy and `beeway explain` read it. Whatever another
//! implementation (the table interpreter, the kernel program) decides must equal what
//! [`router::route`] decides for the same request and the same draw.

pub mod access;
pub mod action;
pub mod kafka;
pub mod limits;
pub mod mesh;
mod pattern;
pub mod policy;
pub mod request;
pub mod route;
pub mod router;
pub mod stream;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;

pub use access::{AccessPolicy, Identity, Node, Provider};
pub use kafka::{
    KafkaAllow, KafkaCaller, KafkaGrant, KafkaName, KafkaPolicy, KafkaRule, kafka_grant,
};
pub use limits::{Bucket, RateLimit, RateLimiter};
pub use mesh::{
    Cluster, ClusterId, Endpoint, Mesh, Protocol, Service, ServicePort, Transport, Workload,
    is_made_up,
};
pub use policy::{HeaderEdits, PathRewrite, Policy, Retry, RetryOn};
pub use request::Request;
pub use route::{
    Action, Backend, BackendPolicy, HeaderMatch, Match, PathMatch, QueryMatch, Redirect,
    RedirectPort, Rule, SourceMatch, StringMatch,
};
pub use router::{Decision, Outcome, route};
pub use stream::{Connection, StreamMatch, StreamRule, Subnet, route_stream};
pub use telemetry::Telemetry;
