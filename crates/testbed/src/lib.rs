//! The test bed: simulated Kubernetes nodes out of network namespaces, veth pairs and child
//! cgroups, with the servers and clients that run inside them.
//!
//! It knows no product crate: integration tests, the demo and the bench put the mesh on top.
//!
//! ```no_run
//! use beeway_testbed::{Node, Place, http_server, spawn_ready};
//!
//! # fn main() -> anyhow::Result<()> {
//! let node = Node::new("demo")?;
//! let (client, server) = (node.pod("client")?, node.pod("server")?);
//! let _reviews = spawn_ready(http_server(&server, 9080, "reviews-v1")?)?;
//! let answer = beeway_testbed::curl(&client, &["-s", &server.url(9080, "/")])?;
//! assert!(answer.stdout.contains("reviews-v1"));
//! # Ok(())
//! # }
//! ```
//!
//! Invariants:
//! - Nothing is ever attached to, and no process is moved to, the root cgroup.
//! - No interface is created in the machine's own network namespace.
//! - Every kernel object carries the pid of the process that made it in its name, so that
//!   [`sweep`] can tell leftovers of the dead from the belongings of the living.

mod browser;
mod cgroup;
mod command;
mod grpc;
mod kafka;
mod netns;
mod node;
pub mod pattern;
mod peer;
mod process;
mod raw;
mod repeats;
mod scrape;
mod sweep;
mod tools;
mod websocket;

pub use browser::Browser;
pub use cgroup::Cgroup;
pub use command::Command;
pub use grpc::{GrpcClient, grpc_go_calls, grpc_go_server, grpc_server};
pub use kafka::{KafkaClient, Library, create_topic, kafka_broker};
pub use netns::Netns;
pub use node::{Node, Place, Pod, PodOptions};
pub use peer::{
    Load, LoadReport, grpc_echo, http_server, http_server_at, peer_binary, script_server, slurp,
    spawn_ready, tcp_echo, tcp_ping, udp_echo, udp_send, upload,
};
pub use process::{Output, Process, needs, needs_made};
pub use raw::{RawClient, Response};
pub use repeats::RepeatingServer;
pub use scrape::Scrape;
pub use sweep::{directory, sweep};
pub use tools::{
    WrkReport, curl, grpc_client, nghttp, nginx, nginx_http2, nginx_tls, nginx_with, wait_connect,
    wrk, wrk_with,
};
pub use websocket::{WebSocket, websocket_server};
