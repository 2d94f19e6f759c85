// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/*
 * Verify at send(), detour on a miss.
 *
 * sockops enrols both ends of a connection to a service while it is established, before bytes
 * flow. From then on each message that the client sends passes on_send():
 *
 *   1. A message is read by the phase that its connection is in: a request's head, its body, or
 *      everything (the connection was given to userspace).
 *   2. A head is taken apart (http.h) and judged (verdict.h) by one generation of tables.
 *   3. The request goes on to the endpoint that connect() chose (native, or by the shortcut when
 *      that endpoint's socket is on this host), or to the userspace proxy, or is answered here.
 *   4. Its body follows it, whatever number of messages it takes.
 *
 * Answers keep the order of their requests: while an answer by detour may be under way, the next
 * request is detoured too; while a native one may be, a request that must leave the native lane
 * is refused. Fail closed: a message that cannot be understood goes to userspace or nowhere.
 */
#include "inlet.h"
#include "lanes.h"
#include "order.h"
#include "pairs.h"
#include "visit_traffic.h"

/* A client's connection to the proxy stands: leave word of what it asked for. The proxy cannot
 * accept before: the handshake's last segment is not out yet. */
static __always_inline void
anchor(const struct address *local, const struct address *remote, const struct conn *conn)
{
	struct anchor value = { .service = conn->service, .caller = conn->caller };
	struct anchor_key key = {};

	copy_ip(key.client, local->ip);
	copy_ip(key.listener, remote->ip);
	key.client_port = local->port;
	key.listener_port = remote->port;
	if (bpf_map_update_elem(&anchors, &key, &value, BPF_ANY))
		add(COUNT_FULL, 1);
}

/* The connecting end is about to send its first segment. */
static __noinline void connecting(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct tcp_sock *tcp = sk ? bpf_skc_to_tcp_sock(sk) : NULL;
	struct conn *conn = sk ? bpf_sk_storage_get(&conns, sk, 0, 0) : NULL;

	if (!tcp)
		return;
	if (!conn || conn->side != SIDE_CLIENT)
		return note_outlet(sk);
	conn->judged = tcp->write_seq + 1;
	announce_call(ctx);
}

/* A client's connection stands: wait for the other end, should it be on this host. */
static __noinline void client_established(struct bpf_sock_ops *ctx)
{
	struct address local = {}, remote = {};
	struct bpf_sock *sk = ctx->sk;
	struct conn *conn;

	if (!sk)
		return;
	conn = bpf_sk_storage_get(&conns, sk, 0, 0);
	if (!conn || conn->side != SIDE_CLIENT)
		return;
	get_ends(ctx, &local, &remote);
	/* where it runs is not known: by the address that it has */
	if (!conn->caller.family)
		name_by_address(&conn->caller, &local);
	conn->source = local;
	conn->sock = (u64)bpf_skc_to_tcp_sock(sk);
	if (conn->protocol == PROTOCOL_PROXY)
		anchor(&local, &remote, conn);
	if (conn->protocol != PROTOCOL_HTTP) {
		bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
		count_connection(conn, false);
		return;
	}
	if (!enrol(ctx, conn->cookie))
		return;
	announce(ctx, sk, conn->cookie, &local, &remote);
}

/* A server's connection stands: judge who has come in; when its client is one of ours, tell each of the
 * other. */
static __noinline void server_established(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct conn *conn;
	struct end client;

	note_inlet(ctx);
	if (!sk || !may_shortcut() || !find_client(ctx, &client))
		return;
	conn = bpf_sk_storage_get(&conns, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!conn) {
		add(COUNT_FULL, 1);
		return;
	}
	conn->cookie = bpf_get_socket_cookie(ctx);
	conn->side = SIDE_SERVER;
	if (enrol(ctx, conn->cookie) && pair(conn, sk, &client))
		add(COUNT_PAIRED, 1);
}

static __always_inline void closed(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct conn *conn = sk ? bpf_sk_storage_get(&conns, sk, 0, 0) : NULL;
	struct event *event;
	struct flow *flow;
	u64 cookie;

	if (sk)
		forget_visit(sk, bpf_get_socket_cookie(ctx));
	if (!conn || conn->side != SIDE_CLIENT)
		return;
	if (conn->protocol == PROTOCOL_HTTP)
		settle(conn);
	else if (conn->asking.open)
		count_connection(conn, true);
	flush(conn);
	cookie = conn->cookie;
	bpf_map_delete_elem(&links, &cookie);
	if (conn->followed)
		bpf_map_delete_elem(&answers, &cookie);
	if (!conn->noted)
		return;
	flow = bpf_map_lookup_elem(&flows, &cookie);
	/* otherwise the proxy may still have something to read, and the agent deletes it then */
	if (flow && flow->way == WAY_BUS)
		bpf_map_delete_elem(&flows, &cookie);
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		add(COUNT_EVENTS_LOST, 1);
		return;
	}
	event->kind = EVENT_CLOSED;
	event->pad = 0;
	event->cookie = cookie;
	bpf_ringbuf_submit(event, 0);
}

