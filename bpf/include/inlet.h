/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * Who comes in: policies are asked at the receiver too, for peers that no agent of ours has judged.
 *
 * A client in the mesh on this host, or the proxy, announces its connection before the first segment
 * leaves; such a connection is judged at its client's end, request by request if it is HTTP. On other
 * nodes agents do the same: their workloads are let in unless no request of theirs could be allowed, and
 * their own addresses, from which they forward, always. Whoever else comes is judged by the address:
 * request by request where HTTP is spoken (visit.h), as a connection otherwise.
 *
 * What has no record at its client's end (from before the agent, or made to who was in nobody's tables, or
 * over several paths) is judged by its packets, at whichever end in the mesh sees one first, and again
 * after each change.
 */
#ifndef BEEWAY_INLET_H
#define BEEWAY_INLET_H

#include "arrival.h"

/* A connection is made that is no client's of ours: for when packets of it are judged. */
static __always_inline void note_outlet(struct bpf_sock *sk)
{
	struct generation *g = current_generation();
	struct inlet *inlet;

	if (!g || !g->guarded)
		return;
	inlet = bpf_sk_storage_get(&inlets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!inlet) {
		add(COUNT_FULL, 1);
		return;
	}
	/* the socket may have had another connection */
	__builtin_memset(inlet, 0, sizeof(*inlet));
	inlet->outgoing = 1;
}

/* Which policies besides those on workloads are about an endpoint: enum guarded. Not inlined, for the sake of
 * the stack. */
static __noinline u32 guarded_by(struct generation *g, const struct arrival *a)
{
	struct frontend *f = find_frontend(g, a->to.ip, a->to.port, a->transport);

	return f ? f->guarded : GUARDED_NOT;
}

/* Whether a workload is on another node, where an agent judges what it asks. */
static __always_inline bool is_judged_there(struct generation *g, u32 caller)
{
	struct workload *w = AT(g, workload, caller);

	return caller && (w->remote || w->number == IDENTITY_REMOTE_NODE);
}

/* What policies say of who comes in, by the address. What is not known is not let in. */
static __always_inline bool
admits(struct generation *g, const struct arrival *a, bool by_request)
{
	u32 caller = find_workload(g, &a->from);
	bool there = is_judged_there(g, caller), pass;
	struct scratch *s;
	struct verdict *v;
	u32 asked, by;

	if (there && AT(g, workload, caller)->number == IDENTITY_REMOTE_NODE)
		return true;
	by = guarded_by(g, a);
	/* the proxy asks them, of whom it is told */
	if (!there && by == GUARDED_BROKERS)
		return false;
	s = claim_scratch();
	if (!s)
		return false;
	v = &s->verdict;
	__builtin_memset(v, 0, sizeof(*v));
	v->source = v->caller = a->from;
	v->endpoint = a->to;
	v->transport = a->transport;
	asked = there || by_request ? ASK_CARRIER : ASK_CONNECTION;
	/* who was asked at his end knows which service is meant; if all have the same policies, so do we */
	if (there ? by == GUARDED_BY_EACH : a->transport != IPPROTO_UDP || !was_announced_lately(a))
		asked |= ASK_STRAIGHT;
	pass = judge_connection(g, s, v, asked) == ACCESS_PASS;
	release_scratch(s);
	return pass;
}

/* Whether the workload that a packet is for asks who calls. Limits of the rate alone ask nobody. */
static __always_inline bool is_guarded(struct generation *g, const struct arrival *a)
{
	u32 at = guard_at(g, &a->to, a->transport);
	struct guard *guard = AT(g, guard, at);

	return (at && (guard->network || guard->connections || guard->carriers || guard->requests)) ||
	       guarded_by(g, a) == GUARDED_BROKERS;
}

/* The same where something before the header of TCP or UDP hides it, and the ports: what the socket says. */
static __always_inline bool is_guarded_at(struct generation *g, struct arrival *a, u32 port)
{
	a->to.port = port;
	a->transport = IPPROTO_TCP;
	if (is_guarded(g, a))
		return true;
	a->transport = IPPROTO_UDP;
	return is_guarded(g, a);
}

/* Whether it matters what requests to an endpoint are: policies or limits are about them. */
static __always_inline bool asks_requests(struct generation *g, const struct address *to)
{
	u32 at = guard_at(g, to, IPPROTO_TCP);
	struct guard *guard = AT(g, guard, at);

	return at && (guard->requests || guard->limits);
}

/* Where the proxy cannot announce its own connections, nobody's are looked for. */
static __always_inline bool guards_inlets(void)
{
	u32 zero = 0;
	struct settings *set = bpf_map_lookup_elem(&settings, &zero);

	return set && set->inlets;
}

