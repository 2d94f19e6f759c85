// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/*
 * Packets of the mesh. Those of connections that policies forbid do not pass (inlet.h has those that
 * come in); a live one is judged again when the policies have changed.
 *
 * Of clients' connections with detours nearly all pass. Two kinds do not:
 *
 *   - Those of a connection that is held, both ways: what the client sends waits in its own send
 *     queue, with TCP's own back-pressure, until the agent has put the proxy in the endpoint's
 *     place. Then packets pass by the loopback device only; those of the endpoint are dropped.
 *   - What an endpoint says while the client waits for an answer by detour: the end of a connection
 *     that was idle to it, mostly. It is not the answer that the client waits for. The connection
 *     is held then, and the proxy takes the endpoint's place.
 */
#include "inlet.h"
#include "order.h"

#define PASS 1
#define DROP 0
#define LOOPBACK_IFINDEX 1	/* in every network namespace (include/net/net_namespace.h) */
#define RST 4
#define FIN_OR_RST 5

static __always_inline struct conn *conn_of(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	return sk ? bpf_sk_storage_get(&conns, sk, 0, 0) : NULL;
}

/* Whether a packet belongs to a client's connection with detours. */
static __always_inline bool has_detours(const struct conn *conn)
{
	return conn && conn->noted && conn->side == SIDE_CLIENT;
}

/* A packet of TCP, as far as it is looked at here. */
struct segment {
	u32 seq;		/* sequence number of its first byte */
	u32 at;			/* where its bytes are */
	u8 flags;
};

/* Reads a packet's headers; false where they are not plain: behind extension headers of IPv6 nothing is
 * looked for. Those of what TCP has sent or is about to take are in one piece. */
static __always_inline bool read_segment(struct __sk_buff *skb, struct segment *s)
{
	u8 *ip = (u8 *)(long)skb->data, *end = (u8 *)(long)skb->data_end, *tcp = ip + 40;
	u32 at = 40;

	if (ip + 40 > end)
		return false;
	if (ip[0] >> 4 == 4) {
		at = (ip[0] & 15) * 4;
		tcp = ip + at;
	} else if (ip[6] != IPPROTO_TCP) {
		return false;
	}
	if (tcp + TCP_BYTES > end)
		return false;
	s->seq = bpf_ntohl(*(u32 *)(tcp + 4));
	s->at = at + (tcp[12] >> 4) * 4;
	s->flags = tcp[13];
	return true;
}

static __always_inline bool has_bytes(struct __sk_buff *skb, const struct segment *s)
{
	return skb->len > s->at;
}

static __always_inline struct tcp_sock *tcp_sock_of(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	return sk ? bpf_skc_to_tcp_sock(sk) : NULL;
}

/* No packet of it passes, and the agent will reset it. */
static __always_inline bool cut_off(struct __sk_buff *skb, struct conn *conn)
{
	if (conn->framing.phase != PHASE_DEAD)
		add(COUNT_DENIED, 1);
	conn->framing.phase = PHASE_DEAD;
	if (!conn->told)
		conn->told = tell_of_policy(tcp_sock_of(skb), EVENT_LEFT, &conn->source,
					    &conn->endpoint, &conn->caller, 0);
	return false;
}

/* Asks the policies of now about a client's connection that is not HTTP. */
static __always_inline bool
judge_again(struct __sk_buff *skb, struct conn *conn, struct generation *g)
{
	struct frontend *f = find_frontend(g, conn->service.ip, conn->service.port, IPPROTO_TCP);
	u32 asked = ASK_CONNECTION;
	struct scratch *s;
	enum access access;
	struct verdict *v;

	if (f && f->guarded) {
		/* a new connection is judged by the proxy, and an old one here if its endpoint is one of the
		 * service still: policies on the service are among those on the endpoint then */
		if (f->guarded == GUARDED_BROKERS ||
		    !is_member(g, AT(g, cluster, f->cluster)->id, &conn->endpoint))
			return cut_off(skb, conn);
		asked |= ASK_STRAIGHT;
	}
	s = claim_scratch();
	if (!s)
		return false;
	v = &s->verdict;
	__builtin_memset(v, 0, sizeof(*v));
	v->endpoint = conn->endpoint;
	v->source = conn->source;
	v->caller = conn->caller;
	v->transport = IPPROTO_TCP;
	access = judge_connection(g, s, v, asked);
	release_scratch(s);
	if (access == ACCESS_PASS) {
		conn->generation = g->number;
		return true;
	}
	return cut_off(skb, conn);
}

/* Whether policies still let a client's connection pass. HTTP is judged request by request, and what
 * the proxy carries is judged there. */
static __always_inline bool is_allowed(struct __sk_buff *skb, struct conn *conn)
{
	struct generation *g;

	if (!conn || conn->side != SIDE_CLIENT || conn->protocol != PROTOCOL_OPAQUE)
		return true;
	g = current_generation();
	/* its addresses are not known before it stands */
	if (!g || conn->generation == g->number || !conn->source.family)
		return true;
	if (!g->guarded && conn->framing.phase != PHASE_DEAD) {
		conn->generation = g->number;
		return true;
	}
	return judge_again(skb, conn, g);
}

/* Whether a packet carries bytes, or may. */
static __always_inline bool carries_bytes(struct __sk_buff *skb)
{
	struct segment s = {};

	return !read_segment(skb, &s) || has_bytes(skb, &s);
}

