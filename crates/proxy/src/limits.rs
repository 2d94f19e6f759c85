//! Everything has a limit, and this is the list of what happens at each.

use std::time::Duration;

/// Connections that one worker holds. A frame of a further connection is dropped, counted in
/// [`Stats::streams_refused`](crate::Stats::streams_refused), and its client is aborted.
pub const MAX_STREAMS: usize = 65_536;

/// Payload of one frame to an injector: what an `sk_msg` program sees in one run. Longer answers
/// take several frames.
pub const FRAME_PAYLOAD: usize = 32 * 1024;

/// Bytes waiting unread in a client's socket above which nothing more is injected. What a slow
/// reader holds in all: this, one frame, [`SERVER_BUFFER`] and [`UPSTREAM_BUFFER`], which is below
/// 512 KiB.
pub const CLIENT_QUEUE: u64 = 256 * 1024;

/// First wait before a slow client's queue is looked at again; each further wait is twice as long.
pub const PACE_MIN: Duration = Duration::from_micros(50);

/// Longest wait before a slow client's queue is looked at again.
pub const PACE_MAX: Duration = Duration::from_millis(5);

/// Bytes from the bus of a connection waiting for its HTTP server. The kernel puts less than this on
/// the bus (`AHEAD_BYTES`) before it holds the connection until it leads here, so more means that
/// the two disagree: aborted.
pub const STREAM_BUFFER: usize = 512 * 1024;

/// Time without a request after which a connection that leads here is ended, so that its client
/// makes another, native one.
pub const DIRECT_IDLE: Duration = Duration::from_secs(5);

/// Time that a socket waits for its stream, which is in the bus. Longer: closed.
pub const DIRECT_WAIT: Duration = Duration::from_secs(5);

/// Time that a client has to close its connection itself after an answer that says `connection:
/// close`. Longer: it is ended from here.
pub const CLOSE_GRACE: Duration = Duration::from_millis(100);

/// Time that a client has to close a connection that was ended from here, and bytes that it may
/// still send. Longer or more: reset.
pub const LINGER: Duration = Duration::from_secs(5);
/// See [`LINGER`].
pub const LINGER_BYTES: u64 = 16 << 20;

/// Bytes taken from a bus in one call.
pub const BUS_BUFFER: usize = 256 * 1024;

/// Request head. Larger: answered 431.
pub const REQUEST_HEAD: usize = 60 * 1024;

/// Read and write buffer of a connection's HTTP server.
pub const SERVER_BUFFER: usize = 64 * 1024;

/// Read and write buffer of a connection to an endpoint, and its largest answer head (larger: 503).
pub const UPSTREAM_BUFFER: usize = 64 * 1024;

/// Receive buffer of a connection to an endpoint in the kernel: an answer that its client does not
/// read stops there. TCP would let it grow to tens of MiB.
pub const RECEIVE_BUFFER: u32 = 256 * 1024;

/// Time to connect to an endpoint. Longer: 503.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Unused connections kept for each endpoint and worker. One more is closed.
pub const POOL_IDLE: usize = 1024;

/// Age at which an unused connection is closed.
pub const POOL_AGE: Duration = Duration::from_secs(60);

/// Body of unknown length that is collected for an HTTP/1.0 client. Longer: 502.
pub const LEGACY_BODY: usize = 1 << 20;

/// Request that is forwarded the short way, head and body. Longer: the engine forwards it.
pub const PLAIN_REQUEST: usize = 16 * 1024;

/// Room for a request that a connection of plain forwarding keeps while it is not used.
pub const PLAIN_KEPT: usize = 2 * 1024;

/// Bytes taken from an endpoint in one call by plain forwarding, and its largest answer head
/// (larger: the engine goes on).
pub const PLAIN_READ: usize = 64 * 1024;

/// Requests to an endpoint that are not forwarded the short way after an answer of unusual form; as
/// long as one follows the other, each time twice as many, at most [`PLAIN_AVOID_MAX`].
pub const PLAIN_AVOID_MIN: u32 = 16;
/// See [`PLAIN_AVOID_MIN`].
pub const PLAIN_AVOID_MAX: u32 = 4096;

