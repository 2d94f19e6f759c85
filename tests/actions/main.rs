//! What rules do to requests besides routing them, as a client and a server see it: a real agent,
//! real sockets, configuration as users write it. Each test is of what Istio and Gateway API say.

#[path = "../bed/mod.rs"]
mod bed;
#[path = "../calls/mod.rs"]
mod calls;

mod bodies;
mod cors;
mod delegate;
mod failures;
mod faults;
mod grpc;
mod headers;
mod introduction;
mod mirrors;
mod plain;
mod records;
mod redirects;
mod responses;
mod retries;
mod rewrites;
mod scene;
mod timeouts;
mod weights;
