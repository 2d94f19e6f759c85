//! Gateway API's conformance cases as traffic: a real agent, real pods, real requests.
//!
//! [`mesh`] replays the cases in which a Service is the parent of the routes (GAMMA). [`gateway`]
//! replays those of actions that exist for gateways only: each Gateway becomes a Service.

#[path = "../bed/mod.rs"]
mod bed;
#[path = "../calls/mod.rs"]
mod calls;
#[path = "../cases/mod.rs"]
mod cases;

mod gateway;
mod grpc;
mod mesh;
mod wire;
mod world;