/* What the cases keep on the stack has no room there together, nor beside what closed() calls. */
SEC("sockops")
int on_socket(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		connecting(ctx);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		client_established(ctx);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		server_established(ctx);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[1] == STATE_CLOSE)
			closed(ctx);
		break;
	}
	return 1;
}

/* Copies the first bytes of a message; how many, 0 on failure. */
static __always_inline u32 read_head(struct sk_msg_md *msg, struct scratch *s)
{
	u32 n = msg->size < HEAD_BYTES ? msg->size : HEAD_BYTES;
	void *data;

	if (!n || bpf_msg_pull_data(msg, 0, n, 0))
		return 0;
	data = msg->data;
	if (n > HEAD_BYTES || bpf_probe_read_kernel(s->head, n, data))
		return 0;
	__builtin_memset(&s->head[n & (2 * HEAD_BYTES - 1)], 0, 8);
	return n;
}

/* What on_head() found out about the request that begins a message. */
struct request {
	u32 answer;
	u32 draw;
	u32 span;		/* bytes of the message that belong to it */
	u32 limits;		/* as in struct verdict */
	u32 limited;
	u8 lane;
	u8 reason;
	bool sticky;
	bool more;		/* another request begins behind it */
	bool certain;
	bool bare;		/* a HEAD: its answer has no body */
	u8 pad[2];
};

static __always_inline bool fits_whole(struct sk_msg_md *msg)
{
	struct tcp_sock *tcp = tcp_of(msg);

	return tcp && fits(tcp, msg->size);
}

/*
 * Sets the framing for what follows the head, and how much of this message belongs to the request.
 * Of a message that TCP may cut, the head goes by itself.
 */
static __always_inline bool
begin_body(struct sk_msg_md *msg, struct conn *conn, const struct head *h, struct request *r)
{
	struct framing *f = &conn->framing;
	u64 behind = msg->size - h->length;
	bool apart = !fits_whole(msg);

	expect_body(f, h);
	r->span = h->length;
	r->more = !h->chunked && behind > h->body;
	if (f->phase == PHASE_HEAD || apart || !behind)
		return true;
	if (h->chunked) {
		r->span = walk_chunks(msg, f, h->length, 0);
		r->more = f->phase == PHASE_HEAD && r->span < msg->size;
	} else {
		r->span += take_data(f, behind);
	}
	return r->span;
}

static __always_inline bool has_proxy(void)
{
	u32 zero = 0;
	struct settings *set = bpf_map_lookup_elem(&settings, &zero);

	return set && set->buses;
}

/* Reads and judges the request at the start of a message. */
static __always_inline void
examine(struct sk_msg_md *msg, struct conn *conn, struct generation *g, struct request *r)
{
	struct scratch *s = claim_scratch();
	struct verdict *v;
	struct head h;
	u32 length, lane = LANE_DETOUR, why = REASON_NONE;
	int reason;

	r->lane = LANE_DETOUR;
	r->sticky = 1;
	r->reason = REASON_HEAD_LIMIT;
	if (!s)
		return;
	length = read_head(msg, s);
	reason = length ? parse_head(s, length, &h) : REASON_HEAD_LIMIT;
	if (!reason) {
		v = &s->verdict;
		v->service = conn->service;
		v->endpoint = conn->endpoint;
		v->source = conn->source;
		v->caller = conn->caller;
		v->transport = IPPROTO_TCP;
		v->draw = r->draw;
		judge(g, s, &h, v);
		lane = v->lane;
		r->answer = v->answer;
		r->certain = v->certain;
		r->limits = v->limits;
		r->limited = v->limited;
		why = v->reason;
	}
	/* of what it gets the proxy tells */
	if (lane != LANE_DETOUR || !has_proxy())
		conn->sampled = sample(conn, s, length, lane == LANE_NATIVE);
	release_scratch(s);
	r->reason = reason;
	if (reason)
		return;
	r->reason = REASON_BAD_CHUNK;
	if (!begin_body(msg, conn, &h, r))
		return;
	r->sticky = 0;
	r->lane = lane;
	r->reason = why;
	r->bare = h.method == METHOD_HEAD;
}

