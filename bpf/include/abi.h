/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * Everything that the kernel half and the Rust half agree on: limits, reasons, records.
 * One definition per fact; the build turns the types into Rust (see crates/dataplane/build.rs).
 *
 * A generation of configuration is one flat value, `struct generation`: a header and a heap of
 * 32-bit words. A record in the heap is named by the index of its first word, 0 names nothing.
 * All numbers are in native byte order unless a field says otherwise. Addresses are 16 bytes,
 * IPv4 as IPv4-mapped IPv6 (RFC 4291 section 2.5.5.2).
 */
#ifndef BEEWAY_ABI_H
#define BEEWAY_ABI_H

enum limits {
	ABI_VERSION = 20,	/* changes with any layout; pins of another version are not adopted */
	HEAP_WORDS = 1 << 20,	/* 4 MiB a generation */
	HEAP_SLACK = 64,	/* so that a record at the last index stays inside */
	HEAD_BYTES = 8192,	/* request head that the kernel judges; larger ones detour */
	HEAD_LINES = 64,	/* header lines that the kernel judges */
	ANSWER_BYTES = 1024,	/* head and body of an answer given by the kernel */
	ANSWER_STEP = 16,	/* the length of such an answer is a multiple of this */
	GROUP_CANDIDATES = 64,	/* rules that one host and path may lead to */
	GROUP_PREDICATES = 64,	/* distinct conditions on header, query, source of these rules */
	HOST_BYTES = 253,	/* RFC 1035 section 2.3.4 */
	PREDICATE_BYTES = 256,	/* name or value that a condition compares, unless by a regex */
	QUERY_BYTES = 2048,	/* query that conditions on parameters are looked up in */
	PROBES = 16,		/* slots looked at in a hash of the heap */
	BUSES = 32,		/* bus sockets: one half for an agent, the other for the next one */
	SOCKETS = 262144,	/* sockets enrolled at once */
	ANCHORS = 65536,	/* connections led to the proxy that it has not taken yet */
	VISITS = 65536,		/* connections from who is not judged elsewhere, by request */
	HOMES = 65536,		/* cgroups and network namespaces whose workload is known */
	HOUSED = 262144,	/* addresses that nobody has who is not at home there */
	RATE_LIMITS = 16,	/* limits of one workload that are looked at here */
	RATE_WHOLE = 1000000,	/* what fractions of requests are counted in */
	BUCKETS = 262144,	/* token buckets; where there is no room, requests are refused */
	CGROUP_DEPTH = 16,	/* levels of cgroups in which a workload's is looked for */
	QUEUE_BYTES = 131072,	/* unread redirected bytes after which a shortcut yields to TCP */
	AHEAD_BYTES = 131072,	/* of requests without an answer yet, by bus; more is held */
	CLOSED_QUEUE = 1 << 20,	/* bytes of the ring buffer of events */
	SERIES = 4096,		/* kinds of traffic that are told apart; more are counted together */
	LATENCIES = 2048,	/* histograms of callers and services, one for each CPU of theirs */
	LATENCY_SHIFT = 4,	/* durations are counted in units of 16 ns */
	LATENCY_STEPS = 64,	/* to each doubling of them, and so exact to 0.8 % */
	LATENCY_DOUBLINGS = 27,
	LATENCY_BUCKETS = 64 * 28,
	BOUNDS = 20,		/* buckets of Envoy's histograms, with that of what is above all bounds */
	SAMPLES = 4096,		/* requests under way that will be told of one by one */
	RECORD_BYTES = 1024,	/* of a head, in what is told of a request */
	RECORD_QUEUE = 1 << 22,	/* bytes of the ring buffer of records */
	RECORD_WINDOW = 27,	/* a CPU's records are counted over 2^27 ns */
};

