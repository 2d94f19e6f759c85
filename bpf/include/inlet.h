/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * Who comes in: policies are asked at the receiver too, for peers that no agent of ours has judged.
 *
 * A client in the mesh on this host, or the proxy, announces its connection before the first segment
 * leaves; such a connection is judged at its client's end, request by request if it is HTTP. On other
 * nodes agents do the same: their workloads are let in unless no request of theirs could be allowed, and
 * their own addresses, from which they forward, always. Whoever else comes is judged by the address:
 * request by request where HTTP is spoken (visit.h), as a connection otherwise.
 */
#ifndef BEEWAY_INLET_H
#define BEEWAY_INLET_H

#include "access.h"
#include "pairs.h"

#define SYN 2
#define ACK 16
#define TCP_BYTES 20
#define IPPROTO_ICMP 1
#define IPPROTO_ICMPV6 58

/* A packet of TCP or UDP, as far as policies look at it. */
struct arrival {
	struct address from;
	struct address to;
	u32 transport;
	u32 flags;		/* of TCP */
	u32 seq;
};

static __always_inline struct pair_key announcement(const struct arrival *a)
{
	return pair_key_of(&a->from, &a->to, a->seq, 0);
}

/* The connecting end is about to send its first segment. */
static __always_inline void announce_call(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct tcp_sock *tcp = sk ? bpf_skc_to_tcp_sock(sk) : NULL;
	struct arrival a = {};
	struct pair_key key;
	u8 judged = 1;

	if (!tcp)
		return;
	get_ends(ctx, &a.from, &a.to);
	a.seq = tcp->write_seq;
	key = announcement(&a);
	if (bpf_map_update_elem(&announced, &key, &judged, BPF_ANY))
		add(COUNT_FULL, 1);
}

static __always_inline bool was_announced(const struct arrival *a)
{
	struct pair_key key = announcement(a);

	return bpf_map_lookup_elem(&announced, &key);
}

/* Reads the headers; false when they are not plain. The packet begins with that of IP. */
static __always_inline bool read_arrival(struct __sk_buff *skb, struct arrival *a)
{
	u8 ip[40] = {}, tcp[TCP_BYTES] = {};
	u32 at;

	if (bpf_skb_load_bytes(skb, 0, ip, 20))
		return false;
	if (ip[0] >> 4 == 4) {
		at = (ip[0] & 15) * 4;
		a->transport = ip[9];
		map_ip4(a->from.ip, *(u32 *)&ip[12]);
		map_ip4(a->to.ip, *(u32 *)&ip[16]);
		a->from.family = a->to.family = 4;
	} else {
		if (bpf_skb_load_bytes(skb, 0, ip, 40))
			return false;
		at = 40;
		a->transport = ip[6];
		copy_ip(a->from.ip, &ip[8]);
		copy_ip(a->to.ip, &ip[24]);
		a->from.family = a->to.family = 6;
	}
	if (a->transport != IPPROTO_TCP && a->transport != IPPROTO_UDP)
		return false;
	if (bpf_skb_load_bytes(skb, at, tcp, 8))
		return false;
	a->from.port = tcp[0] << 8 | tcp[1];
	a->to.port = tcp[2] << 8 | tcp[3];
	if (a->transport == IPPROTO_UDP)
		return true;
	if (bpf_skb_load_bytes(skb, at, tcp, TCP_BYTES))
		return false;
	a->seq = (u32)tcp[4] << 24 | tcp[5] << 16 | tcp[6] << 8 | tcp[7];
	a->flags = tcp[13];
	return true;
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

	if (there && AT(g, workload, caller)->number == IDENTITY_REMOTE_NODE)
		return true;
	s = claim_scratch();
	if (!s)
		return false;
	v = &s->verdict;
	__builtin_memset(v, 0, sizeof(*v));
	v->source = v->caller = a->from;
	v->endpoint = a->to;
	v->transport = a->transport;
	pass = judge_connection(g, s, v, there || by_request ? ASK_CARRIER : ASK_CONNECTION) ==
	       ACCESS_PASS;
	release_scratch(s);
	return pass;
}

/* Whether the workload that a packet is for asks who calls. Limits of the rate alone ask nobody. */
static __always_inline bool is_guarded(struct generation *g, const struct arrival *a)
{
	u32 called = find_workload(g, &a->to);
	u32 at = called ? AT(g, workload, called)->guard : 0;
	struct guard *guard = AT(g, guard, at);

	return at && (guard->network || guard->connections || guard->carriers || guard->requests);
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

/* Lets on_receive() judge the requests of who came in, if policies ask about them and nobody else
 * does. False: the connection is judged as a whole. */
static __always_inline bool begin_visit(struct bpf_sock_ops *ctx, const struct arrival *a)
{
	struct generation *g = current_generation();
	u64 cookie = bpf_get_socket_cookie(ctx);
	struct visit visit = {};

	if (!g || !g->guarded || !guards_inlets())
		return false;
	if (!is_guarded(g, a) || !is_judged_by_request(g, &a->to))
		return false;
	if (is_judged_there(g, find_workload(g, &a->from)))
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

/* An accepted socket is closed. */
static __always_inline void forget_inlet(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct inlet *inlet = bpf_sk_storage_get(&inlets, sk, 0, 0);
	u64 cookie = bpf_get_socket_cookie(ctx);

	if (inlet && inlet->visit)
		bpf_map_delete_elem(&visits, &cookie);
}

/* Tells the agent of what policies forbid on a live connection. False when it was not told. */
static __always_inline bool
tell_of_policy(const struct tcp_sock *tcp, enum event_kind kind, const struct address *local,
	       const struct address *remote, const struct address *caller)
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
	bpf_ringbuf_submit(event, 0);
	return true;
}

/* Whether a packet may come in. */
static __always_inline bool may_enter(struct __sk_buff *skb)
{
	struct generation *g = current_generation();
	struct bpf_sock *sk = skb->sk;
	struct inlet *inlet;
	struct arrival a = {};
	bool opens, pass, by_request;

	if (!g || !g->guarded || !sk || !guards_inlets())
		return true;
	inlet = bpf_sk_storage_get(&inlets, sk, 0, 0);
	/* judged at its client's end, or here by the policies of now */
	if (inlet && (inlet->judged || inlet->generation == g->number) &&
	    (!inlet->denied || inlet->told))
		return !inlet->denied;
	/* something before the header of TCP or UDP hides it: closed, where anybody asks */
	if (!read_arrival(skb, &a))
		return a.transport == IPPROTO_ICMP || a.transport == IPPROTO_ICMPV6 ||
		       !is_guarded(g, &a);
	opens = a.transport == IPPROTO_TCP && (a.flags & (SYN | ACK)) == SYN;
	/* a segment of a connection that was not accepted here */
	if (!inlet && !opens && a.transport == IPPROTO_TCP)
		return true;
	if (opens && was_announced(&a))
		return true;
	by_request = inlet ? inlet->visit : opens && is_judged_by_request(g, &a.to);
	pass = !is_guarded(g, &a) || admits(g, &a, by_request);
	if (!pass)
		add(COUNT_DENIED, 1);
	if (inlet) {
		inlet->generation = g->number;
		inlet->denied = !pass;
		if (!pass && !inlet->told)
			inlet->told = tell_of_policy(bpf_skc_to_tcp_sock(sk), EVENT_CAME, &a.to,
						     &a.from, &a.from);
	}
	return pass;
}

#endif