/* A request that is about to go to the endpoint takes its tokens; without one it is answered. */
static __always_inline void limit_rate(struct conn *conn, struct generation *g, struct request *r)
{
	u32 refused;

	if (r->lane != LANE_NATIVE || !r->limited || conn->paid)
		return;
	refused = spend(g, r->limits, r->limited, &conn->endpoint, &conn->caller);
	conn->paid = !refused;
	if (!refused)
		return;
	r->reason = REASON_RATE_LIMITED;
	r->answer = AT(g, rate_limit, refused)->answer;
	r->lane = LANE_ANSWERED;
	/* userspace gives the answer when there is a body to come, or none may be in it */
	if (!r->answer || r->bare || conn->framing.phase != PHASE_HEAD)
		r->lane = LANE_DETOUR;
}

/* Keeps answers in the order of requests; false when that cannot be. */
static __always_inline bool
keep_order(struct sk_msg_md *msg, struct conn *conn, struct generation *g, struct request *r)
{
	if (r->more && !r->certain && !r->sticky) {
		r->lane = LANE_DETOUR;
		r->reason = REASON_PIPELINED;
		r->sticky = 1;
	}
	/* userspace answers a request whose body is still to come */
	if (r->lane == LANE_ANSWERED && conn->framing.phase != PHASE_HEAD) {
		r->lane = LANE_DETOUR;
		r->reason = REASON_RULE_ACTION;
	}
	if (r->lane != LANE_DETOUR && detour_outstanding(conn)) {
		r->lane = LANE_DETOUR;
		r->reason = REASON_OUTSTANDING;
		r->sticky |= r->more;
	}
	limit_rate(conn, g, r);
	return r->lane == LANE_NATIVE || !native_outstanding(conn, msg);
}

/* The proxy is away: a whole request is answered 503, of a part nothing can be made. */
static __always_inline int
without_proxy(struct sk_msg_md *msg, struct conn *conn, struct generation *g, u32 reason)
{
	bool whole = conn->framing.phase == PHASE_HEAD;
	u64 cookie = conn->cookie;
	struct flow *flow = bpf_map_lookup_elem(&flows, &cookie);
	int action;

	if (reason != REASON_NO_PROXY)
		return refuse(conn, reason);
	/* behind a part of an answer nothing else can stand */
	if (flow && flow->partial)
		return refuse(conn, REASON_ORDER);
	count_here(conn, LANE_ANSWERED, reason, 503, msg->size);
	action = answer_here(msg, conn, g, g->heap[ANSWER_NO_PROXY]);
	if (!whole)
		conn->framing.phase = PHASE_DEAD;
	/* no proxy will answer it, nor the next one on its behalf */
	if (flow)
		flow->asked = flow->answered = 0;
	conn->asked = 0;
	return action;
}

static __always_inline int
detour_request(struct sk_msg_md *msg, struct conn *conn, struct generation *g, struct request *r)
{
	u32 flags = r->sticky ? FRAME_STICKY : FRAME_REQUEST, failed;
	bool earlier = detour_outstanding(conn);

	if (r->sticky) {
		conn->framing.phase = PHASE_STICKY;
		r->span = msg->size;
	}
	failed = detour(msg, conn, r->span, msg->size, flags, r->reason, r->draw);
	if (failed && earlier)
		return refuse(conn, REASON_ORDER);
	if (failed)
		return without_proxy(msg, conn, g, failed);
	count_request(LANE_DETOUR, r->reason);
	return SK_PASS;
}

static __always_inline int
native_request(struct sk_msg_md *msg, struct conn *conn, struct request *r)
{
	u32 lane;

	note_native(msg, conn, r->certain, r->bare);
	lane = send_on(msg, conn, r->span, msg->size);
	begin_asking(conn, lane, r->reason, r->span);
	return SK_PASS;
}

static __always_inline int on_head(struct sk_msg_md *msg, struct conn *conn)
{
	struct generation *g = current_generation();
	struct request r = {};

	if (!g)
		return refuse(conn, REASON_NO_SERVICE);
	find_peer(conn);
	/* what came of the one before is known now, as far as it ever will be */
	settle(conn);
	conn->now = bpf_ktime_get_ns();
	conn->sampled = 0;
	r.draw = bpf_get_prandom_u32();
	examine(msg, conn, g, &r);
	if (!keep_order(msg, conn, g, &r))
		return refuse(conn, REASON_ORDER);
	conn->lane = r.lane;
	if (r.lane == LANE_DETOUR)
		return detour_request(msg, conn, g, &r);
	if (r.lane == LANE_NATIVE)
		return native_request(msg, conn, &r);
	count_here(conn, LANE_ANSWERED, r.reason, AT(g, answer, r.answer)->status, msg->size);
	return answer_here(msg, conn, g, r.answer);
}

