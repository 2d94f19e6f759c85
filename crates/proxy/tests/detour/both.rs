//! The short way and the engine do the same: each request takes both, and what the endpoint, the
//! client and the access log have seen is compared.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use beeway_model::policy::{HeaderEdits, PathRewrite, Retry, RetryOn, Rewrite};
use beeway_model::{Mesh, Policy};
use beeway_proxy::{Options, Record, Recorder};

use crate::kit::{Answer, Kit, forward, mesh, rule};
use crate::script::{Endpoint, OK, Said, Then, says};
use crate::upstream;

const PATIENCE: Duration = Duration::from_secs(8);
pub const GET: &str = "GET /a?b HTTP/1.1\r\nHost: shop\r\nX-Request-ID: 1\r\n\r\n";

#[derive(Default)]
struct Log(Mutex<Vec<Record>>);

impl Recorder for Log {
    fn record(&self, record: Record) {
        self.0.lock().unwrap().push(record);
    }
}

/// All that can be seen of some requests.
#[derive(Debug, PartialEq)]
pub struct Seen {
    pub by_endpoint: Vec<String>,
    pub by_client: Vec<String>,
    pub recorded: Vec<String>,
    pub counted: String,
}

/// A head with its fields in alphabetical order: their order among different names means nothing
/// (RFC 9110 section 5.3). `body`: what follows, without its framing.
fn in_order(head: &str, body: &[u8]) -> String {
    let mut lines: Vec<String> =
        head.trim_end().lines().skip(1).map(|line| line.trim_end().to_owned()).collect();
    lines.sort_by_key(|line| line.split(':').next().unwrap().to_ascii_lowercase());
    let first = head.lines().next().unwrap();
    format!("{first} | {} || {}", lines.join(" | "), String::from_utf8_lossy(body))
}

