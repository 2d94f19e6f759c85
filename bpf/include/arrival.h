/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* What can be read of a packet, and how who sends one in the mesh announces it to who receives it. */
#ifndef BEEWAY_ARRIVAL_H
#define BEEWAY_ARRIVAL_H

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
	u32 bytes;		/* of TCP: there are some */
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

/* The same of datagrams, which holds for this tick and the next. */
static __always_inline struct pair_key announcement_at(const struct arrival *a, u32 tick)
{
	return pair_key_of(&a->from, &a->to, tick, IPPROTO_UDP);
}

/* Ticks of 1.07 s. */
static __always_inline u32 tick_of_now(void)
{
	return bpf_ktime_get_ns() >> 30;
}

static __always_inline bool was_announced_lately(const struct arrival *a)
{
	u32 now = tick_of_now();
	struct pair_key key = announcement_at(a, now);

	if (bpf_map_lookup_elem(&announced, &key))
		return true;
	key.client_seq = now - 1;
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
	a->bytes = skb->len > at + (tcp[12] >> 4) * 4;
	return true;
}

/*
 * A datagram of a client in the mesh leaves, who was asked at his end for which service it is: the receiver
 * cannot know that, where policies name any. Not inlined, for the sake of the stack.
 */
static __noinline int announce_datagram(struct __sk_buff *skb, struct generation *g)
{
	struct arrival a = {};
	struct pair_key key;
	struct frontend *f;
	u8 judged = 1;

	if (!read_arrival(skb, &a) || a.transport != IPPROTO_UDP)
		return 0;
	f = find_frontend(g, a.to.ip, a.to.port, IPPROTO_UDP);
	if (!f || !f->guard)
		return 0;
	key = announcement_at(&a, tick_of_now());
	if (!bpf_map_lookup_elem(&announced, &key) && bpf_map_update_elem(&announced, &key, &judged, BPF_ANY))
		add(COUNT_FULL, 1);
	return 0;
}

/* The same for a packet, whatever it is. */
static __always_inline void announce_leaving(struct __sk_buff *skb)
{
	struct generation *g = current_generation();
	struct bpf_sock *sk = skb->sk;

	if (!g || !(g->guarded & GUARDS_STRAIGHT) || !sk)
		return;
	sk = bpf_sk_fullsock(sk);
	if (sk && sk->protocol == IPPROTO_UDP && sk->type == SOCK_DGRAM)
		announce_datagram(skb, g);
}

#endif
