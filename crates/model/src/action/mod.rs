//! What the actions of a rule do, as functions of values: the proxy sends and answers, this says
//! what.

pub mod cors;
pub mod grpc;
pub mod redirect;
pub mod retry;
pub mod rewrite;