/* What became of a request. Order is part of the metrics' meaning: append only. */
enum lane {
	LANE_NATIVE,	/* sent by TCP to the endpoint that connect() chose */
	LANE_SHORTCUT,	/* put straight into the receive queue of the endpoint's socket */
	LANE_DETOUR,	/* handed to the userspace proxy */
	LANE_ANSWERED,	/* answered by the kernel */
	LANE_REFUSED,	/* send() failed with EACCES: nothing could be done safely */
	LANES,
};

/* Why a lane was taken. Append only. */
enum reason {
	REASON_NONE,
	REASON_ROUTE,		/* a rule decided */
	REASON_OTHER_CLUSTER,	/* the request belongs to an endpoint of another cluster */
	REASON_RULE_ACTION,	/* the rule needs what only userspace can do */
	REASON_PARTIAL_HEAD,	/* the head did not end in one write */
	REASON_HEAD_LIMIT,	/* head larger than HEAD_BYTES or HEAD_LINES */
	REASON_SYNTAX,		/* not plainly well-formed HTTP/1.1 */
	REASON_UNUSUAL,		/* well-formed, but of a kind that the kernel does not judge */
	REASON_PATH,		/* the path needs normalising */
	REASON_PIPELINED,	/* more than one request in one write */
	REASON_OUTSTANDING,	/* an earlier answer by detour may still be under way */
	REASON_STICKY,		/* the connection was given to userspace as a whole */
	REASON_TABLE,		/* the service's rules passed a limit of the tables */
	REASON_NO_ROUTE,	/* no rule matches */
	REASON_NO_ENDPOINT,	/* the cluster has no ready endpoint */
	REASON_NO_PROXY,	/* the userspace proxy is not there */
	REASON_ORDER,		/* changing lanes would have reordered answers */
	REASON_PARTIAL_SEND,	/* TCP took a part of a head */
	REASON_OPAQUE,		/* not HTTP: the bytes are not looked at */
	REASON_NO_SERVICE,	/* the service is gone from the configuration */
	REASON_BACKEND_MISSING,	/* the rule names a backend that does not exist */
	REASON_BAD_CHUNK,	/* the framing of a chunked body is broken */
	REASON_DENIED,		/* a policy denies it */
	REASON_POLICY,		/* what policies say of it is for userspace to find out */
	REASON_VISIT,		/* judged where it came in, and not understood if it was refused */
	REASON_UNJUDGED,	/* bytes that nobody has seen: sent before the connection stood, or urgent */
	REASON_RATE_LIMITED,	/* no token is left for it */
	REASONS,
};

/* Counters that are not requests. Append only. */
enum counter {
	COUNT_CONNECT,		/* connections to a service that were given an endpoint */
	COUNT_CONNECT_REFUSED,	/* connections to a service without an endpoint */
	COUNT_DATAGRAM,		/* datagrams to a service that were given an endpoint */
	COUNT_ENROLLED,		/* sockets enrolled */
	COUNT_NOT_ENROLLED,	/* sockets that could not be enrolled and stay native */
	COUNT_PAIRED,		/* connections whose both ends are on this host */
	COUNT_QUEUE_FULL,	/* shortcut messages that went by TCP because the reader is slow */
	COUNT_SHORTCUT_BYTES,
	COUNT_INJECTED_BYTES,	/* answers by detour */
	COUNT_DETOURED_BYTES,
	COUNT_EVENTS_LOST,	/* events that did not fit the ring buffer */
	COUNT_FULL,		/* map insertions that failed because a map is full */
	COUNT_ANCHORED,		/* connections to a service that were led to the proxy */
	COUNT_NO_LISTENER,	/* connections refused because the proxy did not listen */
	COUNT_HELD,		/* connections held until they lead to the proxy */
	COUNT_DENIED,		/* connections and datagrams that a policy denied */
	COUNT_REPEATED_BYTES,	/* bytes that TCP brought twice, and that were read once */
	COUNT_MULTIPATH,	/* connections over several paths (RFC 8684) refused: no program sees
				 * their bytes */
	COUNT_NOT_ENFORCED,	/* requests without a token that passed: the limit is not enforced */
	COUNT_BUCKETS_FULL,	/* requests for whose token bucket there was no room */
	COUNT_SERIES_FULL,	/* requests that are counted under no series of their own */
	COUNT_LATENCIES_LOST,	/* durations for whose histogram there was no room */
	COUNT_RECORDS_THINNED,	/* requests that are not told of one by one: there were many */
	COUNT_RECORDS_LOST,	/* those that did not fit the ring buffer, or `samples` */
	COUNT_RELEASED,		/* connections of the proxy that were left to TCP again: their other end
				 * is not in the mesh on this host */
	COUNTERS,
};