/* Whether a client's connection that is judged request by request carries what nobody has judged. */
static __always_inline bool carries_unjudged(struct __sk_buff *skb, struct conn *conn)
{
	struct bpf_sock *sk = skb->sk;
	struct tcp_sock *me;

	if (conn->side != SIDE_CLIENT || conn->protocol != PROTOCOL_HTTP || conn->direct || !sk)
		return false;
	me = bpf_skc_to_tcp_sock(sk);
	if (!me || !has_unjudged(conn, me))
		return false;
	if (conn->framing.phase != PHASE_DEAD)
		count_request(LANE_REFUSED, REASON_UNJUDGED);
	conn->framing.phase = PHASE_DEAD;
	return carries_bytes(skb);
}

/* Whether a packet says that a connection is over, and nothing else. */
static __always_inline bool is_reset(struct __sk_buff *skb)
{
	struct segment s = {};

	return read_segment(skb, &s) && s.flags & RST && !has_bytes(skb, &s);
}

#define CONTINUE_BYTES 25	/* "HTTP/1.1 100 Continue" and an empty line, as servers send it */

/* Reads the status of an answer, if it begins with a packet's bytes and is not known yet. */
static __always_inline void
read_answer(struct __sk_buff *skb, const struct segment *s, u16 *status, u32 *answer)
{
	u8 line[16];

	if (*status >= 200 || s->seq != *answer || bpf_skb_load_bytes(skb, s->at, line, sizeof(line)))
		return;
	*status = status_in(line);
	if (*status < 100 || *status >= 200)
		return;
	/* the answer is still to come */
	if (skb->len > s->at + CONTINUE_BYTES &&
	    !bpf_skb_load_bytes(skb, s->at + CONTINUE_BYTES, line, sizeof(line)))
		*status = status_in(line);
	*answer = s->seq + skb->len - s->at;
}

/* Notes what a packet says of the answer to a request that was judged where it came in. */
static __always_inline void see_visit(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct inlet *inlet = sk ? bpf_sk_storage_get(&inlets, sk, 0, 0) : NULL;
	struct segment s = {};
	struct visit *visit;
	u64 cookie;
	s32 more;

	if (!inlet || !inlet->visit)
		return;
	cookie = bpf_get_socket_cookie(skb);
	visit = bpf_map_lookup_elem(&visits, &cookie);
	if (!visit || !visit->open || !read_segment(skb, &s) || !has_bytes(skb, &s))
		return;
	read_answer(skb, &s, &visit->status, &visit->answer);
	visit->answered = bpf_ktime_get_ns();
	/* what is sent again has left before */
	more = s.seq + skb->len - s.at - visit->left;
	if (more > 0) {
		visit->answer_bytes += more;
		visit->left += more;
	}
}

SEC("cgroup_skb/egress")
int packet_out(struct __sk_buff *skb)
{
	struct conn *conn = conn_of(skb);
	struct flow *flow;
	u64 cookie;

	if (!conn) {
		see_visit(skb);
		if (skb->ifindex != LOOPBACK_IFINDEX && !may_leave(skb))
			return is_reset(skb);
		announce_leaving(skb);
		return PASS;
	}
	if (carries_unjudged(skb, conn))
		return DROP;
	if (!has_detours(conn))
		return is_allowed(skb, conn) || is_reset(skb);
	cookie = conn->cookie;
	flow = bpf_map_lookup_elem(&flows, &cookie);
	/* what waits in the send queue is for the proxy: it goes there or nowhere */
	if (conn->direct)
		return skb->ifindex == LOOPBACK_IFINDEX && (!flow || flow->way == WAY_DIRECT);
	return flow && flow->way == WAY_HELD ? DROP : PASS;
}

/* Whether a packet carries bytes, or an end. */
static __always_inline bool says_something(struct __sk_buff *skb)
{
	struct segment s = {};

	return read_segment(skb, &s) && (s.flags & FIN_OR_RST || has_bytes(skb, &s));
}

/* Whether the client waits for an answer by detour, and for nothing else. */
static __always_inline bool waits_for_proxy(struct conn *conn)
{
	if (conn->framing.phase == PHASE_STICKY)
		return true;
	/* where native answers are not followed, one may still be coming */
	return detour_outstanding(conn) && (conn->followed || !conn->native);
}

/* Notes what a packet says of the answer to the request under way. */
static __always_inline void see_answer(struct __sk_buff *skb, struct conn *conn)
{
	struct asking *a = &conn->asking;
	struct segment s = {};

	if (!read_segment(skb, &s) || !has_bytes(skb, &s))
		return;
	read_answer(skb, &s, &a->status, &a->answer);
	a->answered = bpf_ktime_get_ns();
}

SEC("cgroup_skb/ingress")
int packet_in(struct __sk_buff *skb)
{
	struct conn *conn = conn_of(skb);
	struct settings *set;
	struct flow *flow;
	u64 cookie;
	u32 zero = 0;

	if (!conn || conn->side == SIDE_SERVER)
		return may_enter(skb);
	if (conn->protocol == PROTOCOL_HTTP && conn->asking.open)
		see_answer(skb, conn);
	if (!has_detours(conn))
		return is_allowed(skb, conn);
	cookie = conn->cookie;
	flow = bpf_map_lookup_elem(&flows, &cookie);
	if (!flow)
		return !conn->direct || skb->ifindex == LOOPBACK_IFINDEX;
	if (flow->way != WAY_BUS)
		return flow->way == WAY_DIRECT && skb->ifindex == LOOPBACK_IFINDEX;
	if (!waits_for_proxy(conn) || !says_something(skb))
		return PASS;
	set = bpf_map_lookup_elem(&settings, &zero);
	return set && set->buses && hold(flow, cookie) ? DROP : PASS;
}
