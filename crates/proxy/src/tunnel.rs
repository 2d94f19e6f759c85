//! What a connection becomes after `101 Switching Protocols`: bytes, both ways.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::access::Standing;
use crate::limits::TUNNEL_BUFFER;
use crate::upstream::Upstream;

/// The endpoint's side of an upgraded connection.
pub(crate) struct Tunnel {
    pub upstream: Upstream,
    pub standing: Standing,
}

impl Tunnel {
    /// Copies until the endpoint closes or the client is gone; that the client has no more to send
    /// is passed on. `read`: bytes from the client that came after its request. An error when it
    /// becomes forbidden, too.
    pub async fn run<C>(self, mut client: C, read: Bytes) -> io::Result<()>
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        let Tunnel { mut upstream, standing } = self;
        std::future::poll_fn(|cx| upstream.poll_over(cx)).await;
        let raw = upstream.into_raw();
        let mut endpoint = raw.socket;
        endpoint.write_all(&read).await?;
        client.write_all(&raw.read).await?;
        client.flush().await?;
        tokio::select! {
            copied = copy(client, &mut endpoint) => copied,
            forbidden = standing.forbidden() => Err(forbidden),
        }
    }
}

/// The endpoint's end is the end. That of the client is passed on.
async fn copy<C>(client: C, endpoint: &mut TcpStream) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let (mut from_endpoint, mut to_endpoint) = endpoint.split();
    let (mut from_client, mut client) = tokio::io::split(client);
    let down = async {
        let mut buffer = vec![0; TUNNEL_BUFFER];
        loop {
            let n = from_endpoint.read(&mut buffer).await?;
            if n == 0 {
                return client.shutdown().await;
            }
            client.write_all(&buffer[..n]).await?;
            client.flush().await?;
        }
    };
    let up = async {
        let mut buffer = vec![0; TUNNEL_BUFFER];
        loop {
            let n = from_client.read(&mut buffer).await?;
            if n == 0 {
                to_endpoint.shutdown().await?;
                return std::future::pending().await;
            }
            to_endpoint.write_all(&buffer[..n]).await?;
        }
    };
    tokio::select! {
        ended = down => ended,
        ended = up => ended,
    }
}