/// What becomes of a request for its client; `None`: its connection was aborted.
fn outcome(kit: &mut Kit, cookie: u64) -> Option<Answer> {
    let started = Instant::now();
    while kit.received.get(&cookie).is_none_or(|received| received.ends.is_empty()) {
        kit.injector.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let arrived = kit.injector.peek(&mut [0]);
        kit.injector.set_read_timeout(Some(PATIENCE)).unwrap();
        match arrived {
            Ok(_) => drop(kit.take()),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        let mut aborted = false;
        kit.kernel.say(|said| aborted = said.aborted.contains(&cookie));
        if aborted {
            return None;
        }
        assert!(started.elapsed() < PATIENCE, "no answer");
    }
    Some(kit.answer(cookie))
}

/// What has come of an answer that was broken off.
fn broken_off(kit: &mut Kit, cookie: u64) -> String {
    kit.injector.set_nonblocking(true).unwrap();
    while kit.injector.peek(&mut [0]).is_ok() {
        kit.injector.set_nonblocking(false).unwrap();
        kit.take();
        kit.injector.set_nonblocking(true).unwrap();
    }
    let bytes = String::from_utf8_lossy(kit.injected(cookie)).into_owned();
    format!("broken off: {}", bytes.split_once("\r\n\r\n").map_or("", |(_, body)| body))
}

/// A mesh around an endpoint.
type Around<'a> = &'a dyn Fn(SocketAddr) -> Mesh;

fn take(plain: bool, mesh: Around<'_>, requests: &[&str], script: &[Said]) -> (Seen, u64) {
    let endpoint = Endpoint::new(script.to_vec());
    let log = Arc::new(Log::default());
    let mesh = mesh(endpoint.address);
    let mut kit = Kit::with(Options { plain }, mesh, Some(log.clone()));
    let mut by_client = Vec::new();
    for request in requests {
        kit.request(1, request);
        let Some(answer) = outcome(&mut kit, 1) else {
            by_client.push(broken_off(&mut kit, 1));
            break;
        };
        by_client.push(in_order(&answer.head, &answer.unchunked_or_plain()));
    }
    let started = Instant::now();
    while log.0.lock().unwrap().len() < by_client.len() {
        assert!(started.elapsed() < PATIENCE, "not recorded");
        std::thread::yield_now();
    }
    let recorded = log.0.lock().unwrap().iter().map(line).collect();
    let requests = std::mem::take(&mut *endpoint.requests.lock().unwrap());
    let by_endpoint = requests.iter().map(|request| {
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        in_order(head, body.as_bytes())
    });
    let stats = kit.proxy.stats();
    let counted = format!(
        "requests {} answered {} errors {} retries {} aborted {} in {} flags {:?} policies {:?}",
        stats.requests,
        stats.answered,
        stats.upstream_errors,
        stats.retries,
        stats.aborted,
        stats.bytes_in,
        stats.flags,
        (stats.denied, stats.audited, stats.dry_run)
    );
    (Seen { by_endpoint: by_endpoint.collect(), by_client, recorded, counted }, stats.plain)
}

fn line(record: &Record) -> String {
    let r = record;
    format!(
        "{} {} {} {} {} id {} rule {} to {} {} tries {} in {} out {} {} [{}] {:?} from {} \
         by {} {} audit {:?} dry {:?}",
        r.method,
        r.authority,
        r.path,
        r.protocol,
        r.service,
        r.request_id,
        r.rule,
        r.cluster,
        r.endpoint.is_some(),
        r.attempts,
        r.received,
        r.sent,
        r.status,
        r.flags,
        r.duration < PATIENCE,
        r.source,
        r.policy,
        r.detail,
        r.audit,
        r.dry_run
    )
}

pub fn mesh_of(endpoint: SocketAddr, policy: &Option<Policy>) -> Mesh {
    let Some(policy) = policy else {
        return mesh(&[endpoint], None);
    };
    let mut rule = rule("/", forward(&[(0, 1)]));
    rule.name = "the-rule".into();
    rule.policy = Some(policy.clone().into());
    mesh(&[endpoint], Some(vec![rule]))
}

/// Both ways give the same; so many of the requests really took the short way.
#[track_caller]
pub fn same(policy: &Option<Policy>, requests: &[&str], script: &[Said], short: u64) -> Seen {
    same_in(&|endpoint| mesh_of(endpoint, policy), requests, script, short)
}

/// [`same`], in another mesh.
#[track_caller]
pub fn same_in(mesh: Around<'_>, requests: &[&str], script: &[Said], short: u64) -> Seen {
    let (seen, plain) = take(true, mesh, requests, script);
    let (wanted, none) = take(false, mesh, requests, script);
    assert_eq!(seen, wanted, "{requests:?}");
    assert_eq!((plain, none), (short, 0), "{requests:?} {seen:?}");
    seen
}

#[test]
fn requests() {
    for (request, plain) in [
        (GET, true),
        (
            "GET / HTTP/1.1\r\nhost: shop:80\r\nx-request-id: 1\r\nAccept:\r\nCookie: \u{e4}\r\n\r\n",
            true,
        ),
        (
            "POST /a HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\nX-REQUEST-ID: 1\r\n\r\nhello",
            true,
        ),
        ("PUT /a HTTP/1.1\r\nHost: shop\r\nx-request-id: 1\r\ncontent-length: 0\r\n\r\n", true),
        (
            "GET /%41//../b?c=d;e HTTP/1.1\r\nX-A: 1\r\nHost: shop\r\nx-b: 2\r\nx-a: 3\r\n\
             Connection: Keep-Alive\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nx-request-id: 1\r\n\
             x-request-id: 2\r\nX-Forwarded-Proto: https\r\nX-Envoy-Attempt-Count: 7\r\n\
             X-Forwarded-For: 1.2.3.4\r\nTrailer: x\r\nDate: now\r\n\r\n",
            true,
        ),
        ("HEAD / HTTP/1.1\r\nHost: shop\r\nX-Request-Id: 1\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nHost: shop\r\nTE: trailers\r\nX-Request-Id: 1\r\n\r\n", false),
        ("GET http://shop/a HTTP/1.1\r\nHost: x\r\nX-Request-Id: 1\r\n\r\n", false),
        ("GET /a#b HTTP/1.1\r\nHost: shop\r\nX-Request-Id: 1\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nHost: a@b\r\nX-Request-Id: 1\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\nX-Request-Id: 1\r\n\r\n", false),
        ("BREW / HTTP/1.1\r\nHost: a\r\nX-Request-Id: 1\r\n\r\n", false),
        ("GET / HTTP/1.0\r\nHost: a\r\nX-Request-Id: 1\r\n\r\n", false),
    ] {
        same(&None, &[request], &[], u64::from(plain));
    }
}

#[test]
fn paths_go_on_as_they_are_compared() {
    for (sent, wanted, plain) in [
        ("/a/%2e%2E/%61dmin?b=/../%41", "/admin?b=/../%41", true),
        ("/a/../..?", "/?", true),
        ("/a%2Fb//c%20/.", "/a%2Fb//c%20/", true),
        ("/a\\..\\b", "/b", false),
        ("/%zz", "/%zz", true),
    ] {
        let request = format!("GET {sent} HTTP/1.1\r\nHost: shop\r\nX-Request-Id: 1\r\n\r\n");
        let seen = same(&None, &[&request], &[], u64::from(plain));
        let got = &seen.by_endpoint[0];
        assert!(got.starts_with(&format!("GET {wanted} HTTP/1.1 | ")), "{got}");
        let record = &seen.recorded[0];
        assert!(record.starts_with(&format!("GET shop {sent} ")), "{record}");
    }
}

#[test]
fn several_requests_on_one_connection() {
    let post =
        "POST /a HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\nX-Request-Id: 1\r\n\r\nhello";
    let seen = same(&None, &[GET, post, GET, GET], &[], 4);
    assert!(seen.by_client.iter().all(|answer| answer.ends_with("ok")), "{seen:?}");
}

#[test]
fn an_identity_is_made_up() {
    let around = |endpoint| mesh_of(endpoint, &None);
    let (seen, plain) = take(true, &around, &["GET / HTTP/1.1\r\nHost: shop\r\n\r\n"], &[]);
    assert_eq!(plain, 1);
    let fields = seen.by_endpoint[0].split(" | ");
    let id = fields.filter_map(|line| line.strip_prefix("x-request-id: ")).next().unwrap();
    let id = id.split(' ').next().unwrap();
    assert_eq!((id.len(), id.as_bytes()[14]), (36, b'4'), "{id}");
    assert!(seen.recorded[0].contains(&format!("id {id} ")), "{seen:?}");
}

#[test]
fn an_identity_stays_when_the_engine_goes_on() {
    let fails = says(&["HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"], Then::Keep);
    let retry = Retry { statuses: vec![503], ..Retry::default() };
    let policy = Some(Policy { retry: Some(retry), ..Policy::default() });
    let around = |endpoint| mesh_of(endpoint, &policy);
    let (seen, _) = take(true, &around, &["GET / HTTP/1.1\r\nHost: shop\r\n\r\n"], &[fails]);
    let id_of = |request: &String| {
        let mut fields = request.split(" | ");
        fields.find_map(|field| Some(field.strip_prefix("x-request-id: ")?.to_owned())).unwrap()
    };
    let ids: Vec<String> = seen.by_endpoint.iter().map(id_of).collect();
    assert_eq!((ids.len(), &ids[0]), (2, &ids[1]), "{seen:?}");
    let id = ids[0].split(' ').next().unwrap();
    assert!(seen.recorded[0].contains(&format!("id {id} ")), "{seen:?}");
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
    let request = "GET /a/b?c HTTP/1.1\r\nHost: shop\r\nX-A: 1\r\nx-a: 2\r\nX-B: 3\r\nX-C: 4\r\n\
                   X-Request-Id: 1\r\n\r\n";
    let says_fields = says(
        &[
            "HTTP/1.1 200 OK\r\nX-A: 1\r\nServer: x\r\nContent-Length: 2\r\nx-a: 2\r\nX-B: 3\r\n\r\nok",
        ],
        Then::Keep,
    );
    let usual = edits(&["x-b"], &[("x-a", "new"), ("x-d", "")], &[("x-c", "more"), ("x-e", "5")]);
    let framing = edits(&["content-length"], &[("connection", "close")], &[("host", "x")]);
    let rewrite = |path: Option<PathRewrite>, authority: Option<&str>| Policy {
        rewrite: Rewrite { path, authority: authority.map(str::to_owned) },
        ..Policy::default()
    };
    for (policy, plain) in [
        (Policy::default(), true),
        (
            Policy {
                request_headers: usual.clone(),
                response_headers: usual.clone(),
                ..Policy::default()
            },
            true,
        ),
        (Policy { request_headers: framing.clone(), ..Policy::default() }, false),
        (Policy { response_headers: framing, ..Policy::default() }, false),
        (rewrite(Some(PathRewrite::Prefix("/new/".into())), Some("other:81")), true),
        (rewrite(Some(PathRewrite::Full("/with space".into())), None), false),
        (rewrite(None, Some("not a host")), false),
        (Policy { timeout: Some(PATIENCE), ..Policy::default() }, false),
        (Policy { timeout: Some(Duration::ZERO), ..Policy::default() }, true),
        (
            Policy {
                retry: Some(Retry { per_try_timeout: Some(PATIENCE), ..Retry::default() }),
                ..Policy::default()
            },
            false,
        ),
    ] {
        same(&Some(policy), &[request], std::slice::from_ref(&says_fields), u64::from(plain));
    }
}

#[test]
fn answers() {
    let many = |count: usize| {
        format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{}\r\n", "a: b\r\n".repeat(count - 1))
    };
    let (sixty_four, sixty_five, too_many) = (many(64), many(65), many(101));
    let long = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(20_000));
    let big = format!("HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n{}", "x".repeat(300_000));
    use Then::{Close, Keep, Reset};
    // The answer to a first request; how many of it and the one after it took the short way.
    for (pieces, then, short) in [
        (&["HTTP/1.1 404 Not Here\r\nX: \r\nContent-Length: 2\r\n\r\nno"][..], Keep, 2),
        (&["HTTP/1.1 299 \r\nContent-Length: 0\r\n\r\n"], Keep, 2),
        (&["HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"], Keep, 2),
        (&["HTTP/1.1 204 No Content\r\n\r\n"], Keep, 2),
        (&["HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n"], Keep, 2),
        (&["HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"], Keep, 0),
        (&["HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nno"], Keep, 0),
        (&["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", "on", "ce"], Keep, 2),
        (&[&big], Keep, 2),
        (&["HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"], Close, 2),
        (&["HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"], Keep, 2),
        (
            &["HTTP/1.1 200 OK\r\nConnection: Upgrade, Keep-Alive\r\nUpgrade: h2c\r\n\
               Keep-Alive: 5\r\nContent-Length: 2\r\n\r\nok"],
            Keep,
            2,
        ),
        (
            &["HTTP/1.1 200 OK\r\nConnection: x-hop\r\nX-Hop: 1\r\nContent-Length: 2\r\n\r\nok"],
            Keep,
            0,
        ),
        // More than was promised.
        (&["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n"], Keep, 2),
        (&["HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"], Keep, 2),
        // Chunks.
        (
            &["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "2\r\nok\r\n", "0\r\n\r\n"],
            Keep,
            2,
        ),
        (
            &[
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n1;x=y\r\no\r\n01 \r\nk\r\n0;",
                "\r\n\r\n",
            ],
            Keep,
            2,
        ),
        (
            &[
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n",
            ],
            Keep,
            2,
        ),
        (
            &["HTTP/1.1 200 OK\r\nTrailer: x-t\r\nTransfer-Encoding: chunked\r\n\r\n\
               2\r\nok\r\n0\r\nX-T: 1\r\n\r\n"],
            Keep,
            0,
        ),
        (&["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nmore"], Keep, 2),
        // What only the engine understands.
        (&["HTTP/1.1 200 ", "OK\r\nContent-Length: 2\r\n\r", "\nok"], Keep, 0),
        (&["HTTP/1.1 100 Continue\r\n\r\n", OK], Keep, 0),
        (
            &[
                "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            ],
            Keep,
            0,
        ),
        (&["HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"], Keep, 0),
        (&["HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"], Close, 0),
        (&["HTTP/1.0 200 OK\r\n\r\n", "ok"], Close, 0),
        (&["HTTP/1.1 200 OK\r\n\r\nok"], Close, 0),
        (&[&sixty_four], Keep, 2),
        (&[&sixty_five], Keep, 0),
        (&[&long, "x\r\nContent-Length: 0\r\n\r\n"], Keep, 0),
        (&["HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok"], Keep, 0),
        (&["HTTP/1.1 200 OK\r\nContent-Length: 02\r\n\r\nok"], Keep, 0),
        (
            &[
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            ],
            Keep,
            0,
        ),
        // No answers.
        (&[&too_many], Keep, 0),
        (&[""], Close, 0),
        (&[""], Reset, 0),
        (&["HTTP/1.1 200 OK\r\n"], Close, 0),
        (&["SSH-2.0-x\r\n"], Keep, 0),
        (&["HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok"], Keep, 0),
        (&["HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"], Keep, 0),
        (&["HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok"], Keep, 0),
        (&["HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: \0\r\n\r\nok"], Keep, 0),
        (&["HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"], Keep, 0),
        (&["HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok"], Keep, 0),
        (&["HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: a\r\n b\r\n\r\nok"], Keep, 0),
    ] {
        let mut requests = vec![GET];
        requests.extend((short == 2).then_some(GET));
        same(&None, &requests, &[says(pieces, then)], short);
    }
}

#[test]
fn answers_that_break_off() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = format!("{chunked}2\r\nok\r\n");
    for (pieces, then, wanted) in [
        (&["HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok"][..], Then::Close, "ok"),
        (&["HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "o", ""], Then::Close, "o"),
        (&[&chunk], Then::Close, "2\r\nok\r\n"),
        (&[&chunk, "x"], Then::Keep, "2\r\nok\r\n"),
        (&[chunked, "2\r\nokay"], Then::Keep, "2\r\nok\r\n"),
    ] {
        let seen = same(&None, &[GET], &[says(pieces, then)], 1);
        assert_eq!(seen.by_client, [format!("broken off: {wanted}")], "{pieces:?}");
    }
}

#[test]
fn retries() {
    let retry = |on: RetryOn, attempts| {
        let retry = Retry { on: vec![on], attempts, ..Retry::default() };
        Some(Policy { retry: Some(retry), ..Policy::default() })
    };
    let failed = || says(&["HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno"], Then::Keep);
    let unavailable =
        says(&["HTTP/1.1 200 OK\r\nGrpc-Status: 14\r\nContent-Length: 0\r\n\r\n"], Then::Keep);
    let gone = || says(&[""], Then::Close);
    let post =
        "POST /a HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\nX-Request-Id: 1\r\n\r\nhello";
    for (policy, script, tries) in [
        (None, vec![failed()], 1),
        (None, vec![unavailable.clone()], 2),
        (None, vec![gone()], 1),
        (retry(RetryOn::ServerError, 2), vec![failed()], 2),
        (retry(RetryOn::ServerError, 2), vec![failed(), gone()], 3),
        (retry(RetryOn::ServerError, 2), vec![failed(), gone(), failed()], 3),
        (retry(RetryOn::ServerError, 1), vec![gone(), gone(), gone()], 2),
        (retry(RetryOn::ServerError, 0), vec![failed()], 1),
        (retry(RetryOn::Reset, 2), vec![gone()], 2),
    ] {
        let short = u64::from(tries == 1 && script[0].then == Then::Keep && policy.is_none());
        let seen = same(&policy, &[post], &script, short);
        assert_eq!(seen.by_endpoint.len(), tries, "{seen:?}");
    }
}

#[test]
fn endpoints_that_are_not_there() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let seen = [true, false].map(|plain| {
        let log = Arc::new(Log::default());
        let mut kit = Kit::with(Options { plain }, mesh(&[address], None), Some(log.clone()));
        let answer = kit.get(1, "/");
        kit.eventually(|_| !log.0.lock().unwrap().is_empty());
        let record = log.0.lock().unwrap().remove(0);
        let stats = kit.proxy.stats();
        let counted = (stats.retries, stats.requests, stats.upstream_errors, stats.answered);
        (answer.head.clone(), answer.body, record.flags, record.attempts, counted)
    });
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0].3, 3);
}

