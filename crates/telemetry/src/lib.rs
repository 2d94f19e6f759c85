//! What Beeway tells of traffic, without I/O: whose it was ([`names`]), how much ([`totals`],
//! [`latency`]), one by one ([`Flow`]), and as a picture of the last moments ([`graph`]).
//!
//! Counts and records come in, by addresses, from the kernel and from the userspace proxy; what goes
//! out are names. Nothing here knows where either comes from or goes.

pub mod filter;
pub mod flow;
pub mod graph;
pub mod latency;
pub mod names;
pub mod totals;

pub use filter::{Filter, FlowQuery};
pub use flow::{Flow, FlowView, Verdict};
pub use names::{Names, Party, ServiceName};
