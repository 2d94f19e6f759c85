/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * How many requests a workload takes. Which limits are about a request is found when it is judged;
 * its tokens are taken when it is certain that it goes to the endpoint. The model's `limits` says
 * what both mean.
 */
#ifndef BEEWAY_LIMITS_H
#define BEEWAY_LIMITS_H

#include "access.h"

/* The n-th of some limits. */
static __always_inline u32 rate_limit_at(u32 limits, u32 n)
{
	return limits + WORDS_OF(rate_limits) + n * WORDS_OF(rate_limit);
}

/* Whether a limit is about a request. */
static __always_inline enum truth
limit_holds(struct generation *g, u32 index, struct scratch *s, struct head *h, struct verdict *v)
{
	struct rate_limit *l = AT(g, rate_limit, index);
	u32 table = l->table;

	if ((l->port && l->port != v->endpoint.port) || l->unless & v->limited)
		return NO;
	if (!table)
		return YES;
	if (AT(g, table, table)->flags & TABLE_DETOUR || h->needs_normalising)
		return UNSURE;
	find_candidate(g, table, s, h, v);
	if (s->unsure)
		return UNSURE;
	if (!s->candidate)
		return NO;
	table = AT(g, candidate, s->candidate)->action;
	return AT(g, action, table)->kind == ACTION_DETOUR ? UNSURE : YES;
}

/*
 * Finds the limits of who is called that are about a request: v->limits and v->limited. What cannot
 * be told here is for userspace: then v->access says so.
 */
__weak __noinline int
find_limits(struct generation *g, struct scratch *s, struct head *h, struct verdict *v)
{
	bool unsure = false;
	u32 count, i;

	if (!g || !s || !h || !v)
		return 0;
	v->limits = AT(g, guard, v->guard)->limits;
	if (!v->limits)
		return 0;
	count = AT(g, rate_limits, v->limits)->count;
	if (count > RATE_LIMITS) {
		v->access = both(v->access, ACCESS_UNSURE);
		return 0;
	}
	bpf_for(i, 0, RATE_LIMITS) {
		enum truth truth;

		if (i >= count)
			break;
		truth = limit_holds(g, rate_limit_at(v->limits, i), s, h, v);
		if (truth == YES)
			v->limited |= 1u << (i & 31);
		unsure |= truth == UNSURE;
	}
	if (unsure)
		v->access = both(v->access, ACCESS_UNSURE);
	return 0;
}

/* Programs that take of a bucket just then let one try again. */
#define BUCKET_TRIES 256

/* A token of a bucket. */
__weak __noinline int
take_token(const struct rate_limit *limit, const struct bucket_key *key, u64 now)
{
	struct bucket fresh = {}, *b;
	u32 i;

	if (!limit || !key)
		return TOKEN_NONE;
	b = bpf_map_lookup_elem(&buckets, key);
	if (!b) {
		fresh.since = now;
		fresh.level = limit->capacity;
		fresh.interval = limit->interval;
		fresh.capacity = limit->capacity;
		fresh.fill = limit->fill;
		/* another one may be faster */
		bpf_map_update_elem(&buckets, key, &fresh, BPF_NOEXIST);
		b = bpf_map_lookup_elem(&buckets, key);
		if (!b) {
			add(COUNT_BUCKETS_FULL, 1);
			return TOKEN_NO_ROOM;
		}
	}
	bpf_for(i, 0, BUCKET_TRIES) {
		u64 level = *(volatile u64 *)&b->level, tokens = (u32)level;
		u64 fills = limit->interval && now > b->since ?
			    (now - b->since) / limit->interval : 0;

		/* another one may have looked at its clock a moment later, and been faster */
		if (fills < level >> 32)
			fills = level >> 32;
		tokens += (fills - (level >> 32)) * limit->fill;
		if (tokens > limit->capacity)
			tokens = limit->capacity;
		if (!tokens)
			return TOKEN_NONE;
		if (__sync_val_compare_and_swap(&b->level, level, fills << 32 | (tokens - 1)) == level)
			return TOKEN_TAKEN;
	}
	return TOKEN_NONE;
}

/* The first address of who has another one. */
static __always_inline void
copy_first_address(struct generation *g, void *to, const struct address *from)
{
	u32 workload = find_workload(g, from);
	u32 first = workload ? AT(g, workload, workload)->first : 0;

	copy_ip(to, from->ip);
	if (first)
		copy_ip(to, &g->heap[first & (HEAP_WORDS - 1)]);
}

/* Whether a request is one of so many of a million. */
static __always_inline bool is_one_of(u32 millionths)
{
	return millionths >= RATE_WHOLE || scale(bpf_get_prandom_u32(), RATE_WHOLE) < millionths;
}

/* Takes a token of each limit that is about a request; the struct rate_limit that refuses, or 0. */
__weak __noinline u32
spend(struct generation *g, u32 limits, u32 limited, const struct address *endpoint,
      const struct address *caller)
{
	struct bucket_key key = {};
	u64 now = bpf_ktime_get_ns();
	u32 refused = 0, i;
	u32 who[4];

	if (!g || !endpoint || !caller)
		return 0;
	copy_first_address(g, key.endpoint, endpoint);
	key.port = endpoint->port;
	copy_first_address(g, who, caller);
	bpf_for(i, 0, RATE_LIMITS) {
		u32 at = rate_limit_at(limits, i);
		struct rate_limit *l = AT(g, rate_limit, at);

		if (!(limited >> (i & 31) & 1) || !is_one_of(l->enabled))
			continue;
		key.limit = l->id;
		if (l->per_caller)
			copy_ip(key.caller, who);
		else
			__builtin_memset(key.caller, 0, sizeof(key.caller));
		if (take_token(l, &key, now) == TOKEN_TAKEN)
			continue;
		if (is_one_of(l->enforced)) {
			refused = at;
			break;
		}
		add(COUNT_NOT_ENFORCED, 1);
	}
	return refused;
}

#endif