enum protocol {
	PROTOCOL_OPAQUE,	/* bytes are not looked at */
	PROTOCOL_HTTP,		/* judged request by request */
	PROTOCOL_PROXY,		/* each connection is led to the userspace proxy as a whole */
};

struct address {
	unsigned char ip[16];
	unsigned short port;	/* host byte order */
	unsigned short family;	/* 4 or 6: how the client named it */
};

/* --- tables: records of the heap ------------------------------------------------------------ */

/* Hash of virtual addresses: `mask + 1` slots of struct frontend from `first`. */
struct generation {
	unsigned long long number;	/* grows by one with each configuration */
	unsigned int frontends;		/* heap index of the slots */
	unsigned int frontend_mask;
	unsigned int members;		/* struct member slots: which endpoint is in which cluster */
	unsigned int member_mask;
	unsigned int workloads;		/* struct workload slots: who owns an address */
	unsigned int workload_mask;
	unsigned int guarded;		/* enum guards, flags; 0: there are no policies */
	unsigned int zero;		/* always; but the verifier does not know, see pick_endpoint() */
	unsigned int used;		/* words of the heap in use */
	unsigned int abi;		/* ABI_VERSION */
	unsigned int heap[HEAP_WORDS + HEAP_SLACK];
};

/* What policies there are. */
enum guards {
	GUARDS_SOME = 1,
	GUARDS_STRAIGHT = 2,	/* a frontend has a guard */
};

/* A service address and port. `port` 0 is an empty slot. */
struct frontend {
	unsigned char ip[16];
	unsigned short port;
	unsigned char transport;	/* IPPROTO_TCP or IPPROTO_UDP */
	unsigned char protocol;		/* enum protocol */
	unsigned int cluster;		/* struct cluster that connect() chooses from */
	unsigned int table;		/* struct table; 0: every request goes to `cluster` */
	unsigned int guarded;		/* enum guarded */
	unsigned int guard;		/* struct guard of who comes straight to this address, where policies
					 * name a service that it is an endpoint of; 0: as by the workload */
};

/* Which policies are about a service besides those about workloads. Userspace asks them. */
enum guarded {
	GUARDED_NOT,
	GUARDED_BY_NAME,	/* some name it */
	GUARDED_BY_EACH,	/* of an endpoint: the same ones name all services that it is one of */
	GUARDED_BROKERS,	/* some select its Kafka brokers */
};

/* Endpoints, with running totals of their weights. */
struct cluster {
	unsigned int id;		/* from 1, unique in the generation */
	unsigned int endpoints;		/* struct endpoint, `count` of them */
	unsigned int count;
	unsigned int total;		/* sum of weights */
};

struct endpoint {
	unsigned char ip[16];
	unsigned short port;		/* 0: its share of the connections is refused */
	unsigned short family;
	unsigned int up_to;		/* sum of the weights up to and with this one */
};

/* Sockets that the proxy accepts whole connections on, by the family of their address. */
enum listener { LISTENER_V4, LISTENER_V6, LISTENERS };

/* "This address serves that cluster". `cluster` 0 is an empty slot. */
struct member {
	unsigned char ip[16];
	unsigned int port;
	unsigned int cluster;
};

/*
 * Who somebody is, as a number: workloads that no rule and no policy could tell apart have the same
 * one. Nobody has that of the world: it stands for whoever is not found.
 */