#[test]
fn what_comes_before_the_answer_waits_for_it() {
    let late = || says(&["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nf", "irst"], Then::Keep);
    let endpoint = Endpoint::new(vec![late()]);
    let mut kit = Kit::new(mesh(&[endpoint.address], None));
    kit.request(1, GET);
    kit.request(1, "GET /second HTTP/1.1\r\nHost: shop\r\n\r\n");
    kit.send(1, 0, "GET /third HTTP/1.1\r\nHost: shop\r\n\r\n");
    assert_eq!([1, 2, 3].map(|_| kit.answer(1).body), [&b"first"[..], b"ok", b"ok"]);
    kit.eventually(|stats| stats.plain == 1);
    let requests = endpoint.requests.lock().unwrap();
    assert!(requests[1].starts_with("GET /second ") && requests[2].starts_with("GET /third "));
}

#[test]
fn clients_share_connections_and_do_not_mix() {
    let mut kit = Kit::new(mesh(&[upstream::http("one")], None));
    for round in 0..10 {
        for cookie in 1..=40 {
            let path = format!("/round/{round}/client/{cookie}/");
            kit.request(cookie, format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n"));
        }
        for cookie in 1..=40 {
            let answer = kit.answer(cookie);
            let path = format!("/round/{round}/client/{cookie}/");
            assert!(answer.text().contains(&path), "{}", answer.text());
        }
    }
    kit.eventually(|stats| (stats.requests, stats.plain) == (400, 400));
    assert!(kit.proxy.stats().upstream_connections <= 40);
}

#[test]
fn clients_that_go_away_are_noted() {
    for plain in [true, false] {
        let endpoint = Endpoint::new(vec![
            says(&["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "ha"], Then::Keep),
            says(&["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"], Then::Keep),
        ]);
        let log = Arc::new(Log::default());
        let mesh = mesh(&[endpoint.address], None);
        let mut kit = Kit::with(Options { plain }, mesh, Some(log.clone()));
        for cookie in [1, 2] {
            let before = kit.proxy.stats().bytes_out;
            kit.request(cookie, GET);
            kit.eventually(|stats| stats.bytes_out > before);
            assert_eq!(kit.proxy.stats().upstream_connections, 1);
            kit.proxy.client_closed(cookie);
            kit.eventually(|stats| stats.open_streams + stats.upstream_connections == 0);
        }
        let records = log.0.lock().unwrap();
        let ends: Vec<_> = records.iter().map(|r| (r.status, r.flags.to_string())).collect();
        assert_eq!(ends, [(200, "DC".to_owned()), (200, "DC".to_owned())]);
    }
}
