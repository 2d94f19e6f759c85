//! Asking other servers, as the applications of Bookinfo do.

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// Headers of a request that are handed on to the upstreams, as an instrumented application does.
const FORWARDED: [&str; 6] =
    ["end-user", "x-request-id", "traceparent", "tracestate", "cookie", "user-agent"];

/// The servers to ask, and a pool of kept-alive connections to each.
pub struct Upstreams {
    targets: Vec<Uri>,
    client: Client<HttpConnector, Empty<Bytes>>,
}

impl Upstreams {
    pub fn new(urls: &[String]) -> Result<Self> {
        let targets = urls.iter().map(|url| url.parse().with_context(|| url.clone()));
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Ok(Self {
            targets: targets.collect::<Result<_>>()?,
            client: Client::builder(TokioExecutor::new()).build(connector),
        })
    }

    /// What each answers, in order. An upstream that fails is a 502 and a line that says why.
    pub async fn get(&self, headers: &HeaderMap) -> Vec<(StatusCode, String)> {
        let mut answers = Vec::with_capacity(self.targets.len());
        for target in &self.targets {
            let answer = self.ask(target, headers).await;
            answers.push(answer.unwrap_or_else(|error| {
                (StatusCode::BAD_GATEWAY, format!("{target} failed: {error:#}\n"))
            }));
        }
        answers
    }

    async fn ask(&self, target: &Uri, headers: &HeaderMap) -> Result<(StatusCode, String)> {
        let mut request = Request::get(target.clone());
        for name in FORWARDED {
            for value in headers.get_all(name) {
                request = request.header(name, value);
            }
        }
        let response = self.client.request(request.body(Empty::new())?).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}