enum identity { IDENTITY_WORLD, IDENTITY_HOST, IDENTITY_REMOTE_NODE, IDENTITY_WORKLOADS };

/* Who owns an address. `number` 0 is an empty slot. */
struct workload {
	unsigned char ip[16];
	unsigned int number;	/* enum identity; workloads from IDENTITY_WORKLOADS */
	unsigned int guard;	/* struct guard: what is asked of who calls it; 0: nothing */
	unsigned int leave;	/* struct group: whom it may call; 0: everybody */
	unsigned int remote;	/* it is on another node, where an agent judges its requests */
	unsigned int first;	/* 16 bytes: another address, by which its token buckets go; 0: this */
};

/*
 * What policies say of calls to a workload. The candidates of their groups lead to ACTION_PASS,
 * ACTION_ANSWER (denied) or ACTION_DETOUR (userspace finds out); so does the table, whose last rule
 * always holds.
 */
struct guard {
	unsigned int network;		/* struct group: all connections; 0: everybody may */
	unsigned int connections;	/* struct group: those that are not HTTP; 0: everybody may */
	unsigned int carriers;		/* struct group: those whose requests are judged elsewhere */
	unsigned int requests;		/* struct table: requests; 0: everybody may */
	unsigned int visits;		/* the same for those that are judged where they come in, from
					 * where there is no way to who only reports */
	unsigned int limits;		/* struct rate_limits: how many; 0: any number */
};

/* Limits of the rate of requests, in the order in which they are asked. */
struct rate_limits {
	unsigned int count;		/* above RATE_LIMITS: userspace knows them */
	unsigned int pad;
	/* struct rate_limit follows */
};

struct rate_limit {
	unsigned long long id;		/* of its buckets; of another limit it is another */
	unsigned long long interval;	/* ns from one fill to the next */
	unsigned int capacity;		/* tokens in a full bucket */
	unsigned int fill;		/* tokens that come with each interval */
	unsigned int enabled;		/* of RATE_WHOLE requests, how many take a token */
	unsigned int enforced;		/* of as many without one, how many are refused */
	unsigned int per_caller;	/* every caller has a bucket of his own */
	unsigned int port;		/* of the endpoint; 0: any */
	unsigned int unless;		/* not where one of these is about the request: bit n: the n-th */
	unsigned int table;		/* struct table of the requests that it is about; 0: all */
	unsigned int answer;		/* struct answer; 0: userspace gives it */
	unsigned int pad;
};

/* Names a token bucket. */
struct bucket_key {
	unsigned long long limit;	/* struct rate_limit's id */
	unsigned char endpoint[16];	/* the first address of the workload */
	unsigned char caller[16];	/* that of the caller; zero: it is for all */
	unsigned int port;		/* of the endpoint */
	unsigned int pad;
};

struct bucket {
	unsigned long long since;	/* CLOCK_MONOTONIC, ns; full then. Never changes */
	unsigned long long level;	/* intervals that have brought their tokens << 32 | tokens left */
	/* as in struct rate_limit, so that the agent can tell which are full */
	unsigned long long interval;
	unsigned int capacity;
	unsigned int fill;
};

/* What comes of asking a bucket. */
enum token { TOKEN_NONE, TOKEN_TAKEN, TOKEN_NO_ROOM };

/*
 * The rules of one service port. Automata over the path lead to groups of rules, of which the
 * first that holds wins: those of rules that name no host, and those that the host leads to.
 */
struct table {
	unsigned int flags;		/* enum table_flags */
	unsigned int classes;		/* of all paths: 256 bytes, the column of each byte, from 1 */
	unsigned int any;		/* struct paths of rules that name no host */
	unsigned int hosts;		/* struct machine; accepts a struct paths; 0: none names one */
	unsigned int no_route;		/* struct answer when no rule holds */
};

enum table_flags {
	TABLE_DETOUR = 1,	/* past a limit: userspace decides everything */
};

/* First states of automata over the path; where it ends is a struct group (0: none). */
struct paths {
	unsigned int exact;		/* over the path as it is */
	unsigned int folded;		/* over the path in lower case */
};