/// Endpoints of which that is remembered. One more: all are forgotten.
pub const PLAIN_UNUSUAL: usize = 4096;

/// Rest of a request's body that is read and thrown away before an answer of our own, so that the
/// connection stays usable. Longer: the answer says `connection: close`.
pub const DRAIN_BYTES: usize = 256 * 1024;

/// Time for that rest to come. Later: the answer says the same.
pub const DRAIN_TIME: Duration = Duration::from_secs(3);

/// The same where a stream of HTTP/2 goes without the rest, which may be waiting for the answer. What is
/// on its way with the head is waited for: some clients (curl 7.88) take the reset of a stream on which
/// they are still sending for a failure, the answer notwithstanding.
pub const DRAIN_TIME_HTTP2: Duration = Duration::from_millis(50);

/// Interval of house-keeping: closing aged connections, looking for clients that went away
/// unnoticed.
pub const SWEEP: Duration = Duration::from_secs(1);

/// The same while the worker drains.
pub const DRAIN_SWEEP: Duration = Duration::from_millis(50);

/// Streams looked at in one sweep.
pub const SWEEP_STREAMS: usize = 1024;

/// Payload copied at a time in an upgraded connection, each way.
pub const TUNNEL_BUFFER: usize = 16 * 1024;

/// Bytes of a request's body kept so that it can be sent again. Longer: no retry after more than
/// this has been read (Envoy keeps as much as its buffer limit, 1 MiB).
pub const REPLAY_BYTES: usize = 64 * 1024;

/// Bytes of a body that wait for a mirror. More: the mirror's copy is broken off; the request
/// itself never waits.
pub const MIRROR_BUFFER: usize = 256 * 1024;

/// Mirrored requests under way in one worker. One more is not sent, and counted in
/// [`Stats::mirrors_dropped`](crate::Stats::mirrors_dropped).
pub const MIRRORS: u32 = 1024;

/// Time for a mirrored request whose rule has no timeout.
pub const MIRROR_TIMEOUT: Duration = Duration::from_secs(15);

/// Retries that may be waiting or under way in one worker, whatever else it does; flag UO beyond.
pub const RETRIES_ALWAYS: u32 = 16;

/// The same, as a share of the requests under way: one in so many (Envoy's retry budget, 20 %).
pub const RETRY_SHARE: u32 = 5;

/// Bytes of a request's body that are held for an external authorizer, whatever its configuration
/// says (Envoy's buffer limit). A longer body is cut if it may be, and answered 413 if not.
pub const AUTHORIZER_BODY: usize = 1 << 20;

/// Answer of an external authorizer, its body. Longer: it has not answered.
pub const AUTHORIZER_ANSWER: usize = 64 * 1024;

/// Bytes of a request or an answer that HTTP/2 lets the other side send ahead.
pub const HTTP2_STREAM_WINDOW: u32 = 256 * 1024;

/// The same for all answers of a connection to an endpoint together: as much as HTTP/2 allows. All
/// clients share it, so answers that are not read must not take room from those that are. What
/// bounds memory is [`HTTP2_STREAM_WINDOW`] for each request under way.
pub const HTTP2_ENDPOINT_WINDOW: u32 = (1 << 31) - 1;

/// The same for all requests on a connection of a client together: below [`HTTP2_STREAM_WINDOW`]
/// times [`HTTP2_STREAMS`], 256 MiB, so this is what a connection holds at most of requests that
/// their endpoints do not read.
pub const HTTP2_CLIENT_WINDOW: u32 = 16 << 20;

/// Requests at once on an HTTP/2 connection of a client; one more is refused (REFUSED_STREAM), and
/// counted in [`Stats::http2_refused`](crate::Stats::http2_refused).
pub const HTTP2_STREAMS: u32 = 1024;

/// Bytes that wait to be written to a connection of HTTP/2. More: answers wait, and requests go another
/// way. Four times as much, by what the other side asks and does not read: nothing more is read from
/// it. Heads of answers are not held back.
pub const HTTP2_OUTPUT: usize = 64 * 1024;

