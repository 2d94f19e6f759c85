//! `bw-peer`: the client and server that tests run inside pods and steer.
//!
//! Every answer is one line of JSON on standard output; what went wrong is an `error` in it,
//! by the name of its errno where it has one.

mod echo;
mod flaky;
mod grpc;
mod listen;
mod load;
mod raw;
mod script;
mod server;
mod transfer;
mod upstream;
mod wire;

use std::io::Write;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Client and server of the Beeway test bed")]
struct Arguments {
    #[command(subcommand)]
    command: Peer,
}

#[derive(Subcommand)]
enum Peer {
    /// HTTP server
    Server(server::Options),
    /// gRPC server whose unary methods answer with what they got
    Grpc(grpc::Options),
    /// Server that sends the bytes that a request's path spells
    Script(script::Options),
    /// TCP client that runs steps, one JSON object a line, from standard input
    Raw(raw::Options),
    /// Closed-loop HTTP load generator
    Load(load::Options),
    /// Download, slowly if asked, and digest
    Slurp(transfer::Slurp),
    /// Post deterministic bytes
    Upload(transfer::Upload),
    /// UDP server that sends back what it gets
    UdpEcho(echo::Listen),
    /// UDP client
    UdpSend(echo::UdpSend),
    /// TCP server that sends back what it gets
    TcpEcho(echo::Listen),
    /// TCP client that measures echoes
    TcpPing(echo::TcpPing),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Peer::Server(options) => server::run(options),
        Peer::Grpc(options) => grpc::run(options),
        Peer::Script(options) => script::run(&options),
        Peer::Raw(options) => raw::run(&options),
        Peer::Load(options) => load::run(options),
        Peer::Slurp(options) => transfer::slurp(&options),
        Peer::Upload(options) => transfer::upload(&options),
        Peer::UdpEcho(options) => echo::udp_echo(options),
        Peer::UdpSend(options) => echo::udp_send(&options),
        Peer::TcpEcho(options) => echo::tcp_echo(options),
        Peer::TcpPing(options) => echo::tcp_ping(&options),
    }
}

/// Prints one line of JSON at once: the reader waits for it.
fn say(value: &serde_json::Value) {
    let mut out = std::io::stdout().lock();
    // A reader that has gone away wants no answer.
    let _ = writeln!(out, "{value}").and_then(|()| out.flush());
}

/// The name of an errno (`ECONNRESET`), `timeout`, `eof`, or the message of any other error.
fn error_name(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    match (error.kind(), error.raw_os_error()) {
        (ErrorKind::WouldBlock | ErrorKind::TimedOut, Some(libc::EAGAIN) | None) => {
            "timeout".to_owned()
        }
        (ErrorKind::UnexpectedEof, _) => "eof".to_owned(),
        (_, Some(errno)) => format!("{:?}", nix::errno::Errno::from_raw(errno)),
        _ => error.to_string(),
    }
}

/// Latencies in nanoseconds, up to a minute.
fn histogram() -> anyhow::Result<hdrhistogram::Histogram<u64>> {
    Ok(hdrhistogram::Histogram::new_with_bounds(1, 60_000_000_000, 3)?)
}