/*
 * A state of an automaton is named by a heap index; 0 is dead. With STATE_RUN it is a struct run,
 * otherwise a row: what a string that ends here is accepted as, then the next state by column.
 */
enum state { STATE_RUN = 0x80000000u };

/* States that follow each other by one byte each, accept the same and fail alike. */
struct run {
	unsigned int accept;	/* of a string that ends before the last of the bytes */
	unsigned int otherwise;	/* state behind the first byte that is another */
	unsigned int next;	/* state behind the bytes */
	unsigned int length;	/* bytes, 1 to 8 */
	unsigned int bytes[2];
};

/* An automaton with columns of its own. */
struct machine {
	unsigned int classes;	/* as in struct table */
	unsigned int start;	/* first state */
};

/* What the automaton of a regular expression accepts a value as. */
enum accepts { MACHINE_NO, MACHINE_YES, MACHINE_UNSURE };

/* Rules in order; the first that holds wins. */
struct group {
	unsigned int count;
	unsigned int predicates;	/* heap indices of struct predicate, at most 64 */
	/* struct candidate follows */
};

struct candidate {
	unsigned long long need;	/* predicates of the group that must hold, a bit each */
	unsigned long long forbid;	/* those that must not */
	unsigned int methods;		/* bit of each enum method that is allowed */
	unsigned int rule;		/* index in the service port's list, for people */
	unsigned int action;		/* struct action */
	unsigned int order;		/* of groups, the candidate with the smallest that holds wins:
					 * twice the rule, and 1 when it is left to userspace */
};

enum method {
	METHOD_GET, METHOD_HEAD, METHOD_POST, METHOD_PUT, METHOD_DELETE, METHOD_OPTIONS,
	METHOD_PATCH, METHODS,
};

/* What a condition looks at. */
enum subject {
	SUBJECT_HEADER,		/* the value of a header field */
	SUBJECT_QUERY,		/* the value of a query parameter, as sent */
	SUBJECT_SOURCE,		/* the caller */
	SUBJECT_CALLED,		/* who is called */
	SUBJECT_SOURCE_ADDRESS,	/* the caller's address */
	SUBJECT_REMOTE_ADDRESS,	/* the same, unless x-forwarded-for names another */
	SUBJECT_CALLED_ADDRESS,	/* the endpoint's address */
	SUBJECT_PORT,		/* the endpoint's port: transport << 16 | port, a number of 128 bits */
	SUBJECT_PATH,		/* the path */
};

enum comparison {
	COMPARE_PRESENT,	/* it is there */
	COMPARE_EXACT,		/* it has this value */
	COMPARE_PREFIX,		/* it begins with this value */
	COMPARE_REGEX,		/* a struct machine accepts it */
	COMPARE_MEMBER,		/* a party's number is in a set */
	COMPARE_SUFFIX,		/* it ends with this value */
	COMPARE_NOT_EMPTY,	/* it is there, and not empty */
	COMPARE_RANGES,		/* it is in one of these ranges */
};

struct predicate {
	unsigned int subject;
	unsigned int comparison;
	unsigned int name_hash;		/* of a header's lower-case name */
	unsigned int name;		/* bytes in the heap */
	unsigned int name_length;
	unsigned int value;		/* bytes; struct machine; words of a bit set by number;
					 * struct range, ascending and apart */
	unsigned int value_length;	/* bytes; words of the bit set; ranges */
};

/* Numbers of 128 bits; an address is one in network byte order. */
struct range {
	unsigned long long from_high;
	unsigned long long from_low;
	unsigned long long to_high;	/* the last one */
	unsigned long long to_low;
};

enum action_kind { ACTION_FORWARD, ACTION_ANSWER, ACTION_DETOUR, ACTION_PASS };

struct action {
	unsigned int kind;
	unsigned int shares;	/* forward: struct share, `count` of them */
	unsigned int count;
	unsigned int total;	/* sum of the weights */
	unsigned int answer;	/* answer: struct answer */
};

