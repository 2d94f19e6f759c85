//! Endpoints that say what the test wants.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::upstream;

pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What an endpoint does with one request.
#[derive(Clone)]
pub struct Said {
    /// Written one after the other, with a pause between them.
    pub pieces: Vec<String>,
    pub then: Then,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Then {
    Keep,
    Close,
    Reset,
}

pub fn says(pieces: &[&str], then: Then) -> Said {
    Said { pieces: pieces.iter().map(|piece| piece.to_string()).collect(), then }
}

/// An endpoint that says these things, one for each request, and [`OK`] after them.
pub struct Endpoint {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    pub requests: Arc<Mutex<Vec<String>>>,
}

impl Endpoint {
    pub fn new(script: Vec<Said>) -> Endpoint {
        Endpoint::at("127.0.0.1", script)
    }

    pub fn at(address: &str, script: Vec<Said>) -> Endpoint {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (script, next) = (Arc::new(script), Arc::new(AtomicUsize::new(0)));
        let (seen, connections) = (requests.clone(), Arc::new(AtomicUsize::new(0)));
        let count = connections.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                count.fetch_add(1, Ordering::SeqCst);
                let (script, next, seen) = (script.clone(), next.clone(), seen.clone());
                let socket = socket.unwrap();
                std::thread::spawn(move || converse(socket, &script, &next, &seen));
            }
        });
        Endpoint { address, connections, requests }
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn converse(
    mut socket: TcpStream,
    script: &[Said],
    next: &AtomicUsize,
    seen: &Mutex<Vec<String>>,
) -> Option<()> {
    socket.set_nodelay(true).unwrap();
    loop {
        let mut request = upstream::head(&mut socket);
        if request.is_empty() {
            return None;
        }
        let mut body = vec![0; length_of(&request)];
        socket.read_exact(&mut body).ok()?;
        request += std::str::from_utf8(&body).unwrap();
        seen.lock().unwrap().push(request);
        let usual = says(&[OK], Then::Keep);
        let said = script.get(next.fetch_add(1, Ordering::SeqCst)).unwrap_or(&usual);
        for (index, piece) in said.pieces.iter().enumerate() {
            if index > 0 {
                std::thread::sleep(Duration::from_millis(30));
            }
            socket.write_all(piece.as_bytes()).ok()?;
        }
        match said.then {
            Then::Keep => {}
            Then::Close => return None,
            Then::Reset => {
                let gone = nix::libc::linger { l_onoff: 1, l_linger: 0 };
                nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Linger, &gone)
                    .unwrap();
                return None;
            }
        }
    }
}

fn length_of(head: &str) -> usize {
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
    });
    length.unwrap_or(0)
}
