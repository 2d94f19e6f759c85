//! The first message of a TLS connection, which says whom the client wants.

use std::io;

use rustls::server::Acceptor;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::limits::{HELLO_BYTES, HELLO_TIMEOUT};

/// What a connection began with.
#[derive(Debug, Default)]
pub(crate) struct Hello {
    /// All that was read, for the endpoint.
    pub bytes: Vec<u8>,
    /// The name that the client asks for (RFC 6066 section 3), in lower case.
    pub name: Option<String>,
}

/// Reads as far as the end of the ClientHello. What is none, or does not come in time, or is
/// longer than [`HELLO_BYTES`], asks for no name.
pub(crate) async fn read(client: &mut TcpStream) -> io::Result<Hello> {
    let mut hello = Hello::default();
    let mut acceptor = Acceptor::default();
    // what was read stays in `hello` whether or not time is up
    let read = tokio::time::timeout(HELLO_TIMEOUT, read_name(client, &mut acceptor, &mut hello));
    read.await.unwrap_or(Ok(()))?;
    Ok(hello)
}

async fn read_name(
    client: &mut TcpStream,
    acceptor: &mut Acceptor,
    hello: &mut Hello,
) -> io::Result<()> {
    let mut buffer = [0; 2048];
    while hello.bytes.len() < HELLO_BYTES {
        let n = client.read(&mut buffer).await?;
        let mut fresh = &buffer[..n];
        hello.bytes.extend_from_slice(fresh);
        if n == 0 {
            break;
        }
        while !fresh.is_empty() {
            if acceptor.read_tls(&mut fresh)? == 0 {
                return Ok(());
            }
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    hello.name = accepted.client_hello().server_name().map(str::to_lowercase);
                    return Ok(());
                }
                // not TLS, or not as it should be: the endpoint may say so
                Err(_) => return Ok(()),
            }
        }
    }
    Ok(())
}
