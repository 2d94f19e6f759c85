//! The short way and the engine do the same with requests over HTTP/2: each takes both, and what the
//! endpoint, the client and the access log have seen is compared.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use beeway_model::access::{Effect, Field, PathTest, Text};
use beeway_model::policy::{
    Abort, Fault, Fraction, HeaderEdits, PathRewrite, Retry, RetryOn, Rewrite,
};
use beeway_model::{
    Action, Backend, BackendPolicy, ClusterId, Match, Mesh, Policy, Protocol, Rule,
};
use beeway_proxy::{Options, Record, Recorder};
use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::time::timeout;

use crate::access::policy;
use crate::kit::*;

/// What an endpoint does with a request.
#[derive(Debug, Clone)]
enum Then {
    Answer {
        status: u16,
        fields: Vec<(&'static str, &'static str)>,
        body: Vec<&'static str>,
        end: End,
    },
    Reset(Reason),
    Silence,
    /// The connection is closed.
    Close,
}

#[derive(Debug, Clone, PartialEq)]
enum End {
    /// With the last of the body, or the head.
    Plain,
    Trailers(Vec<(&'static str, &'static str)>),
    Reset(Reason),
    /// Never.
    Silence,
}

fn says(
    status: u16,
    fields: &[(&'static str, &'static str)],
    body: &[&'static str],
    end: End,
) -> Then {
    Then::Answer { status, fields: fields.to_vec(), body: body.to_vec(), end }
}

fn ok() -> Then {
    says(200, &[("x-a", "1")], &["ok"], End::Plain)
}

const GRPC: (&str, &str) = ("content-type", "application/grpc");

/// An answer to a call.
fn called(status: &'static str) -> Then {
    says(
        200,
        &[GRPC],
        &["\0\0\0\0\x02hi"],
        End::Trailers(vec![("grpc-status", status), ("x-t", "1")]),
    )
}

fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let field = |(name, value): &(&'static str, &'static str)| {
        (http::HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    let mut map = HeaderMap::new();
    for (name, value) in fields.iter().map(field) {
        map.append(name, value);
    }
    map
}

fn in_order(fields: &HeaderMap) -> String {
    let mut lines: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    lines.sort_by_key(|line| line.split(':').next().unwrap().to_owned());
    lines.join(" | ")
}

/// Reads a body to its end.
async fn read(mut body: RecvStream) -> String {
    let mut text = String::new();
    while let Some(data) = body.data().await {
        let Ok(data) = data.map_err(|error| text += &format!(" broken: {:?}", error.reason()))
        else {
            return text;
        };
        let _ = body.flow_control().release_capacity(data.len());
        text += &String::from_utf8_lossy(&data);
    }
    match body.trailers().await {
        Ok(None) => text,
        Ok(Some(trailers)) => text + " trailers " + &in_order(&trailers),
        Err(error) => text + &format!(" broken: {:?}", error.reason()),
    }
}

/// An endpoint that does as the script says, and then says ok.
fn endpoint(script: Vec<Then>, seen: Arc<Mutex<Vec<String>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let script = Arc::new(Mutex::new(script.into_iter()));
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(socket, script.clone(), seen.clone()));
            }
        });
    });
    address
}

type Script = Arc<Mutex<std::vec::IntoIter<Then>>>;

async fn serve(socket: tokio::net::TcpStream, script: Script, seen: Arc<Mutex<Vec<String>>>) {
    let mut connection = h2::server::handshake(socket).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let then = script.lock().unwrap().next().unwrap_or_else(ok);
        if let Then::Close = then {
            return;
        }
        let seen = seen.clone();
        tokio::spawn(async move {
            let (head, body) = request.into_parts();
            // the whole is there, or is not waited for
            let body = match then {
                Then::Reset(_) => String::new(),
                _ => read(body).await,
            };
            let line =
                format!("{} {} | {} || {body}", head.method, head.uri, in_order(&head.headers));
            seen.lock().unwrap().push(line);
            act(then, &mut respond).await;
        });
    }
}

