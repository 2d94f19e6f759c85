/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* From a service address to an endpoint: look-ups in a generation, free of hook types. */
#ifndef BEEWAY_BALANCE_H
#define BEEWAY_BALANCE_H

#include "maps.h"

/* The record of type `type` at a heap index. Any index is safe: the heap has slack. */
#define AT(g, type, index) ((struct type *)&(g)->heap[(index) & (HEAP_WORDS - 1)])
#define WORDS_OF(type) ((u32)(sizeof(struct type) / 4))

static __always_inline bool same_ip(const void *a, const void *b)
{
	const u32 *x = a, *y = b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3];
}

static __always_inline void copy_ip(void *to, const void *from)
{
	const u32 *y = from;
	u32 *x = to;

	x[0] = y[0];
	x[1] = y[1];
	x[2] = y[2];
	x[3] = y[3];
}

/* By what a datagram socket knows who it talks to. */
static __always_inline struct datagram_key datagram_key_of(u64 cookie, const void *ip, u32 port)
{
	struct datagram_key key = { .cookie = cookie, .port = port };

	copy_ip(key.ip, ip);
	return key;
}

static __always_inline void map_ip4(void *to, u32 ip4)
{
	u32 *x = to;

	x[0] = 0;
	x[1] = 0;
	x[2] = bpf_htonl(0xffff);
	x[3] = ip4;
}

static __always_inline bool is_ip4(const void *ip)
{
	const u32 *x = ip;

	return !x[0] && !x[1] && x[2] == bpf_htonl(0xffff);
}

/* The hash of all tables over addresses; crates/dataplane/src/tables has its twin. */
static __always_inline u32 hash_address(const void *ip, u32 extra)
{
	const u32 *x = ip;
	u32 hash = FNV_BASIS ^ extra;

	hash = (hash ^ x[0]) * 0x9E3779B1u;
	hash ^= hash >> 15;
	hash = (hash ^ x[1]) * 0x9E3779B1u;
	hash ^= hash >> 15;
	hash = (hash ^ x[2]) * 0x9E3779B1u;
	hash ^= hash >> 15;
	hash = (hash ^ x[3]) * 0x9E3779B1u;
	hash ^= hash >> 15;
	/* addresses differ in their last bytes, which are high up here, and slots in low bits */
	hash *= 0x9E3779B1u;
	return hash ^ (hash >> 16);
}

/* Maps a draw onto 0..total; the model's `scale`. */
static __always_inline u32 scale(u32 draw, u32 total)
{
	return ((u64)draw * total) >> 32;
}

static __always_inline struct frontend *
find_frontend(struct generation *g, const void *ip, u32 port, u32 transport)
{
	u32 hash = hash_address(ip, port << 8 | transport);

	for (int i = 0; i < PROBES; i++) {
		u32 slot = (hash + i) & g->frontend_mask;
		struct frontend *f = AT(g, frontend, g->frontends + slot * WORDS_OF(frontend));

		if (!f->port)
			return NULL;
		if (f->port == port && f->transport == transport && same_ip(f->ip, ip))
			return f;
	}
	return NULL;
}

static __always_inline bool
is_member(struct generation *g, u32 cluster, const struct address *endpoint)
{
	u32 hash = hash_address(endpoint->ip, (u32)endpoint->port << 16 ^ cluster);

	for (int i = 0; i < PROBES; i++) {
		u32 slot = (hash + i) & g->member_mask;
		struct member *m = AT(g, member, g->members + slot * WORDS_OF(member));

		if (!m->cluster)
			return false;
		if (m->cluster == cluster && m->port == endpoint->port && same_ip(m->ip, endpoint->ip))
			return true;
	}
	return false;
}

/* The struct workload of who owns an address; 0 when unknown. Kept apart so that the verifier looks
 * at it once. */
__weak __noinline u32 find_workload(struct generation *g, const struct address *a)
{
	u32 hash;

	if (!g || !a)
		return 0;
	hash = hash_address(a->ip, 0);
	for (int i = 0; i < PROBES; i++) {
		u32 slot = (hash + i) & g->workload_mask;
		u32 index = g->workloads + slot * WORDS_OF(workload);
		struct workload *w = AT(g, workload, index);

		if (!w->number)
			return 0;
		if (same_ip(w->ip, a->ip))
			return index;
	}
	return 0;
}

static __always_inline bool is_loopback(const void *ip)
{
	const u32 *x = ip;

	if (is_ip4(ip))
		return (bpf_ntohl(x[3]) >> 24) == 127;
	return !x[0] && !x[1] && !x[2] && x[3] == bpf_htonl(1);
}

/* The number of who owns an address (enum identity). */
static __always_inline u32 identity_of(struct generation *g, const struct address *a)
{
	u32 workload = find_workload(g, a);

	if (workload)
		return AT(g, workload, workload)->number;
	return is_loopback(a->ip) ? IDENTITY_HOST : IDENTITY_WORLD;
}

/*
 * The endpoint of a cluster that a draw chooses: the first whose running total is above it. The search
 * begins at a zero that the verifier does not know, so that what it knows after a step is nothing new:
 * with a plain zero it follows each of 2^20 ways.
 */
static __always_inline struct endpoint *
pick_endpoint(struct generation *g, u32 cluster, u32 draw)
{
	struct cluster *c = AT(g, cluster, cluster);
	u32 low = g->zero, high = c->count, point = scale(draw, c->total), i;

	if (!cluster || !c->count)
		return NULL;
	bpf_for(i, 0, 20) {
		u32 middle = (low + high) / 2;
		struct endpoint *e = AT(g, endpoint, c->endpoints + middle * WORDS_OF(endpoint));

		if (low >= high)
			break;
		if (e->up_to > point)
			high = middle;
		else
			low = middle + 1;
	}
	return AT(g, endpoint, c->endpoints + low * WORDS_OF(endpoint));
}

#endif