struct share {
	unsigned int cluster;	/* struct cluster; 0: a missing backend, answered 500 */
	unsigned int up_to;	/* sum of the weights up to and with this one */
};

/* A whole HTTP response, ready to be read by the client. */
struct answer {
	unsigned int status;
	unsigned int length;	/* bytes */
	/* bytes follow */
};

/*
 * Answers that no rule names: heap words 1.. hold the indices of prepared answers, in this order
 * (word 0 of the heap is never used).
 */
enum prepared {
	ANSWER_NO_ENDPOINT = 1, ANSWER_BACKEND_MISSING, ANSWER_NO_PROXY, ANSWER_DENIED, ANSWER_END
};

/* --- what the kernel and the userspace proxy say to each other ------------------------------ */

enum frame_kind {
	FRAME_DATA = 1,		/* bytes of a connection, either direction */
};

enum frame_flags {
	FRAME_REQUEST = 1,	/* to the proxy: starts with a whole head; `draw` was used for it */
	FRAME_STICKY = 2,	/* to the proxy: all later bytes of the connection come this way */
	FRAME_END = 4,		/* from the proxy: the answer to request `request` ends here */
	FRAME_OUT = 8,		/* from the agent: the named socket sends these bytes */
};

/*
 * Stands in front of the bytes of each message on a bus or injector socket.
 * A frame from the proxy without bytes (FRAME_END alone) makes its write() fail with EPIPE
 * although it was understood: there is nothing left to send on.
 */
struct frame {
	unsigned int length;		/* bytes that follow */
	unsigned short kind;		/* enum frame_kind */
	unsigned short flags;		/* enum frame_flags */
	unsigned long long cookie;	/* the client's socket */
	unsigned long long offset;	/* to the proxy: bytes of the connection sent before these */
	unsigned int draw;		/* random number that chose the backend */
	unsigned int request;		/* FRAME_REQUEST: its number on the connection, from 1.
					 * FRAME_END: the number of the request that is answered,
					 * so that a new proxy does not have to know the past */
	struct address source;		/* the client */
	struct address service;		/* what it connected to */
	struct address caller;		/* an address by which the client is known */
	unsigned int reason;		/* enum reason */
};

/* Ring buffer records. */
enum event_kind {
	EVENT_CLOSED = 1,	/* a connection with detours has closed */
	EVENT_HELD = 2,		/* one is held: it shall lead to the proxy */
	EVENT_LEFT = 3,		/* policies forbid a live connection, which leaves here */
	EVENT_CAME = 4,		/* the same, of one that was accepted here */
	EVENT_DENIED = 5,	/* a request on one that was accepted here is to be answered: 403, or what
				 * `bucket` says */
};

/* The other fields are those of events of policies. */
struct event {
	unsigned int kind;
	unsigned int namespace;	/* number of the socket's network namespace in /proc/PID/ns */
	unsigned long long cookie;
	struct address local;
	struct address remote;
	struct address caller;	/* an address by which the caller is known */
	unsigned int pad;
	unsigned long long bucket;	/* id of the one that had no token for a request; 0: none */
};

/* --- what is told of traffic ---------------------------------------------------------------- */

/* What is counted together. Zeros but for `lane` and the hundreds of `status`: what there was no
 * room for. */
struct traffic_key {
	unsigned char source[16];	/* the address by which the caller is known */
	unsigned char service[16];	/* what was asked for */
	unsigned char endpoint[16];	/* who was called; zeros: nobody */
	unsigned short port;		/* of the service */
	unsigned short status;		/* 0: no answer came */
	unsigned char lane;		/* enum lane */
	unsigned char reason;		/* enum reason */
	unsigned char kind;		/* enum traffic_kind */
	unsigned char pad;
};

enum traffic_kind {
	TRAFFIC_REQUEST,
	TRAFFIC_CONNECTION,	/* one that is not HTTP: `count` are made, `closed` have ended */
	TRAFFIC_VISIT,		/* a request that was judged where it came in */
};

