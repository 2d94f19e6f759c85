//! HTTP/2 (RFC 9113) as the detour needs it.
//!
//! A whole-connection detour of gRPC is carried here: [`server`] reads the frames of a client's
//! connection, and a request that is plain is written to an endpoint's connection ([`endpoint`]) at
//! once, in the same turn; what that answers goes back the same way. A request that needs more goes
//! to the engine, a task for each.
//!
//! Both ends look back at each other, and one that is at work is borrowed: an endpoint's connection
//! does nothing to a client's but send until the end of its turn ([`endpoint::Endpoint`] keeps it for
//! later), and a client's does nothing to an endpoint's but write, cancel and let it send more.
//!
//! The library (h2 by way of hyper) does all of this, too, and takes half of what a call costs for
//! it: see `bench/notes.md`. It still serves the engine's own connections to endpoints.

mod body;
pub(crate) mod endpoint;
mod fields;
mod frame;
mod head;
mod hpack;
mod huffman;
mod output;
mod reader;
pub(crate) mod server;
mod stream;

pub(crate) use body::{Body, Lost};
pub(crate) use fields::Field;
pub(crate) use head::{Answer, Asked};
pub(crate) use stream::Ending;