/* Whether requests to a port are judged one by one. */
static __always_inline bool is_judged_by_request(struct generation *g, const struct address *to)
{
	struct frontend *f = find_frontend(g, to->ip, to->port, IPPROTO_TCP);

	return f && f->protocol == PROTOCOL_HTTP;
}

/* Whether requests of who comes in are to be judged here: policies or limits are about who is called,
 * and nobody else judges them. */
static __always_inline bool is_to_visit(struct generation *g, const struct arrival *a)
{
	return (is_guarded(g, a) || asks_requests(g, &a->to)) && is_judged_by_request(g, &a->to) &&
	       !is_judged_there(g, find_workload(g, &a->from));
}

/*
 * Whether bytes that come with a handshake may pass. Requests are not judged before the connection stands,
 * and if it cannot be judged by request then, these would be through: they have to come again. Not inlined,
 * for the sake of the stack.
 */
static __noinline int may_come_early(struct generation *g, struct arrival *a)
{
	/* the handshake began a number before the bytes */
	if (!(a->flags & SYN))
		a->seq--;
	return !a->bytes || !is_to_visit(g, a) || was_announced(a);
}

/* Lets on_receive() judge the requests of who came in. False: the connection is judged as a whole. */
static __always_inline bool begin_visit(struct bpf_sock_ops *ctx, const struct arrival *a)
{
	struct generation *g = current_generation();
	u64 cookie = bpf_get_socket_cookie(ctx);
	struct visit visit = {};

	if (!g || !g->guarded || !guards_inlets())
		return false;
	if (!is_to_visit(g, a))
		return false;
	visit.caller = a->from;
	visit.called = a->to;
	if (bpf_map_update_elem(&visits, &cookie, &visit, BPF_ANY)) {
		add(COUNT_FULL, 1);
		return false;
	}
	if (enrol(ctx, cookie))
		return true;
	bpf_map_delete_elem(&visits, &cookie);
	return false;
}

/* A connection was accepted: what is known of it, for when policies change. */
static __always_inline void note_inlet(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct arrival a = {};
	struct inlet *inlet;

	if (!sk)
		return;
	inlet = bpf_sk_storage_get(&inlets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!inlet) {
		add(COUNT_FULL, 1);
		return;
	}
	get_ends(ctx, &a.to, &a.from);
	a.seq = ctx->rcv_nxt - 1;
	inlet->judged = was_announced(&a);
	if (!inlet->judged)
		inlet->visit = begin_visit(ctx, &a);
}

/* Tells the agent of what policies forbid on a live connection. False when it was not told. */
static __always_inline bool
tell_of_policy(const struct tcp_sock *tcp, enum event_kind kind, const struct address *local,
	       const struct address *remote, const struct address *caller, u64 bucket)
{
	struct event *event;

	/* whoever comes in must not be able to fill it with this */
	if (!tcp || bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) > CLOSED_QUEUE / 2)
		return false;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		add(COUNT_EVENTS_LOST, 1);
		return false;
	}
	event->kind = kind;
	event->namespace = tcp->inet_conn.icsk_inet.sk.__sk_common.skc_net.net->ns.inum;
	event->cookie = cookie_of(tcp);
	event->local = *local;
	event->remote = *remote;
	event->caller = *caller;
	event->pad = 0;
	event->bucket = bucket;
	bpf_ringbuf_submit(event, 0);
	return true;
}

/* Whether somebody listens at the local end of a connection. */
static __always_inline bool is_listened_to(struct __sk_buff *skb, const struct address *local)
{
	const u32 *word = (const u32 *)local->ip;
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;
	u32 size;
	bool found;

	if (local->family == 4) {
		size = sizeof(tuple.ipv4);
		tuple.ipv4.daddr = word[3];
		tuple.ipv4.dport = bpf_htons(local->port);
	} else {
		size = sizeof(tuple.ipv6);
		copy_ip((u8 *)tuple.ipv6.daddr, local->ip);
		tuple.ipv6.dport = bpf_htons(local->port);
	}
	sk = bpf_sk_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return false;
	found = sk->state == STATE_LISTEN;
	bpf_sk_release(sk);
	return found;
}

/* Who has a socket: by the cgroup that it was made in, by its network namespace, or by its address. */
static __always_inline void find_owner(struct __sk_buff *skb, struct bpf_sock *sk,
				       const struct address *own, struct address *caller)
{
	struct home key = { .kind = HOME_CGROUP };
	u64 packet = (u64)bpf_cast_to_kern_ctx(skb);
	struct address *known = NULL;
	u32 level;

	bpf_for(level, 1, CGROUP_DEPTH) {
		struct address *inner;

		key.id = bpf_sk_ancestor_cgroup_id(sk, level);
		if (!key.id)
			break;
		inner = bpf_map_lookup_elem(&homes, &key);
		if (inner)
			known = inner;
	}
	if (!known)
		known = find_by_namespace(
			KERNEL_AT(sk_buff, packet)->sk->__sk_common.skc_net.net->net_cookie);
	if (known)
		*caller = *known;
	else
		name_by_address(caller, own);
}