/* Bytes of a body go the way of their head. */
static __always_inline int on_body(struct sk_msg_md *msg, struct conn *conn)
{
	struct generation *g = current_generation();
	u32 size = msg->size, n = size, failed;
	struct framing *f = &conn->framing;

	if (f->phase == PHASE_BODY) {
		n = take_data(f, n);
	} else {
		n = walk_chunks(msg, f, 0, !fits_whole(msg));
		if (!n)
			return refuse(conn, REASON_BAD_CHUNK);
	}
	if (conn->lane == LANE_NATIVE) {
		/* what came before the body has ended (a 100) is not the answer */
		if (!conn->followed)
			note_progress(msg, conn);
		send_on(msg, conn, n, size);
		conn->asking.sent += n;
		return SK_PASS;
	}
	failed = detour(msg, conn, n, size, 0, REASON_NONE, 0);
	if (failed && g)
		return without_proxy(msg, conn, g, failed);
	return failed ? refuse(conn, failed) : SK_PASS;
}

/* Everything goes to userspace. */
static __always_inline int on_sticky(struct sk_msg_md *msg, struct conn *conn)
{
	u32 failed = detour(msg, conn, msg->size, msg->size, FRAME_STICKY, REASON_STICKY, 0);

	return failed ? refuse(conn, failed) : SK_PASS;
}

static __always_inline long load_msg(void *msg, u32 at, u32 n, void *to)
{
	struct sk_msg_md *from = msg;

	if (bpf_msg_pull_data(from, at, at + n, 0))
		return -1;
	return bpf_probe_read_kernel(to, n, from->data);
}

/* Reads the status where an answer begins. */
static __always_inline void read_status(struct sk_msg_md *msg, struct link *link)
{
	u8 line[16];
	u32 status;

	if (load_msg(msg, 0, sizeof(line), line))
		return;
	status = status_in(line);
	if (status)
		link->status = status;
}

/* Answers that get to the client by the shortcut. */
static __always_inline void note_answers(struct sk_msg_md *msg, u64 client, u32 size)
{
	struct answers *a = bpf_map_lookup_elem(&answers, &client);
	struct link *link = bpf_map_lookup_elem(&links, &client);

	if (link) {
		link->answered_bytes += size;
		if (link->status < 200)
			read_status(msg, link);
		link->answered = bpf_ktime_get_ns();
	}
	if (a)
		follow_answers(a, msg, size, load_msg);
}

/* What a server sends goes to its client, by the shortcut when there is one. */
static __always_inline int on_answer(struct sk_msg_md *msg, struct conn *conn)
{
	u64 peer = conn->peer;
	u32 size = msg->size;

	if (send_on(msg, conn, size, size) == LANE_SHORTCUT)
		note_answers(msg, peer, size);
	return SK_PASS;
}

/* What the proxy sends to an endpoint, by the shortcut when there is one. */
static __always_inline int on_proxy_send(struct sk_msg_md *msg, struct conn *conn)
{
	find_peer(conn);
	send_on(msg, conn, msg->size, msg->size);
	return SK_PASS;
}

static __always_inline bool is_behind_unjudged(const struct conn *conn, struct sk_msg_md *msg)
{
	struct tcp_sock *me = tcp_of(msg);

	return me && has_unjudged(conn, me);
}

SEC("sk_msg")
int on_send(struct sk_msg_md *msg)
{
	struct bpf_sock *sk = msg->sk;
	struct conn *conn = sk ? bpf_sk_storage_get(&conns, sk, 0, 0) : NULL;

	if (!conn)
		return SK_PASS;
	/* what the run before this one asked for still stands (sk_psock_msg_verdict()), and more
	 * than the rest of this message would let as much of later messages pass unjudged */
	bpf_msg_apply_bytes(msg, 0);
	if (conn->side == SIDE_SERVER)
		return on_answer(msg, conn);
	if (conn->side == SIDE_PROXY)
		return on_proxy_send(msg, conn);
	if (conn->framing.phase != PHASE_DEAD && leads_to_proxy(msg, conn))
		return SK_PASS;
	if (!take_back(conn, msg))
		return refuse(conn, REASON_PARTIAL_SEND);
	if (is_behind_unjudged(conn, msg))
		return refuse(conn, REASON_UNJUDGED);
	conn->before = conn->framing;
	switch (conn->framing.phase) {
	case PHASE_HEAD:
		return on_head(msg, conn);
	case PHASE_STICKY:
		return on_sticky(msg, conn);
	case PHASE_DEAD:
		return SK_DROP;
	default:
		return on_body(msg, conn);
	}
}
