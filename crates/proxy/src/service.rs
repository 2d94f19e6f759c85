//! Serves clients' connections: HTTP/1.1 and HTTP/2, by bus or by socket.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::client::Client;
use crate::exchange::handle;
use crate::http2;
use crate::limits::{REQUEST_HEAD, SERVER_BUFFER};
use crate::preface::is_http2;
use crate::stats::Held;
use crate::stream::{Io, State, Stream};
use crate::tunnel::Tunnel;

/// The answer to what is no request, when the server gives none.
const BAD_REQUEST: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Serves a stream until its client is gone or the server has nothing more to say to it.
pub(crate) async fn serve(stream: Rc<Stream>) {
    let _served = Held::new(&stream.core.counters, |counters| &counters.served_streams);
    if !stream.is_sticky() {
        // The kernel has read a head of HTTP/1.1.
        return serve_requests(&stream, Io(stream.clone())).await;
    }
    match is_http2(Io(stream.clone())).await {
        Ok((io, false)) => serve_requests(&stream, io).await,
        Ok((io, true)) => {
            let client = Rc::new(Client::of_stream(&stream, false));
            let served = http2::server::serve(client, io.after_preface()).await;
            tracing::debug!(?served, "the end of an HTTP/2 connection by bus");
            match served {
                Ok(()) => stream.core.finish(&stream),
                Err(_) => stream.core.abort(&stream),
            }
        }
        Err(_) => stream.core.close(stream.cookie),
    }
}

async fn serve_requests(stream: &Rc<Stream>, io: impl AsyncRead + AsyncWrite + Unpin) {
    let client = Rc::new(Client::of_stream(stream, true));
    let served = serve_http1(&client, io).await;
    // There still if the server has failed before the answer came.
    client.slot().take();
    stream.handed.take();
    let served = match served {
        Ok(Some(Upgraded { tunnel, io, read })) => {
            // An end of either side must get to the other.
            stream.core.kernel.divert(stream.cookie);
            return match tunnel.run(io, read).await {
                Ok(()) => stream.core.finish(stream),
                Err(error) => {
                    tracing::debug!(%error, "a tunnel has failed");
                    stream.core.abort(stream);
                }
            };
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    let connection_failed = served.is_err();
    let answered = match served {
        Ok(()) => true,
        // A 400 or 431 has been written.
        Err(error) => error.is_parse() || error.is_parse_too_large(),
    };
    // Of what begins like HTTP/2 the server says nothing at all.
    if answered && connection_failed && !stream.is_answering() && !stream.refused.get() {
        let _ = Io(stream.clone()).write_all(BAD_REQUEST).await;
    }
    if answered && !stream.broken.get() && Io(stream.clone()).shutdown().await.is_ok() {
        stream.core.finish(stream);
    } else if stream.state.get() == State::Gone {
        stream.core.close(stream.cookie);
    } else {
        stream.core.abort(stream);
    }
}

/// An HTTP/1 connection that has become a tunnel.
struct Upgraded<I> {
    tunnel: Tunnel,
    /// The client's end.
    io: I,
    /// Bytes from there that came after the request.
    read: Bytes,
}

async fn serve_http1<I>(client: &Rc<Client>, io: I) -> hyper::Result<Option<Upgraded<I>>>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = http1::Builder::new()
        .half_close(true)
        .preserve_header_case(true)
        .auto_date_header(false)
        .max_buf_size(SERVER_BUFFER)
        .max_header_size(REQUEST_HEAD)
        .serve_connection(TokioIo::new(io), handler(client));
    let mut draining = std::pin::pin!(client.draining());
    let mut told = false;
    std::future::poll_fn(|cx| {
        if !told && draining.as_mut().poll(cx).is_ready() {
            told = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        let served = Pin::new(&mut connection).poll(cx);
        // An upload goes on although nobody reads the answer yet.
        client.drive(cx);
        served
    })
    .await?;
    Ok(client.tunnel.take().map(|tunnel| {
        let parts = connection.into_parts();
        Upgraded { tunnel, io: parts.io.into_inner(), read: parts.read_buf }
    }))
}

fn handler(
    client: &Rc<Client>,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = crate::exchange::Answer,
    Error = Infallible,
    Future = impl Future<Output = Result<crate::exchange::Answer, Infallible>> + 'static,
> + 'static {
    let client = client.clone();
    service_fn(move |request| {
        let client = client.clone();
        async move { Ok(handle(&client, request.map(Into::into)).await) }
    })
}

/// Serves a client whose connection is a socket of ours, until it ends.
pub(crate) async fn serve_socket(
    client: Client,
    io: impl AsyncRead + AsyncWrite + Unpin + 'static,
) -> io::Result<()> {
    let (io, http2) = is_http2(io).await?;
    if http2 {
        return http2::server::serve(Rc::new(client), io.after_preface()).await;
    }
    let client = Rc::new(client.one_by_one());
    match serve_http1(&client, io).await.map_err(io::Error::other)? {
        Some(Upgraded { tunnel, io, read }) => tunnel.run(io, read).await,
        None => Ok(()),
    }
}
