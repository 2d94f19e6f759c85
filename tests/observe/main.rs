//! What is told of single requests: access logs as Istio's Telemetry says it, and traces. Real agent,
//! real requests, natively and by detour; lines and spans are read back by what reads them elsewhere.

#[path = "../bed/mod.rs"]
mod bed;
mod files;
mod lines;
mod rules;
mod safety;
mod scene;
mod traces;
