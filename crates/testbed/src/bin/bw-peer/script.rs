//! `bw-peer script`: a server that answers each request with the bytes that its path spells, in
//! the writes that it spells, so that a test has the server's side of the wire too.
//!
//! The path is `/script/STEP.STEP...`; every other path is answered with status 404.
//!
//! | step | |
//! |---|---|
//! | hexadecimal digits | these bytes, in one write |
//! | `xN` | N bytes `x`, in one write |
//! | `waitMS` | a pause |
//! | `close` | ends the connection |
//!
//! A body with a content-length is read when the answer has been given: answers come early.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::listen;
use crate::wire::Wire;

#[derive(clap::Args)]
pub struct Options {
    /// Address and port; may be repeated; port 0 takes any
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let listeners = listen::tcp(&options.listen)?;
    let addresses: io::Result<Vec<_>> = listeners.iter().map(|l| l.local_addr()).collect();
    listen::announce("script", &addresses?);
    std::thread::scope(|scope| {
        for listener in &listeners {
            scope.spawn(move || {
                for stream in listener.incoming().flatten() {
                    std::thread::spawn(move || {
                        if let Err(error) = serve(stream) {
                            eprintln!("{error}");
                        }
                    });
                }
            });
        }
    });
    Ok(())
}

fn serve(stream: TcpStream) -> io::Result<()> {
    let mut wire = Wire::new(stream)?;
    loop {
        let head = wire.head_text()?;
        let path = head.split(' ').nth(1).unwrap_or_default();
        let length = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .and_then(|(_, value)| value.parse().ok());
        match path.strip_prefix("/script/") {
            Some(script) => {
                for step in script.split('.') {
                    if step == "close" {
                        return Ok(());
                    }
                    perform(step, &mut wire.stream)?;
                }
            }
            None => {
                wire.stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?
            }
        }
        wire.exactly(length.unwrap_or(0), &mut |_| {})?;
    }
}

fn perform(step: &str, stream: &mut TcpStream) -> io::Result<()> {
    let wrong = || io::Error::other(format!("no such step: {step}"));
    if let Some(ms) = step.strip_prefix("wait") {
        std::thread::sleep(Duration::from_millis(ms.parse().map_err(|_| wrong())?));
        return Ok(());
    }
    if let Some(n) = step.strip_prefix('x') {
        return stream.write_all(&vec![b'x'; n.parse().map_err(|_| wrong())?]);
    }
    let byte = |at: usize| u8::from_str_radix(step.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..step.len()).step_by(2).map(byte).collect();
    stream.write_all(&bytes.ok_or_else(wrong)?)
}
