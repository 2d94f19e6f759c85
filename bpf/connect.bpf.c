// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/*
 * Speculate at connect(): a service address becomes the address of the endpoint that requests to
 * this service most likely want. The application keeps seeing the address that it asked for.
 * Datagrams are balanced the same way, one endpoint for each socket.
 *
 * Where a connection can be judged neither here nor request by request (HTTP/2, rules that look
 * into TLS), the endpoint is a socket of the userspace proxy on this host.
 *
 * What is not a service address passes untouched. A service without endpoints refuses; so does one
 * that needs the proxy when that is away.
 *
 * Policies on connections are asked here. One that is denied is refused as if nobody listened
 * (ECONNREFUSED), which every client understands; what cannot be known yet is led to the proxy, if it
 * is not HTTP, whose requests are judged one by one.
 */
#include "traffic.h"
#include "access.h"

#define PASS 1
#define REFUSE 0

static __always_inline void put_address(struct bpf_sock_addr *ctx, const void *ip, u32 port, bool v6)
{
	const u32 *word = ip;

	/* the verifier takes no pointer into the context that was computed before */
	barrier_var(ctx);
	if (v6) {
		ctx->user_ip6[0] = word[0];
		ctx->user_ip6[1] = word[1];
		ctx->user_ip6[2] = word[2];
		ctx->user_ip6[3] = word[3];
	} else {
		ctx->user_ip4 = word[3];
	}
	ctx->user_port = bpf_htons(port);
}

static __always_inline void get_address(struct bpf_sock_addr *ctx, struct address *a, bool v6)
{
	u32 *word = (u32 *)a->ip;

	if (v6) {
		word[0] = ctx->user_ip6[0];
		word[1] = ctx->user_ip6[1];
		word[2] = ctx->user_ip6[2];
		word[3] = ctx->user_ip6[3];
	} else {
		map_ip4(a->ip, ctx->user_ip4);
	}
	a->port = bpf_ntohs(ctx->user_port);
	a->family = v6 ? 6 : 4;
}

/* Who connects, by where it runs: a process can bind a foreign address, but not leave its cgroup
 * without being root of the host. Nothing when that is not known. */
static __always_inline void find_caller(struct bpf_sock_addr *ctx, struct address *caller)
{
	struct home key = { .id = bpf_get_current_cgroup_id(), .kind = HOME_CGROUP };
	struct address *known = bpf_map_lookup_elem(&homes, &key);
	u32 level;

	if (known)
		goto found;
	bpf_for(level, 1, CGROUP_DEPTH) {
		struct address *outer;

		key.id = bpf_get_current_ancestor_cgroup_id(level);
		if (!key.id)
			break;
		outer = bpf_map_lookup_elem(&homes, &key);
		if (outer)
			known = outer;
	}
	if (known)
		goto found;
	known = find_by_namespace(bpf_get_netns_cookie(ctx));
	if (!known)
		return;
found:
	*caller = *known;
}

/* The address that a socket is bound to; family 0: to none yet. */
static __always_inline void get_source(struct bpf_sock_addr *ctx, struct address *a)
{
	struct bpf_sock *sk = ctx->sk;
	u32 ip, *word = (u32 *)a->ip;

	if (!sk)
		return;
	if (sk->family == AF_INET) {
		map_ip4(a->ip, OWN(sk->src_ip4));
		a->family = word[3] ? 4 : 0;
		return;
	}
	word[0] = OWN(sk->src_ip6[0]);
	word[1] = OWN(sk->src_ip6[1]);
	word[2] = OWN(sk->src_ip6[2]);
	word[3] = OWN(sk->src_ip6[3]);
	a->family = word[0] || word[1] || word[2] || word[3] ? 6 : 0;
}