async fn act(then: Then, respond: &mut h2::server::SendResponse<Bytes>) {
    let (status, fields, body, end) = match then {
        Then::Answer { status, fields, body, end } => (status, fields, body, end),
        Then::Reset(reason) => return respond.send_reset(reason),
        Then::Silence | Then::Close => {
            drop(std::future::poll_fn(|cx| respond.poll_reset(cx)).await);
            return;
        }
    };
    let mut response = Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
    *response.headers_mut() = map(&fields);
    let at_once = body.is_empty() && end == End::Plain;
    let mut stream = respond.send_response(response, at_once).unwrap();
    for (at, data) in body.iter().enumerate() {
        let last = at + 1 == body.len() && end == End::Plain;
        let _ = stream.send_data(Bytes::from_static(data.as_bytes()), last);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    match end {
        End::Plain => {}
        End::Trailers(trailers) => drop(stream.send_trailers(map(&trailers))),
        End::Reset(reason) => stream.send_reset(reason),
        End::Silence => drop(std::future::poll_fn(|cx| stream.poll_reset(cx)).await),
    }
}

/// What a client asks.
#[derive(Debug, Clone)]
struct Ask {
    method: &'static str,
    target: &'static str,
    fields: Vec<(&'static str, &'static str)>,
    body: &'static str,
    secret: bool,
}

fn get(target: &'static str, fields: &[(&'static str, &'static str)]) -> Ask {
    Ask { method: "GET", target, fields: fields.to_vec(), body: "", secret: false }
}

fn post(fields: &[(&'static str, &'static str)], body: &'static str) -> Ask {
    Ask { method: "POST", target: "/a", fields: fields.to_vec(), body, secret: false }
}

fn call(fields: &[(&'static str, &'static str)]) -> Ask {
    let fields = [&[GRPC, ("te", "trailers")], fields].concat();
    Ask { target: "/shop.Shop/Buy", ..post(&fields, "\0\0\0\0\x02me") }
}

#[derive(Default)]
struct Log(Mutex<Vec<Record>>);

impl Recorder for Log {
    fn record(&self, record: Record) {
        self.0.lock().unwrap().push(record);
    }
}

/// All that can be seen of some requests.
#[derive(Debug, PartialEq)]
struct Seen {
    by_endpoint: Vec<String>,
    by_client: Vec<String>,
    recorded: Vec<String>,
    counted: String,
}

async fn ask(sender: &h2::client::SendRequest<Bytes>, asked: &Ask) -> String {
    let uri = format!("http://shop{}", asked.target);
    let mut request = Request::builder().method(asked.method).uri(uri).body(()).unwrap();
    *request.headers_mut() = map(&asked.fields);
    request.headers_mut().insert("x-request-id", HeaderValue::from_static("1"));
    if asked.secret {
        let mut secret = HeaderValue::from_static("secret");
        secret.set_sensitive(true);
        request.headers_mut().insert("authorization", secret);
    }
    let mut sender = sender.clone().ready().await.unwrap();
    let (answer, mut body) = sender.send_request(request, asked.body.is_empty()).unwrap();
    if !asked.body.is_empty() {
        body.send_data(Bytes::from_static(asked.body.as_bytes()), true).unwrap();
    }
    match answer.await {
        Err(error) => format!("none: {:?}", error.reason()),
        Ok(answer) => {
            let (head, body) = answer.into_parts();
            format!("{} {} || {}", head.status, in_order(&head.headers), read(body).await)
        }
    }
}

fn take(
    plain: bool,
    around: &dyn Fn(SocketAddr) -> Mesh,
    asks: &[Ask],
    script: &[Then],
) -> (Seen, u64) {
    let (log, by_endpoint) = (Arc::new(Log::default()), Arc::default());
    let address = endpoint(script.to_vec(), Arc::clone(&by_endpoint));
    let kit = Kit::with(Options { plain }, around(address), Some(log.clone()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let by_client = async {
        let socket = tokio::net::TcpStream::connect(kit.address).await.unwrap();
        let (sender, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(async { drop(connection.await) });
        let mut by_client = Vec::new();
        for asked in asks {
            by_client.push(ask(&sender, asked).await);
        }
        by_client
    };
    let by_client = runtime.block_on(async { timeout(PATIENCE, by_client).await });
    let by_client = by_client.expect("in time");
    let started = Instant::now();
    while log.0.lock().unwrap().len() < by_client.len() {
        assert!(started.elapsed() < PATIENCE, "not recorded: {by_client:?}");
        std::thread::yield_now();
    }
    let recorded = log.0.lock().unwrap().iter().map(line).collect();
    let stats = kit.proxy.as_ref().unwrap().stats();
    let counted = format!(
        "requests {} answered {} errors {} retries {} flags {:?} policies {:?}",
        stats.requests,
        stats.answered,
        stats.upstream_errors,
        stats.retries,
        stats.flags,
        (stats.denied, stats.audited, stats.dry_run)
    );
    let by_endpoint = std::mem::take(&mut *by_endpoint.lock().unwrap());
    (Seen { by_endpoint, by_client, recorded, counted }, stats.plain)
}

fn line(record: &Record) -> String {
    let r = record;
    format!(
        "{} {} {} {} grpc {} {:?} id {} rule {} to {} {} tries {} in {} out {} {} [{}] from {} by {} {} \
         audit {:?} dry {:?}",
        r.method,
        r.authority,
        r.path,
        r.protocol,
        r.grpc,
        r.grpc_status,
        r.request_id,
        r.rule,
        r.cluster,
        r.endpoint.is_some(),
        r.attempts,
        r.received,
        r.sent,
        r.status,
        r.flags,
        r.source,
        r.policy,
        r.detail,
        r.audit,
        r.dry_run
    )
}

fn around(endpoint: SocketAddr, backend: &BackendPolicy, policy: &Policy) -> Mesh {
    let mut mesh = mesh(Protocol::Http2, &[endpoint], Vec::new());
    let backend =
        Backend { cluster: Some(ClusterId(0)), weight: 1, policy: Some(backend.clone().into()) };
    mesh.services[0].ports[0].rules = Some(vec![Rule {
        name: "the-rule".into(),
        matches: vec![Match::default()],
        action: Action::Forward(vec![backend]),
        policy: Some(policy.clone().into()),
        detour: None,
    }]);
    mesh
}

/// Both ways give the same; so many of the requests really took the short way.
#[track_caller]
fn same_in(mesh: &dyn Fn(SocketAddr) -> Mesh, asks: &[Ask], script: &[Then], short: u64) -> Seen {
    let (seen, plain) = take(true, mesh, asks, script);
    let (wanted, none) = take(false, mesh, asks, script);
    assert_eq!(seen, wanted, "{asks:?} {script:?}");
    assert_eq!((plain, none), (short, 0), "{asks:?} {script:?} {seen:?}");
    seen
}

#[track_caller]
fn same(policy: &Policy, asks: &[Ask], script: &[Then], short: u64) -> Seen {
    same_in(&|endpoint| around(endpoint, &BackendPolicy::default(), policy), asks, script, short)
}

#[test]
fn requests() {
    for (asked, short) in [
        (get("/", &[]), 1),
        (get("/%41//../b?c=d;e", &[("x-a", "1"), ("x-a", "2"), ("accept", "")]), 1),
        (get("/", &[("x-forwarded-proto", "https"), ("x-envoy-attempt-count", "7")]), 1),
        (get("/", &[("cookie", "a=b; c=d"), ("x-forwarded-for", "1.2.3.4")]), 1),
        (get("/", &[("te", "trailers"), ("user-agent", "x"), ("traceparent", "y")]), 1),
        (post(&[("content-length", "5")], "hello"), 1),
        (post(&[], "hello"), 1),
        (call(&[]), 1),
        (Ask { method: "OPTIONS", ..get("/", &[]) }, 1),
        (Ask { method: "DELETE", ..get("/", &[]) }, 1),
        (get("/", &[("cookie", "a=b"), ("cookie", "c=d")]), 0),
        (get("/", &[("host", "shop")]), 0),
        (get("/", &[("host", "other")]), 0),
        (post(&[("expect", "100-continue")], "hello"), 0),
        (Ask { secret: true, ..get("/", &[]) }, 0),
        (Ask { method: "HEAD", ..get("/", &[]) }, 0),
        (Ask { method: "BREW", ..get("/", &[]) }, 0),
    ] {
        same(&Policy::default(), &[asked], &[], short);
    }
}

#[test]
fn several_requests_on_one_connection() {
    let script = [ok(), called("0"), ok()];
    let asks = [get("/", &[]), call(&[]), post(&[], "more"), get("/", &[])];
    same(&Policy::default(), &asks, &script, 4);
}

#[test]
fn answers() {
    use End::{Plain, Trailers};
    let again = || ok();
    for (script, short) in [
        (vec![says(404, &[("x", ""), ("content-length", "2")], &["no"], Plain)], 2),
        (vec![says(204, &[], &[], Plain)], 2),
        (vec![says(304, &[("etag", "x"), ("content-length", "7")], &[], Plain)], 2),
        (vec![says(200, &[("content-length", "4")], &["on", "ce"], Plain)], 2),
        (vec![says(200, &[("set-cookie", "a"), ("set-cookie", "b")], &["a", "", "b"], Plain)], 2),
        (
            vec![says(
                200,
                &[],
                &["a"],
                Trailers(vec![("x-t", "1"), ("content-length", "7"), ("host", "x")]),
            )],
            2,
        ),
        (vec![says(599, &[], &["a"], Plain)], 2),
        (vec![called("0")], 2),
        (vec![called("14")], 2),
        (vec![says(503, &[], &["no"], Plain)], 2),
        // What is to be tried again, and what fails then.
        (vec![says(200, &[GRPC, ("grpc-status", "14")], &[], Plain), called("0")], 1),
        (vec![says(200, &[GRPC, ("grpc-status", "5")], &[], Plain)], 2),
        (vec![Then::Reset(Reason::REFUSED_STREAM), again()], 1),
        (vec![Then::Reset(Reason::INTERNAL_ERROR)], 1),
        (vec![Then::Reset(Reason::NO_ERROR)], 1),
        (vec![Then::Close], 1),
        // What only the engine passes on.
        (vec![says(204, &[("content-length", "0")], &[], Plain)], 1),
        (vec![says(600, &[], &["odd"], Plain)], 1),
        (vec![says(200, &[("content-length", "02")], &["ok"], Plain)], 1),
        (vec![says(200, &[("content-length", "2"), ("content-length", "2")], &["ok"], Plain)], 2),
        // What breaks off.
        (vec![says(200, &[], &["so"], End::Reset(Reason::INTERNAL_ERROR))], 2),
        (vec![says(200, &[], &["so"], End::Reset(Reason::NO_ERROR))], 2),
        (vec![says(200, &[], &["so"], End::Reset(Reason::REFUSED_STREAM))], 2),
    ] {
        same(&Policy::default(), &[get("/", &[]), get("/", &[])], &script, short);
    }
}

fn edits(remove: &[&str], set: &[(&str, &str)], add: &[(&str, &str)]) -> HeaderEdits {
    let pairs = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    };
    let remove = remove.iter().map(|name| name.to_string()).collect();
    HeaderEdits { remove, set: pairs(set), add: pairs(add) }
}

#[test]
fn rules() {
    let asked = get(
        "/a/b?c",
        &[("x-a", "1"), ("x-a", "2"), ("x-b", "3"), ("x-c", "4"), ("te", "trailers")],
    );
    let says_fields = says(
        200,
        &[("x-a", "1"), ("server", "x"), ("x-a", "2"), ("x-b", "3")],
        &["ok"],
        End::Plain,
    );
    let usual = edits(&["x-b"], &[("x-a", "new"), ("x-d", "")], &[("x-c", "more"), ("x-e", "5")]);
    let of_connection = edits(&[], &[("keep-alive", "timeout=5")], &[("proxy-connection", "x")]);
    let framing = edits(&["content-length"], &[("connection", "close")], &[("host", "x")]);
    let rewrite = |path: Option<PathRewrite>, authority: Option<&str>| Policy {
        rewrite: Rewrite { path, authority: authority.map(str::to_owned) },
        ..Policy::default()
    };
    let fault = |abort| Policy {
        fault: Fault {
            abort: Some((abort, Fraction { numerator: 1, denominator: 1 })),
            ..Fault::default()
        },
        ..Policy::default()
    };
    let retry = |retry| Policy { retry: Some(retry), ..Policy::default() };
    for (policy, short) in [
        (
            Policy {
                request_headers: usual.clone(),
                response_headers: usual.clone(),
                ..Policy::default()
            },
            1,
        ),
        (Policy { request_headers: framing.clone(), ..Policy::default() }, 0),
        (Policy { response_headers: framing, ..Policy::default() }, 0),
        (rewrite(Some(PathRewrite::Prefix("/new/".into())), Some("other:81")), 1),
        (rewrite(Some(PathRewrite::Full("/with space".into())), None), 0),
        (rewrite(None, Some("not a host")), 0),
        (Policy { request_headers: of_connection.clone(), ..Policy::default() }, 0),
        (Policy { response_headers: of_connection, ..Policy::default() }, 0),
        (Policy { timeout: Some(PATIENCE), ..Policy::default() }, 1),
        (Policy { timeout: Some(Duration::ZERO), ..Policy::default() }, 1),
        (retry(Retry { attempts: 0, ..Retry::default() }), 1),
        (retry(Retry { per_try_timeout: Some(PATIENCE), ..Retry::default() }), 0),
        (fault(Abort::Http(418)), 0),
    ] {
        let own = BackendPolicy {
            request_headers: edits(&[], &[("x-own", "1")], &[]),
            response_headers: edits(&["x-a"], &[], &[]),
            ..BackendPolicy::default()
        };
        same(&policy, std::slice::from_ref(&asked), std::slice::from_ref(&says_fields), short);
        same_in(
            &|endpoint| around(endpoint, &own, &policy),
            std::slice::from_ref(&asked),
            std::slice::from_ref(&says_fields),
            short,
        );
    }
}

#[test]
fn retries_end() {
    let no = || says(503, &[("x-n", "1")], &["no"], End::Plain);
    let refused = || Then::Reset(Reason::REFUSED_STREAM);
    for (attempts, script) in [
        (0, vec![no()]),
        (1, vec![no(), no()]),
        (1, vec![refused(), refused()]),
        (0, vec![refused()]),
        (2, vec![refused(), no(), ok()]),
    ] {
        let on = vec![RetryOn::RefusedStream];
        let retry = Retry { attempts, statuses: vec![503], on, ..Retry::default() };
        let policy = Policy { retry: Some(retry), ..Policy::default() };
        for asked in [post(&[], "again"), call(&[])] {
            let seen = same(&policy, &[asked], &script, 0);
            assert!(seen.recorded[0].contains(&format!("tries {} ", script.len())), "{seen:?}");
        }
    }
}

#[test]
fn time_runs_out() {
    let late = Policy { timeout: Some(Duration::from_millis(50)), ..Policy::default() };
    let slow = || says(200, &[GRPC], &["some"], End::Silence);
    let patience = ("grpc-timeout", "50m");
    for (policy, asked, script) in [
        (&late, get("/", &[]), Then::Silence),
        (&late, call(&[]), Then::Silence),
        (&late, get("/", &[]), slow()),
        (&Policy::default(), call(&[patience]), Then::Silence),
        (&Policy::default(), call(&[patience]), slow()),
        // What is no call waits, whatever it says, and a rule may be more patient than a client.
        (&late, get("/", &[patience]), slow()),
        (
            &Policy { timeout: Some(PATIENCE), ..Policy::default() },
            call(&[patience]),
            Then::Silence,
        ),
    ] {
        let started = Instant::now();
        let begun = matches!(script, Then::Answer { .. });
        let seen = same(policy, &[asked], &[script], u64::from(begun));
        assert!(started.elapsed() < Duration::from_secs(2));
        assert!(seen.recorded[0].contains("[UT]"), "{seen:?}");
    }
    same(&Policy::default(), &[get("/", &[patience])], &[ok()], 1);
}

#[test]
fn there_is_nobody() {
    let gone = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for asked in [get("/", &[]), call(&[])] {
        let seen = same_in(
            &|_| around(gone(), &BackendPolicy::default(), &Policy::default()),
            &[asked],
            &[],
            0,
        );
        assert!(seen.recorded[0].contains("[UF,URX]"), "{seen:?}");
    }
}

#[test]
fn policies() {
    let method = |method: &str| Field::Method(vec![Text::parse(method)]);
    for (effect, field, dry, short) in [
        (Effect::Allow, method("GET"), false, 1),
        (Effect::Deny, method("GET"), false, 0),
        (Effect::Deny, method("GET"), true, 1),
        (Effect::Deny, method("POST"), false, 1),
        (Effect::Allow, method("POST"), false, 0),
        (Effect::Audit, method("GET"), false, 1),
        (Effect::Deny, Field::Path(vec![PathTest::Text(Text::parse("/new/a"))]), false, 0),
    ] {
        let mut access = policy(effect, field);
        Arc::make_mut(&mut access).dry_run = dry;
        let path = PathRewrite::Prefix("/new/".into());
        let rule =
            Policy { rewrite: Rewrite { path: Some(path), authority: None }, ..Policy::default() };
        let around = |endpoint| Mesh {
            access: vec![access.clone()],
            ..around(endpoint, &BackendPolicy::default(), &rule)
        };
        same_in(&around, &[get("/a", &[])], &[], short);
    }
}