/* Sums on one CPU since the map was made. */
struct traffic {
	unsigned long long count;
	unsigned long long closed;
	unsigned long long request_bytes;
	unsigned long long response_bytes;
	unsigned long long duration;	/* ns */
	unsigned long long durations[BOUNDS];
	unsigned long long request_sizes[BOUNDS];
	unsigned long long response_sizes[BOUNDS];
};

struct latency_key {
	unsigned char source[16];	/* as in struct traffic_key */
	unsigned char service[16];
	unsigned short port;
	unsigned short cpu;
	unsigned char kind;		/* enum traffic_kind */
	unsigned char pad[3];
};

/* Requests by how long they took (crates/telemetry/src/latency.rs). */
struct latency {
	unsigned long long buckets[LATENCY_BUCKETS];
};

/* One request, or a connection where `length` is 0. */
struct record {
	unsigned long long at;		/* CLOCK_MONOTONIC, ns: when its head was sent */
	unsigned long long duration;	/* ns */
	unsigned long long request_bytes;
	unsigned long long response_bytes;
	struct address source;		/* the caller's socket */
	struct address caller;		/* an address by which it is known */
	struct address service;
	struct address endpoint;	/* family 0: nobody was called */
	unsigned int rule;		/* + 1; 0: none */
	unsigned short status;
	unsigned char lane;
	unsigned char reason;
	unsigned char kind;		/* enum traffic_kind */
	unsigned char pad[3];
	unsigned int judged;		/* ns that it took to read and judge the head */
	unsigned int length;		/* bytes of `head` */
	unsigned char head[RECORD_BYTES];	/* as sent, as far as there is room */
};

/* --- state of connections ------------------------------------------------------------------- */

enum side {
	SIDE_CLIENT = 1,
	SIDE_SERVER,
	SIDE_PROXY,		/* an end that the userspace proxy has */
	SIDE_ALONE,		/* such an end whose bytes go by TCP whatever happens */
};

/* What a process that connects is known by. */
enum home_kind {
	HOME_CGROUP = 1,	/* its cgroup, or one around that; the innermost that is known */
	HOME_NAMESPACE,		/* else its network namespace, by the cookie */
	HOME_REST,		/* id 0: who is in no known cgroup. Family 0: he is looked for as
				 * above; else there are homes that did not fit, and he is nobody */
};

struct home {
	unsigned long long id;
	unsigned int kind;	/* enum home_kind */
	unsigned int pad;
};

/* What has happened to a cgroup of the mesh. */
enum stir_kind {
	STIR_MADE = 1,
	STIR_REMOVED,
	STIR_ENTERED,		/* a process has moved there */
	STIR_EXECUTED,		/* a process of it runs another program */
};

struct stir {
	unsigned long long cgroup;
	unsigned int kind;	/* enum stir_kind */
	unsigned int pid;	/* the process; 0: none */
	unsigned long long when;	/* CLOCK_MONOTONIC, ns */
};

/* By which way the proxy gets what a connection with detours sends. */
enum way {
	WAY_BUS,	/* by frames on a bus */
	WAY_HELD,	/* by none yet: it waits in the socket's send queue, and no packet passes */
	WAY_DIRECT,	/* by TCP: the proxy has taken the endpoint's place */
};

/* Where a connection's socket storage is in its stream of requests. */
enum phase {
	PHASE_HEAD,		/* a request begins here */
	PHASE_BODY,		/* `left` bytes of a body with a known length */
	PHASE_CHUNK_SIZE,	/* inside the size line of a chunk */
	PHASE_CHUNK_DATA,	/* `left` bytes of a chunk */
	PHASE_CHUNK_END,	/* the CRLF after a chunk's data */
	PHASE_TRAILER,		/* after the last chunk */
	PHASE_STICKY,		/* userspace has it all */
	PHASE_DEAD,		/* refused: nothing more is sent */
};

#endif