/* Whether policies let a connection, or a datagram, pass to an endpoint. */
static __always_inline enum access
judge_call(struct bpf_sock_addr *ctx, struct generation *g, const struct address *caller,
	   const struct address *endpoint, u32 transport, enum asked asked)
{
	struct scratch *s = claim_scratch();
	enum access access;
	struct verdict *v;

	if (!s)
		return ACCESS_UNSURE;
	v = &s->verdict;
	__builtin_memset(v, 0, sizeof(*v));
	v->endpoint = *endpoint;
	v->endpoint.family = is_ip4(endpoint->ip) ? 4 : 6;
	v->transport = transport;
	get_source(ctx, &v->source);
	/* one that is known by where it runs has the address that is known of it */
	v->caller = *caller;
	if (!caller->family)
		name_by_address(&v->caller, &v->source);
	else if (!v->source.family && is_ip4(v->caller.ip) == is_ip4(endpoint->ip) &&
		 !is_made_up(v->caller.ip) && !is_nobody(v->caller.ip))
		v->source = v->caller;
	access = judge_connection(g, s, v, asked);
	release_scratch(s);
	return access;
}

/* Whether a send() connects, which TCP would let go on before any program has seen its bytes. */
static __always_inline bool sends_at_once(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct tcp_sock *tcp = sk ? bpf_skc_to_tcp_sock(sk) : NULL;

	return tcp && tcp->fastopen_req;
}

/* Whether a connection may use several paths. What is sent by it goes by no program of ours. */
static __always_inline bool is_multipath(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct tcp_sock *tcp = sk ? bpf_skc_to_tcp_sock(sk) : NULL;

	return tcp && bpf_core_field_exists(tcp->is_mptcp) && tcp->is_mptcp;
}

static __always_inline int refuse(u32 counter)
{
	add(counter, 1);
	bpf_set_retval(-ECONNREFUSED);
	return REFUSE;
}

/* What cannot be known here is denied: no proxy carries datagrams. */
static __always_inline bool
denies_datagram(struct bpf_sock_addr *ctx, struct generation *g, const struct address *to)
{
	struct address caller = {};

	if (!g->guarded)
		return false;
	find_caller(ctx, &caller);
	return judge_call(ctx, g, &caller, to, IPPROTO_UDP, ASK_CONNECTION) != ACCESS_PASS;
}

/* So that an answer from `endpoint` is seen as one from `service`. */
static __always_inline void
remember_datagram(u64 cookie, const struct endpoint *endpoint, const struct address *service)
{
	struct datagram_key key = datagram_key_of(cookie, endpoint->ip, endpoint->port);

	if (bpf_map_update_elem(&datagrams, &key, service, BPF_ANY))
		add(COUNT_FULL, 1);
	add(COUNT_DATAGRAM, 1);
}

/* A datagram to who is no service; `known`: it is in `datagrams`. What comes back is let in for this. */
static __always_inline int send_elsewhere(struct bpf_sock_addr *ctx, struct generation *g,
					  const struct address *to, bool known)
{
	struct datagram_key key;

	if (!g || !g->guarded)
		return PASS;
	if (denies_datagram(ctx, g, to))
		return refuse(COUNT_DENIED);
	key = datagram_key_of(bpf_get_socket_cookie(ctx), to->ip, to->port);
	if (!known && bpf_map_update_elem(&datagrams, &key, to, BPF_ANY))
		add(COUNT_FULL, 1);
	return PASS;
}

static __always_inline int send_datagram(struct bpf_sock_addr *ctx, bool v6)
{
	struct generation *g = current_generation();
	struct address asked = {}, to = {};
	struct address *known = NULL;
	struct endpoint *endpoint;
	struct datagram_key key;
	struct frontend *f;
	u64 cookie;

	get_address(ctx, &asked, v6);
	if (g && g->guarded) {
		key = datagram_key_of(bpf_get_socket_cookie(ctx), asked.ip, asked.port);
		known = bpf_map_lookup_elem(&datagrams, &key);
	}
	/* an answer to what was let in is not judged */
	if (known && !known->family)
		return PASS;
	f = g ? find_frontend(g, asked.ip, asked.port, IPPROTO_UDP) : NULL;
	if (!f)
		return send_elsewhere(ctx, g, &asked, known);
	cookie = bpf_get_socket_cookie(ctx);
	/* the same socket keeps its endpoint: its cookie is the draw */
	endpoint = pick_endpoint(g, f->cluster, mix(cookie));
	if (!endpoint || (!v6 && !is_ip4(endpoint->ip)))
		return refuse(COUNT_CONNECT_REFUSED);
	copy_ip(to.ip, endpoint->ip);
	to.port = endpoint->port;
	if (f->guarded || denies_datagram(ctx, g, &to))
		return refuse(COUNT_DENIED);
	remember_datagram(cookie, endpoint, &asked);
	put_address(ctx, endpoint->ip, endpoint->port, v6);
	return PASS;
}