/// Requests at once to an endpoint of HTTP/2 that has not said how many it takes.
pub const HTTP2_FIRST_STREAMS: u32 = 100;

/// Requests on one connection of a client that may end by a reset, of either side, in one [`SWEEP`].
/// More: the connection is ended (ENHANCE_YOUR_CALM), and counted in
/// [`Stats::http2_failed`](crate::Stats::http2_failed).
pub const HTTP2_RESETS: u32 = 1000;

/// Bytes of the heads of all requests under way on a connection of a client. With more of them one more
/// request is refused likewise.
pub const HTTP2_HEADS: usize = 4 << 20;

/// Times that a connection of HTTP/2 is read from before others have their turn.
pub const HTTP2_TURNS: usize = 16;

/// Silence of an endpoint that is to answer requests after which it is asked (PING) whether it is still
/// there. Silent for another [`CONNECT_TIMEOUT`], it is gone.
pub const HTTP2_SILENCE: Duration = Duration::from_secs(30);

/// Time in which a connection must show whether it is HTTP/1 or HTTP/2, once it has begun to.
pub const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections that one worker carries as a whole. One more is reset, and counted in
/// [`Stats::connections_refused`](crate::Stats::connections_refused).
pub const MAX_CONNECTIONS: u64 = 65_536;

/// Send and receive buffer in the kernel of each end of a connection that is carried as a whole: a
/// side that does not read stops the other there. The kernel doubles it for its own needs.
pub const SOCKET_BUFFER: usize = 256 * 1024;

/// Payload copied at a time in a connection that is carried as a whole, and the most that is held
/// of it outside of the kernel, each way.
pub const SPLICE_BYTES: usize = 64 * 1024;

/// Times that one direction of a connection copies before others have their turn.
pub const SPLICE_TURNS: usize = 8;

/// TLS ClientHello. What is longer asks for no name.
pub const HELLO_BYTES: usize = 16 * 1024;

/// Time for the ClientHello. Later: the connection asks for no name.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(15);

/// Kafka request that is looked at as a whole before any of it goes to the broker, and head of a
/// larger Produce request up to a partition's records. Longer, and no Produce request: closed.
/// (Clients send at most 1 MiB unless told otherwise: `max.request.size`.)
pub const KAFKA_HELD: usize = 2 << 20;

/// Kafka request or answer (the broker's `socket.request.max.bytes`, 100 MiB). Longer: closed.
pub const KAFKA_FRAME: usize = 100 << 20;

/// Topics, partitions and other elements of lists that one Kafka request or answer may have. More:
/// closed.
pub const KAFKA_ITEMS: usize = 1 << 17;

/// Answer of a Kafka broker about what there is (Metadata, ApiVersions), which is read as a whole.
/// Longer: closed.
pub const KAFKA_ANSWER: usize = 16 << 20;

/// Kafka requests of a connection without an answer; no more is read from the client until there is
/// one.
pub const KAFKA_PENDING: usize = 256;

/// Bytes of refusals that wait for answers to earlier requests; likewise.
pub const KAFKA_REFUSALS: usize = 1 << 20;

/// Topics whose name is known by their id, in all. One more: all are forgotten, and clients that name
/// one of them are told to ask for metadata again.
pub const KAFKA_NAMES: usize = 1 << 16;

/// Bytes of topic names in an access record. Longer: cut.
pub const KAFKA_RECORD: usize = 1024;

/// When an end of a connection that is carried as a whole counts as gone: after two minutes.
pub const KEEPALIVE: Keepalive = Keepalive { idle: 60, interval: 15, probes: 4 };

/// TCP keep-alive.
#[derive(Debug, Clone, Copy)]
pub struct Keepalive {
    /// Seconds of silence before the first probe.
    pub idle: u32,
    /// Seconds between probes.
    pub interval: u32,
    /// Probes without an answer.
    pub probes: u32,
}

/// Wait before the next attempt when connections cannot be accepted (no file descriptors left).
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
