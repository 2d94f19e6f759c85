/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * Who asked whom, how often, how long it took and what came of it.
 *
 * A request that goes to its endpoint is counted when it is over. That is known when its client
 * sends the next one, when the connection closes, or when answers are followed and its last byte has
 * come; where it is none of these, the agent asks for what has been still for a while (sweep.bpf.c).
 * Until then `conn->asking` has what is known: its answer's status, read where the answer's first
 * bytes pass (packet.bpf.c by TCP, socket.bpf.c by the shortcut), and when its last bytes came.
 *
 * Some requests are told of one by one. Which ones is decided when they are sent, so that their heads
 * can be kept; how many, by a budget for each CPU.
 */
#ifndef BEEWAY_TRAFFIC_H
#define BEEWAY_TRAFFIC_H

#include "series.h"

static const struct record no_record;

static __always_inline struct settings *telemetry_settings(void)
{
	u32 zero = 0;
	struct settings *set = bpf_map_lookup_elem(&settings, &zero);

	return set && set->telemetry ? set : NULL;
}

/*
 * Whether this CPU may begin a record in the present window; one that it may not is counted. What does
 * not go to its endpoint (denied, answered, refused) is rare and wanted: the others leave it room.
 */
static __always_inline bool take_record(const struct settings *set, u64 now, bool forwarded)
{
	u32 *used, kind = !forwarded;
	u32 zero = 0;
	struct budget *b = bpf_map_lookup_elem(&budgets, &zero);

	if (!b || !set->records)
		return false;
	if (b->window != now >> RECORD_WINDOW) {
		b->window = now >> RECORD_WINDOW;
		b->used[0] = b->used[1] = 0;
	}
	/* the verifier does not know that a bool is 0 or 1 */
	barrier_var(kind);
	used = &b->used[kind & 1];
	/* programs of one CPU that interrupt one another may begin one more */
	if ((*used)++ < set->records)
		return true;
	add(COUNT_RECORDS_THINNED, 1);
	return false;
}

/* Who looks at records does so by the clock, unless all requests are told of. */
#define ALL_RECORDS (~0u)

/* ns without a byte after which an answer is taken to be over, where it is not followed */
#define STILL 1000000000ull

static __always_inline void tell_record(const struct settings *set, struct record *record)
{
	u64 flags = set->records == ALL_RECORDS ? 0 : BPF_RB_NO_WAKEUP;

	if (bpf_ringbuf_output(&records, record, sizeof(*record), flags))
		add(COUNT_RECORDS_LOST, 1);
}

/* Copies as much of a head as a record has room for. */
static __always_inline bool keep_head(struct record *record, struct scratch *s, u32 length)
{
	if (length > RECORD_BYTES)
		length = RECORD_BYTES;
	barrier_var(length);
	if (!length || length > RECORD_BYTES ||
	    bpf_probe_read_kernel(record->head, length, s->head))
		return false;
	record->length = length;
	return true;
}

/* Keeps what the head of a socket's request says, judged since `at`, if it is to be told of. */
static __always_inline bool
keep_sample(u64 cookie, u64 at, struct scratch *s, u32 length, bool forwarded)
{
	struct settings *set = telemetry_settings();
	struct record *record;

	if (!set || !take_record(set, at, forwarded))
		return false;
	if (bpf_map_update_elem(&samples, &cookie, &no_record, BPF_ANY))
		return false;
	record = bpf_map_lookup_elem(&samples, &cookie);
	if (!record || !keep_head(record, s, length))
		return false;
	record->judged = bpf_ktime_get_ns() - at;
	record->rule = s->verdict.rule;
	return true;
}

/* The same for a client's request. */
__weak __noinline int sample(struct conn *conn, struct scratch *s, u32 length, bool forwarded)
{
	return conn && s && keep_sample(conn->cookie, conn->now, s, length, forwarded);
}

/* The record of a request that is over and whose head was kept; NULL: it is lost. */
static __always_inline struct record *
kept_sample(u64 cookie, const struct traffic_key *key, u64 at, u64 duration, u64 request_bytes,
	    u64 response_bytes)
{
	struct record *record = bpf_map_lookup_elem(&samples, &cookie);

	if (!record) {
		add(COUNT_RECORDS_LOST, 1);
		return NULL;
	}
	record->at = at;
	record->duration = duration;
	record->request_bytes = request_bytes;
	record->response_bytes = response_bytes;
	record->status = key->status;
	record->lane = key->lane;
	record->reason = key->reason;
	record->kind = key->kind;
	return record;
}