/* Whether a datagram is for a service that no policy names. Not inlined, for the sake of the stack. */
static __noinline int is_for_nameless(struct generation *g, struct __sk_buff *skb, const struct arrival *a)
{
	struct frontend *f = NULL;
	struct datagram_key key;
	struct address *meant;

	if (a->transport != IPPROTO_UDP)
		return false;
	key = datagram_key_of(bpf_get_socket_cookie(skb), a->to.ip, a->to.port);
	meant = bpf_map_lookup_elem(&datagrams, &key);
	if (meant && meant->family)
		f = find_frontend(g, meant->ip, meant->port, IPPROTO_UDP);
	return f && !f->guarded;
}

/* What policies say of who calls from here, by the socket. */
static __always_inline bool
releases(struct generation *g, struct __sk_buff *skb, struct bpf_sock *sk, const struct arrival *a)
{
	u32 asked = is_for_nameless(g, skb, a) ? ASK_CONNECTION : ASK_CONNECTION | ASK_STRAIGHT;
	struct scratch *s = claim_scratch();
	struct verdict *v;
	bool pass;

	if (!s)
		return false;
	v = &s->verdict;
	__builtin_memset(v, 0, sizeof(*v));
	v->source = a->from;
	find_owner(skb, sk, &a->from, &v->caller);
	v->endpoint = a->to;
	v->transport = a->transport;
	pass = judge_connection(g, s, v, asked) == ACCESS_PASS;
	release_scratch(s);
	return pass;
}

/*
 * A connection of which nothing is known: from before the agent, or from before the policies and to
 * who was in nobody's tables. If somebody listens on its port it was accepted.
 */
