//! Large uploads: one connection at a time in a socket that is only read when there is room.

use std::rc::Rc;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::frame::{Decoder, Piece};
use crate::limits::RELAY_READ;
use crate::worker::{Core, Lane};

/// Reads one relay after the other for as long as the dataplane replaces them.
pub(crate) async fn run(core: Rc<Core>, index: usize, mut socket: TcpStream) {
    loop {
        let over = Rc::new(Notify::new());
        tokio::select! {
            () = pump(&core, &over, &mut socket) => {}
            // What is left in it belongs to a client that is gone.
            () = over.notified() => {}
        }
        drop(socket);
        let Some(next) = core.kernel.relay_done(index) else {
            return;
        };
        socket = match next.set_nonblocking(true).and_then(|()| TcpStream::from_std(next)) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!(%error, index, "cannot use a new relay");
                return;
            }
        };
    }
}

/// Ends when the socket does.
async fn pump(core: &Rc<Core>, over: &Rc<Notify>, socket: &mut TcpStream) {
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; RELAY_READ];
    let mut held = 0;
    loop {
        match socket.read(&mut buffer[held..]).await {
            Ok(0) => return,
            Ok(n) => held += n,
            Err(error) => {
                tracing::debug!(%error, "a relay has failed");
                return;
            }
        }
        let mut input = &buffer[..held];
        while let Some(piece) = decoder.next(&mut input) {
            take(core, over, piece).await;
        }
        let left = input.len();
        buffer.copy_within(held - left..held, 0);
        held = left;
    }
}

async fn take(core: &Rc<Core>, over: &Rc<Notify>, piece: Piece<'_>) {
    let Some(stream) = core.stream_of(&piece, Lane::Relay) else {
        return;
    };
    *stream.relay.borrow_mut() = Some(over.clone());
    std::future::poll_fn(|cx| stream.poll_room(cx, piece.offset)).await;
    core.deliver(&stream, piece);
}