static __always_inline void
tell_kept(const struct settings *set, u64 cookie, struct record *record)
{
	tell_record(set, record);
	bpf_map_delete_elem(&samples, &cookie);
}

/* Tells of a request that is over, if its head was kept. */
static __always_inline void
tell_sample(const struct settings *set, struct conn *conn, const struct traffic_key *key, u64 at,
	    u64 duration, u64 request_bytes, u64 response_bytes)
{
	struct record *record = kept_sample(conn->cookie, key, at, duration, request_bytes,
					    response_bytes);

	if (!record)
		return;
	record->source = conn->source;
	record->caller = conn->caller;
	record->service = conn->service;
	if (is_called(key))
		record->endpoint = conn->endpoint;
	tell_kept(set, conn->cookie, record);
}

/* A record of a connection, or of an attempt to make one; NULL where it is not to be told of. */
static __always_inline struct record *
new_record(const struct settings *set, const struct traffic_key *key, u64 now)
{
	struct record *record;

	if (!take_record(set, now, key->lane <= LANE_SHORTCUT))
		return NULL;
	record = bpf_ringbuf_reserve(&records, sizeof(*record), 0);
	if (!record) {
		add(COUNT_RECORDS_LOST, 1);
		return NULL;
	}
	__builtin_memset(record, 0, offsetof(struct record, head));
	record->at = now;
	record->lane = key->lane;
	record->reason = key->reason;
	record->kind = key->kind;
	return record;
}

static __always_inline void
tell_connection(const struct settings *set, struct conn *conn, const struct traffic_key *key,
		u64 sent, u64 received)
{
	u64 now = bpf_ktime_get_ns();
	struct record *record = new_record(set, key, now);

	if (!record)
		return;
	record->at = conn->asking.at;
	record->duration = now - conn->asking.at;
	record->request_bytes = sent;
	record->response_bytes = received;
	record->source = conn->source;
	record->caller = conn->caller;
	record->service = conn->service;
	if (key->lane == LANE_NATIVE)
		record->endpoint = conn->endpoint;
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
}

/* Policies forbid a connection that somebody wants to make. */
__weak __noinline int
count_denied(struct address *caller, struct address *service, struct address *endpoint)
{
	struct settings *set = telemetry_settings();
	struct traffic_key key = {};
	struct record *record;

	if (!caller || !service || !endpoint || !set)
		return 0;
	copy_ip(key.source, caller->ip);
	copy_ip(key.service, service->ip);
	copy_ip(key.endpoint, endpoint->ip);
	key.port = service->port;
	key.lane = LANE_REFUSED;
	key.reason = REASON_DENIED;
	key.kind = TRAFFIC_CONNECTION;
	count_over(&key, 0, 0, 0);
	record = new_record(set, &key, bpf_ktime_get_ns());
	if (!record)
		return 0;
	record->caller = *caller;
	record->service = *service;
	record->endpoint = *endpoint;
	record->endpoint.family = service->family;
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	return 0;
}

/* Bytes that have come by TCP. */
static __always_inline u64 received_by(const struct tcp_sock *tcp)
{
	/* the end of a connection counts one */
	return tcp->bytes_received - (tcp->inet_conn.icsk_inet.sk.sk_shutdown & 1);
}

static __always_inline struct link *link_of(struct conn *conn)
{
	u64 cookie = conn->cookie;

	return bpf_map_lookup_elem(&links, &cookie);
}

/* The socket that a record in socket storage belongs to. */
static __always_inline const struct tcp_sock *own_sock(const struct conn *conn)
{
	return KERNEL_AT(tcp_sock, conn->sock);
}

/*
 * Learns of the other end once it is known. It stands before it answers, so where bytes have come and
 * nothing is known of it, nothing ever will be.
 */
static __always_inline void find_peer(struct conn *conn)
{
	struct link *link;

	if (conn->peer || conn->alone)
		return;
	link = link_of(conn);
	if (link) {
		conn->peer = link->server.cookie;
		conn->peer_sock = link->server.sock;
	} else if (own_sock(conn)->bytes_received) {
		conn->alone = 1;
	}
}