static __always_inline struct inlet *
meet(struct __sk_buff *skb, struct bpf_sock *sk, const struct address *local)
{
	struct inlet *inlet = bpf_sk_storage_get(&inlets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

	if (inlet)
		inlet->outgoing = !is_listened_to(skb, local);
	else
		add(COUNT_FULL, 1);
	return inlet;
}

/* Keeps what was found out about a connection, counts a denial once, and tells the agent of it. */
static __always_inline bool conclude(struct generation *g, struct __sk_buff *skb,
				     struct inlet *inlet, const struct arrival *a, bool pass)
{
	struct bpf_sock *sk = skb->sk;

	if (!pass && !(inlet && inlet->denied))
		add(COUNT_DENIED, 1);
	if (!inlet)
		return pass;
	inlet->generation = g->number;
	inlet->denied = !pass;
	if (pass || inlet->told || !sk)
		return pass;
	inlet->told = inlet->outgoing ?
		      tell_of_policy(bpf_skc_to_tcp_sock(sk), EVENT_LEFT, &a->from, &a->to, &a->from, 0) :
		      tell_of_policy(bpf_skc_to_tcp_sock(sk), EVENT_CAME, &a->to, &a->from, &a->from, 0);
	return pass;
}

/* Whether it is known that a connection passes by the policies of now: it is judged at its client's
 * end, or it was here; and whoever has to know does. */
static __always_inline bool is_settled(struct generation *g, const struct inlet *inlet)
{
	return inlet && (inlet->judged || inlet->generation == g->number) &&
	       (!inlet->denied || inlet->told);
}

/* Whether a datagram comes from whom its socket has sent to first. */
static __always_inline bool is_answer(struct __sk_buff *skb, struct bpf_sock *sk, const struct arrival *a)
{
	struct datagram_key key;
	struct address *known;

	if (sk->state == STATE_ESTABLISHED)
		return true;
	key = datagram_key_of(bpf_get_socket_cookie(skb), a->from.ip, a->from.port);
	known = bpf_map_lookup_elem(&datagrams, &key);
	return known && known->family;
}

/* A datagram was let in: what its socket sends there is an answer. */
static __always_inline void note_caller(struct __sk_buff *skb, const struct arrival *a)
{
	struct datagram_key key = datagram_key_of(bpf_get_socket_cookie(skb), a->from.ip, a->from.port);
	struct address caller = a->from;

	caller.family = 0;
	if (!bpf_map_lookup_elem(&datagrams, &key) &&
	    bpf_map_update_elem(&datagrams, &key, &caller, BPF_ANY))
		add(COUNT_FULL, 1);
}

/* Whether a datagram may come in. */
static __always_inline bool admits_datagram(struct generation *g, struct __sk_buff *skb,
					    struct bpf_sock *sk, const struct arrival *a)
{
	bool guarded = is_guarded(g, a);

	if (guarded) {
		if (is_answer(skb, sk, a))
			return true;
		if (!conclude(g, skb, NULL, a, admits(g, a, false)))
			return false;
	}
	/* or the answer would be judged as a call to him, or as one of a workload that may not call */
	if (guarded || guard_at(g, &a->from, IPPROTO_UDP) || leave_of(g, &a->to))
		note_caller(skb, a);
	return true;
}

/* Whether a packet may come in. */
static __always_inline bool may_enter(struct __sk_buff *skb)
{
	struct generation *g = current_generation();
	struct bpf_sock *sk = skb->sk;
	struct inlet *inlet;
	struct arrival a = {};
	bool opens, by_request;

	if (!g || !g->guarded || !sk || !guards_inlets())
		return true;
	inlet = bpf_sk_storage_get(&inlets, sk, 0, 0);
	if (is_settled(g, inlet))
		return !inlet->denied;
	if (!read_arrival(skb, &a))
		return a.transport == IPPROTO_ICMP || a.transport == IPPROTO_ICMPV6 ||
		       !is_guarded_at(g, &a, sk->src_port);
	opens = a.transport == IPPROTO_TCP && (a.flags & (SYN | ACK)) == SYN;
	if (opens && was_announced(&a))
		return true;
	if (!inlet && !opens && a.transport == IPPROTO_TCP) {
		/* the end of a handshake that was let begin */
		if (sk->state == STATE_LISTEN)
			return may_come_early(g, &a);
		if (sk->state == STATE_SYN_SENT)
			return true;
		inlet = meet(skb, sk, &a.to);
		if (!inlet)
			return !is_guarded(g, &a);
	}
	/* who made it is judged when he sends */
	if (inlet && inlet->outgoing)
		return !inlet->denied;
	if (a.transport == IPPROTO_UDP)
		return admits_datagram(g, skb, sk, &a);
	if (opens && !may_come_early(g, &a))
		return false;
	by_request = inlet ? inlet->visit : opens && is_judged_by_request(g, &a.to);
	return conclude(g, skb, inlet, &a, !is_guarded(g, &a) || admits(g, &a, by_request));
}

/* Whether what a socket sends is judged before it leaves: answers to who begins a connection, and
 * datagrams, with where they are sent to; but a socket may be connected since before the policies. */
static __always_inline bool is_judged_elsewhere(const struct bpf_sock *sk)
{
	if (sk->protocol == IPPROTO_UDP)
		return sk->state != STATE_ESTABLISHED;
	return sk->state == STATE_LISTEN;
}

/* Whether a socket is one of TCP or UDP, whose packets have one peer each, or are seen by connect(). */
static __always_inline bool is_plain(const struct bpf_sock *sk)
{
	return (sk->type == SOCK_STREAM && sk->protocol == IPPROTO_TCP) ||
	       (sk->type == SOCK_DGRAM && sk->protocol == IPPROTO_UDP);
}

/* Asks the policies about a packet by itself: it was made by hand, or is of a protocol for which nothing
 * else is asked (SCTP). Where it has no ports that are known, they are 0. */
static __always_inline bool
releases_packet(struct generation *g, struct __sk_buff *skb, struct bpf_sock *sk)
{
	struct arrival a = {};

	read_arrival(skb, &a);
	return a.transport == IPPROTO_ICMP || a.transport == IPPROTO_ICMPV6 ||
	       conclude(g, skb, NULL, &a, releases(g, skb, sk, &a));
}

/* Whether a packet of a connection that is no client's of ours may leave. */
static __always_inline bool may_leave(struct __sk_buff *skb)
{
	struct generation *g = current_generation();
	struct bpf_sock *sk = skb->sk;
	struct inlet *inlet = NULL;
	struct arrival a = {};
	struct address from;

	if (!g || !g->guarded || !sk)
		return true;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return true;
	if (!is_plain(sk))
		return releases_packet(g, skb, sk);
	if (is_judged_elsewhere(sk))
		return true;
	inlet = bpf_sk_storage_get(&inlets, sk, 0, 0);
	if (is_settled(g, inlet))
		return !inlet->denied;
	if (!read_arrival(skb, &a))
		return !is_guarded_at(g, &a, bpf_ntohs(sk->dst_port));
	if (!inlet && a.transport == IPPROTO_TCP) {
		inlet = meet(skb, sk, &a.from);
		if (!inlet)
			return !is_guarded(g, &a);
	}
	if (!inlet || inlet->outgoing)
		return conclude(g, skb, inlet, &a, releases(g, skb, sk, &a));
	if (!guards_inlets())
		return true;
	from = a.to;
	a.to = a.from;
	a.from = from;
	return conclude(g, skb, inlet, &a, !is_guarded(g, &a) || admits(g, &a, inlet->visit));
}

#endif
