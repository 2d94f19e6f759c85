//! Servers and clients that speak no HTTP: `udp-echo`, `udp-send`, `tcp-echo`, `tcp-ping`.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use socket2::Type;

use crate::{error_name, listen, say};

/// How long to wait for an echo.
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
pub struct Listen {
    /// Address and port; may be repeated; port 0 takes any
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
    /// UDP: put `NAME ` in front of each echo. TCP: greet each connection with `NAME\n`
    #[arg(long)]
    name: Option<String>,
}

#[derive(clap::Args)]
pub struct UdpSend {
    /// Where to
    #[arg(long)]
    to: SocketAddr,
    /// Connect the socket first, instead of naming the address with each datagram
    #[arg(long)]
    connected: bool,
    /// How many datagrams, one after another
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// What they hold; the number of the datagram is added
    #[arg(long, default_value = "ping")]
    text: String,
    /// How long to wait for each reply
    #[arg(long, default_value_t = 2000)]
    timeout_ms: u64,
}

#[derive(clap::Args)]
pub struct TcpPing {
    /// Where to
    #[arg(long)]
    connect: SocketAddr,
    /// How many pings, one after another
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// How many bytes each
    #[arg(long, default_value_t = 32)]
    size: usize,
    /// Read the server's greeting line first
    #[arg(long)]
    greeting: bool,
}

pub fn udp_echo(options: Listen) -> anyhow::Result<()> {
    let mut sockets: Vec<UdpSocket> = Vec::new();
    let mut addresses = Vec::new();
    for address in &options.listen {
        let socket: UdpSocket = listen::bind(*address, Type::DGRAM)?.into();
        addresses.push(socket.local_addr()?);
        sockets.push(socket);
    }
    let name = options.name.unwrap_or_default();
    listen::announce(&name, &addresses);
    std::thread::scope(|scope| {
        for socket in &sockets {
            scope.spawn(|| udp_loop(socket, &name));
        }
    });
    Ok(())
}

fn udp_loop(socket: &UdpSocket, name: &str) {
    let mut buffer = vec![0; 65536];
    loop {
        // An error is an ICMP of an earlier client that has gone.
        let Ok((n, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let mut reply = Vec::with_capacity(n + name.len() + 1);
        if !name.is_empty() {
            reply.extend_from_slice(name.as_bytes());
            reply.push(b' ');
        }
        reply.extend_from_slice(&buffer[..n]);
        let _ = socket.send_to(&reply, from);
    }
}

pub fn udp_send(options: &UdpSend) -> anyhow::Result<()> {
    let any = match options.to {
        SocketAddr::V4(_) => "0.0.0.0:0",
        SocketAddr::V6(_) => "[::]:0",
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(Duration::from_millis(options.timeout_ms)))?;
    if options.connected {
        if let Err(error) = socket.connect(options.to) {
            say(&json!({ "n": 0, "error": error_name(&error) }));
            return Ok(());
        }
        let peer = socket.peer_addr().map(|peer| peer.to_string()).ok();
        say(&json!({ "connected": peer, "local": socket.local_addr()?.to_string() }));
    }
    for n in 0..options.count {
        let line = match udp_exchange(options, &socket, n) {
            Ok((reply, from)) => json!({ "n": n, "reply": reply, "from": from.to_string() }),
            Err(error) => json!({ "n": n, "error": error_name(&error) }),
        };
        say(&line);
    }
    Ok(())
}

fn udp_exchange(options: &UdpSend, socket: &UdpSocket, n: u32) -> io::Result<(String, SocketAddr)> {
    let text = format!("{}{n}", options.text);
    if options.connected {
        socket.send(text.as_bytes())?;
    } else {
        socket.send_to(text.as_bytes(), options.to)?;
    }
    let mut buffer = vec![0; 65536];
    let (length, from) = socket.recv_from(&mut buffer)?;
    Ok((String::from_utf8_lossy(&buffer[..length]).into_owned(), from))
}

pub fn tcp_echo(options: Listen) -> anyhow::Result<()> {
    let listeners = listen::tcp(&options.listen)?;
    let addresses: io::Result<Vec<_>> = listeners.iter().map(|l| l.local_addr()).collect();
    let name = options.name.unwrap_or_default();
    listen::announce(&name, &addresses?);
    std::thread::scope(|scope| {
        for listener in &listeners {
            let name = &name;
            scope.spawn(move || {
                for stream in listener.incoming().flatten() {
                    scope.spawn(move || {
                        if let Err(error) = tcp_loop(stream, name) {
                            eprintln!("connection: {error}");
                        }
                    });
                }
            });
        }
    });
    Ok(())
}

fn tcp_loop(mut stream: TcpStream, name: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if !name.is_empty() {
        stream.write_all(format!("{name}\n").as_bytes())?;
    }
    let mut buffer = vec![0; 65536];
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..n])?;
    }
}

pub fn tcp_ping(options: &TcpPing) -> anyhow::Result<()> {
    let mut latency = crate::histogram()?;
    let mut line = json!({});
    if let Err(error) = ping(options, &mut latency, &mut line) {
        line["error"] = error_name(&error).into();
    }
    line["pings"] = latency.len().into();
    line["bytes"] = (latency.len() * options.size as u64).into();
    for (key, percent) in [("p50_us", 50.0), ("p90_us", 90.0), ("p99_us", 99.0)] {
        line[key] = (latency.value_at_percentile(percent) / 1000).into();
    }
    say(&line);
    Ok(())
}

fn ping(options: &TcpPing, latency: &mut Histogram<u64>, line: &mut Value) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&options.connect, TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    line["peer"] = stream.peer_addr()?.to_string().into();
    line["local"] = stream.local_addr()?.to_string().into();
    if options.greeting {
        let mut greeting = Vec::new();
        let mut byte = [0];
        while byte != *b"\n" {
            stream.read_exact(&mut byte)?;
            greeting.push(byte[0]);
        }
        line["greeting"] = String::from_utf8_lossy(&greeting).trim_end().into();
    }
    let data = beeway_testbed::pattern::bytes(options.size);
    let mut echo = vec![0; options.size];
    for _ in 0..options.count {
        let begun = Instant::now();
        stream.write_all(&data)?;
        stream.read_exact(&mut echo)?;
        if echo != data {
            return Err(io::Error::other("the echo differs"));
        }
        latency.saturating_record(begun.elapsed().as_nanos() as u64);
    }
    Ok(())
}