/* Counts the request under way, of which there will not be more. */
__weak __noinline int settle(struct conn *conn)
{
	struct settings *set = telemetry_settings();
	struct traffic_key key = {};
	u64 last, bytes, duration;
	struct asking *a;
	struct link *l;

	if (!conn || !conn->asking.open || !__sync_lock_test_and_set(&conn->asking.open, 0) || !set)
		return 0;
	a = &conn->asking;
	name_traffic(&key, conn, a->lane, a->reason);
	key.status = a->status;
	last = a->answered;
	bytes = received_by(own_sock(conn)) - a->received;
	/* it may have come to be known after the request was sent */
	find_peer(conn);
	l = conn->peer ? link_of(conn) : NULL;
	if (l) {
		bytes += l->answered_bytes - a->shortcut;
		if (l->status >= 200)
			key.status = l->status;
		if (l->answered > last)
			last = l->answered;
	}
	if (key.status < 200)
		key.status = 0;
	duration = last > a->at ? last - a->at : bpf_ktime_get_ns() - a->at;
	count_later(conn, &key, duration, a->sent, bytes);
	if (a->sampled)
		tell_sample(set, conn, &key, a->at, duration, a->sent, bytes);
	a->sampled = 0;
	return 0;
}

/* A request goes to its endpoint. */
__weak __noinline int begin_asking(struct conn *conn, u32 lane, u32 reason, u32 bytes)
{
	const struct tcp_sock *tcp;
	struct asking *a;
	struct link *l;

	if (!conn)
		return 0;
	count_request(lane, reason);
	a = &conn->asking;
	a->lane = lane;
	a->reason = reason;
	if (!telemetry_settings())
		return 0;
	tcp = own_sock(conn);
	a->at = conn->now;
	a->answered = 0;
	a->sent = bytes;
	a->received = received_by(tcp);
	a->answer = tcp->rcv_nxt;
	a->status = 0;
	a->sampled = conn->sampled;
	l = conn->peer ? link_of(conn) : NULL;
	a->shortcut = 0;
	if (l) {
		a->shortcut = l->answered_bytes;
		l->status = 0;
	}
	a->open = 1;
	return 0;
}

/* A request is over as soon as it was judged: it was answered here, or refused. */
__weak __noinline int count_here(struct conn *conn, u32 lane, u32 reason, u32 status, u32 bytes)
{
	struct settings *set = telemetry_settings();
	struct traffic_key key = {};
	u64 now;

	count_request(lane, reason);
	if (!conn || !set)
		return 0;
	now = bpf_ktime_get_ns();
	if (conn->now > now || !conn->now)
		conn->now = now;
	name_traffic(&key, conn, lane, reason);
	key.status = status;
	count_later(conn, &key, now - conn->now, bytes, 0);
	if (conn->sampled)
		tell_sample(set, conn, &key, conn->now, now - conn->now, bytes, 0);
	conn->sampled = 0;
	return 0;
}

/* Counts what a connection that is not HTTP has carried since it was last looked at. */
__weak __noinline int count_connection(struct conn *conn, bool ended)
{
	u32 lane = conn && conn->protocol == PROTOCOL_PROXY ? LANE_DETOUR : LANE_NATIVE;
	struct settings *set = telemetry_settings();
	struct traffic_key key = {};
	const struct tcp_sock *tcp;
	struct traffic *t;
	u64 sent, received;

	if (!conn || !set)
		return 0;
	name_traffic(&key, conn, lane, REASON_OPAQUE);
	key.kind = TRAFFIC_CONNECTION;
	t = find_series(&key, 1);
	if (!t)
		return 0;
	tcp = own_sock(conn);
	sent = tcp->bytes_sent - tcp->bytes_retrans;
	received = received_by(tcp);
	if (!conn->asking.open) {
		conn->asking.at = bpf_ktime_get_ns();
		conn->asking.open = 1;
		plus(&t->count, 1);
	}
	/* the end of a connection and the agent may look at the same time */
	plus(&t->request_bytes, sent - __sync_lock_test_and_set(&conn->asking.sent, sent));
	plus(&t->response_bytes,
	     received - __sync_lock_test_and_set(&conn->asking.received, received));
	if (!ended || !__sync_lock_test_and_set(&conn->asking.open, 0))
		return 0;
	plus(&t->closed, 1);
	plus(&t->duration, bpf_ktime_get_ns() - conn->asking.at);
	tell_connection(set, conn, &key, sent, received);
	return 0;
}

/* The status in the first 16 bytes of an answer; 0: that is not HTTP/1. */
static __always_inline u32 status_in(const u8 *line)
{
	u32 hundreds = line[9] - '0', tens = line[10] - '0', ones = line[11] - '0';

	if (*(u32 *)line != ('H' | 'T' << 8 | 'T' << 16 | 'P' << 24) || line[8] != ' ')
		return 0;
	return hundreds > 9 || tens > 9 || ones > 9 ? 0 : hundreds * 100 + tens * 10 + ones;
}

#endif
