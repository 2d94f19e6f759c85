//! Asking the agent of this node by HTTP on its socket.

use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

use crate::status::api_socket;

/// How long the agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What drives a command that asks.
pub fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start to ask")
}

/// Asks, and hands back the head of a good answer; `None`: no agent is there. `command` is what was
/// typed.
pub async fn get(state: &Path, what: &str, command: &str) -> Result<Option<Response<Incoming>>> {
    let path = api_socket(state);
    let stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => return Ok(None),
            io::ErrorKind::PermissionDenied => return only_root(command),
            _ => return Err(error).with_context(|| format!("connect to {}", path.display())),
        },
    };
    let asked = tokio::time::timeout(PATIENCE, ask(stream, what)).await;
    let silent = || format!("the agent at {} does not answer", path.display());
    let response = asked.with_context(silent)?.with_context(silent)?;
    match response.status() {
        StatusCode::OK => Ok(Some(response)),
        StatusCode::FORBIDDEN => only_root(command),
        status => {
            let why = read(response).await.unwrap_or_default();
            bail!("the agent says {status}: {}", String::from_utf8_lossy(&why).trim())
        }
    }
}

fn only_root<T>(command: &str) -> Result<T> {
    bail!("only root may ask the agent: try `sudo {command}`")
}

async fn ask(stream: UnixStream, what: &str) -> Result<Response<Incoming>> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(what).header("host", "beeway").body(Empty::<Bytes>::new())?;
    Ok(sender.send_request(request).await?)
}

async fn read(response: Response<Incoming>) -> Result<Bytes> {
    let body = tokio::time::timeout(PATIENCE, response.into_body().collect()).await;
    Ok(body.context("the agent does not go on answering")??.to_bytes())
}

/// Asks for a JSON document; `None`: no agent is there.
pub async fn json<T: DeserializeOwned>(
    state: &Path,
    what: &str,
    command: &str,
) -> Result<Option<T>> {
    let Some(response) = get(state, what, command).await? else { return Ok(None) };
    let document = read(response).await?;
    Ok(Some(serde_json::from_slice(&document).context("read what the agent says")?))
}