/* The address of a listener of the proxy; false when there is none. */
static __always_inline bool get_listener(u32 which, struct address *to)
{
	struct bpf_sock *sk = bpf_map_lookup_elem(&listeners, &which);
	u32 ip, *word = (u32 *)to->ip;

	if (!sk)
		return false;
	if (which == LISTENER_V4) {
		map_ip4(to->ip, OWN(sk->src_ip4));
	} else {
		word[0] = OWN(sk->src_ip6[0]);
		word[1] = OWN(sk->src_ip6[1]);
		word[2] = OWN(sk->src_ip6[2]);
		word[3] = OWN(sk->src_ip6[3]);
	}
	to->port = sk->src_port;
	bpf_sk_release(sk);
	return true;
}

/* An IPv6 socket reaches a listener of either family. */
static __always_inline bool find_proxy(const struct address *asked, bool v6, struct address *to)
{
	if (v6 && !is_ip4(asked->ip) && get_listener(LISTENER_V6, to))
		return true;
	return get_listener(LISTENER_V4, to);
}

/* Where a connection leads, and how. */
struct target {
	struct address caller;	/* family 0: not known by where it runs */
	struct address to;
	u32 protocol;
	u32 failed;		/* counter of why it leads nowhere */
};

static __always_inline void
lead_to_proxy(const struct address *asked, bool v6, struct target *t)
{
	t->protocol = PROTOCOL_PROXY;
	if (!find_proxy(asked, v6, &t->to))
		t->failed = COUNT_NO_LISTENER;
}

/* Asks the policies on connections to t->to. Requests are judged one by one later. */
static __always_inline void
judge_target(struct bpf_sock_addr *ctx, struct generation *g, const struct frontend *f,
	     const struct address *asked, bool v6, struct target *t)
{
	bool opaque = t->protocol == PROTOCOL_OPAQUE;
	enum access access = ACCESS_UNSURE;

	if (!f || !f->guarded)
		access = judge_call(ctx, g, &t->caller, &t->to, IPPROTO_TCP,
				    opaque ? ASK_CONNECTION : ASK_NETWORK);
	if (access == ACCESS_DENIED)
		t->failed = COUNT_DENIED;
	else if (access == ACCESS_UNSURE && opaque)
		lead_to_proxy(asked, v6, t);
}

static __always_inline void
find_target(struct bpf_sock_addr *ctx, struct generation *g, const struct frontend *f,
	    const struct address *asked, bool v6, struct target *t)
{
	struct endpoint *endpoint;

	t->protocol = f->protocol;
	if (f->protocol == PROTOCOL_PROXY)
		return lead_to_proxy(asked, v6, t);
	endpoint = pick_endpoint(g, f->cluster, bpf_get_prandom_u32());
	if (!endpoint || !endpoint->port || (!v6 && !is_ip4(endpoint->ip))) {
		t->failed = COUNT_CONNECT_REFUSED;
		return;
	}
	copy_ip(t->to.ip, endpoint->ip);
	t->to.port = endpoint->port;
}

/* Whether bytes over several paths may go to a service: nobody can judge them, or route them. */
static __always_inline bool may_be_multipath(const struct frontend *f, const struct target *t)
{
	return t->protocol != PROTOCOL_PROXY && (!f || (!f->table && !f->guarded));
}

static __always_inline int connect_stream(struct bpf_sock_addr *ctx, bool v6)
{
	struct generation *g = current_generation();
	struct address asked = {};
	struct target t = {};
	struct frontend *f;
	bool multipath = is_multipath(ctx), known;
	struct conn *conn;

	get_address(ctx, &asked, v6);
	f = g ? find_frontend(g, asked.ip, asked.port, IPPROTO_TCP) : NULL;
	known = f || (g && find_workload(g, &asked));
	if (known || (g && g->guarded))
		find_caller(ctx, &t.caller);
	if (f)
		find_target(ctx, g, f, &asked, v6, &t);
	else
		t.to = asked;
	if (multipath && t.protocol == PROTOCOL_HTTP)
		t.protocol = PROTOCOL_OPAQUE;
	if (g && g->guarded && !t.failed && t.protocol != PROTOCOL_PROXY)
		judge_target(ctx, g, f, &asked, v6, &t);
	if (multipath && !t.failed && !may_be_multipath(f, &t))
		t.failed = COUNT_MULTIPATH;
	if (t.failed == COUNT_DENIED)
		count_denied(&t.caller, &asked, &t.to);
	if (t.failed)
		return refuse(t.failed);
	/* as where there is no such way to connect: the client connects first, then */
	if (t.protocol == PROTOCOL_HTTP && sends_at_once(ctx)) {
		bpf_set_retval(-EOPNOTSUPP);
		return REFUSE;
	}
	/* nobody has a service of this address, and nobody will mind */
	if (!known && t.protocol == PROTOCOL_OPAQUE) {
		/* of a connection that the same socket had before */
		bpf_sk_storage_delete(&conns, ctx->sk);
		return PASS;
	}
	conn = bpf_sk_storage_get(&conns, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!conn)
		return refuse(COUNT_FULL);
	__builtin_memset(conn, 0, sizeof(*conn));
	conn->cookie = bpf_get_socket_cookie(ctx);
	conn->side = SIDE_CLIENT;
	conn->protocol = t.protocol;
	conn->service = asked;
	conn->endpoint = t.to;
	conn->endpoint.family = asked.family;
	conn->caller = t.caller;
	put_address(ctx, t.to.ip, t.to.port, v6);
	add(t.protocol == PROTOCOL_PROXY ? COUNT_ANCHORED : COUNT_CONNECT, 1);
	return PASS;
}

static __always_inline int on_connect(struct bpf_sock_addr *ctx, bool v6)
{
	if (ctx->type == SOCK_STREAM)
		return connect_stream(ctx, v6);
	if (ctx->type == SOCK_DGRAM)
		return send_datagram(ctx, v6);
	return PASS;
}

/* A connected datagram socket has no conn; its peer is found as for recvmsg(). */
static __always_inline int on_name(struct bpf_sock_addr *ctx, bool v6, bool peer)
{
	struct address from = {};
	struct datagram_key key;
	struct address *service;
	struct conn *conn;

	if (ctx->type == SOCK_STREAM) {
		conn = peer && ctx->sk ? bpf_sk_storage_get(&conns, ctx->sk, 0, 0) : NULL;
		if (conn && conn->side == SIDE_CLIENT)
			put_address(ctx, conn->service.ip, conn->service.port, v6);
		return PASS;
	}
	get_address(ctx, &from, v6);
	key = datagram_key_of(bpf_get_socket_cookie(ctx), from.ip, from.port);
	service = bpf_map_lookup_elem(&datagrams, &key);
	if (service)
		put_address(ctx, service->ip, service->port, v6);
	return PASS;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return on_connect(ctx, false);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return on_connect(ctx, true);
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return send_datagram(ctx, false);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	return send_datagram(ctx, true);
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	return on_name(ctx, false, false);
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	return on_name(ctx, true, false);
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	return on_name(ctx, false, true);
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	return on_name(ctx, true, true);
}
