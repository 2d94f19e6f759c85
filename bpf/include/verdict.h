/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * The interpreter of a service port's table: which rule holds for a head, and what follows from
 * it for a connection that leads to a given endpoint. Free of hook types; the twin in Rust is
 * crates/dataplane/src/tables/interpret.rs, the truth is the model's router.
 */
#ifndef BEEWAY_VERDICT_H
#define BEEWAY_VERDICT_H

#include "http.h"

struct verdict {
	/* in */
	struct address service;
	struct address endpoint;
	struct address source;
	u32 draw;
	/* out */
	u32 lane;		/* LANE_NATIVE, LANE_DETOUR or LANE_ANSWERED */
	u32 reason;
	u32 rule;		/* + 1; 0: none */
	u32 answer;		/* struct answer */
	u32 certain;		/* no rules at all: any further request is native too */
};

enum truth { NO, YES, UNSURE };

/* Walks the automaton over host, zero byte, path; the group of rules, 0 for none. */
static __always_inline u32
find_group(struct generation *g, struct table *t, struct scratch *s, struct head *h)
{
	const u8 *classes = (const u8 *)AT(g, table, t->classes);
	u32 state = t->start, i;

	if (t->flags & TABLE_HOSTS) {
		bpf_for(i, h->host, h->host + h->host_length) {
			u8 c = byte_at(s, i);

			if (c >= 'A' && c <= 'Z')
				c |= 0x20;
			state = g->heap[(state + classes[c]) & (HEAP_WORDS - 1)];
			if (!state)
				break;
		}
		if (state)
			state = g->heap[(state + classes[0]) & (HEAP_WORDS - 1)];
	}
	if (!state)
		return 0;
	bpf_for(i, h->path, h->path + h->path_length) {
		state = g->heap[(state + classes[byte_at(s, i)]) & (HEAP_WORDS - 1)];
		if (!state)
			return 0;
	}
	return g->heap[state & (HEAP_WORDS - 1)];
}

static __always_inline bool
same_bytes(struct generation *g, u32 bytes, struct scratch *s, u32 at, u32 length)
{
	const u8 *wanted = (const u8 *)AT(g, table, bytes);
	bool same = true;
	u32 i;

	bpf_for(i, 0, PREDICATE_BYTES) {
		if (i >= length)
			break;
		if (wanted[i & (PREDICATE_BYTES - 1)] != byte_at(s, at + i)) {
			same = false;
			break;
		}
	}
	return same;
}

static __always_inline enum truth
value_holds(struct generation *g, struct predicate *p, struct scratch *s, struct line *l)
{
	if (p->kind == PREDICATE_PRESENT)
		return YES;
	if (l->value_length < p->value_length)
		return NO;
	if (p->kind == PREDICATE_EXACT && l->value_length != p->value_length)
		return NO;
	return same_bytes(g, p->value, s, l->value, p->value_length) ? YES : NO;
}

/* A field that occurs twice is joined by userspace, not here. */
static __always_inline enum truth
header_holds(struct generation *g, struct predicate *p, struct scratch *s)
{
	enum truth truth = NO;
	u32 seen = 0, i;

	bpf_for(i, 0, HEAD_LINES) {
		struct line *l = &s->lines[i & (HEAD_LINES - 1)];

		if (i >= s->lines_used)
			break;
		if (l->hash != p->name_hash || l->name_length != p->name_length)
			continue;
		if (!same_bytes(g, p->name, s, l->name, p->name_length))
			continue;
		if (seen++)
			break;
		truth = value_holds(g, p, s, l);
	}
	return seen > 1 ? UNSURE : truth;
}

static __always_inline enum truth
source_holds(struct generation *g, struct predicate *p, const struct verdict *v)
{
	u32 number = find_workload(g, v->source.ip);

	if (!number || number / 32 >= p->value_length)
		return NO;
	return g->heap[(p->value + number / 32) & (HEAP_WORDS - 1)] >> (number % 32) & 1 ? YES : NO;
}

/* One of a table's predicates; kept apart so that the verifier looks at it once. */
__weak __noinline int
predicate_holds(struct generation *g, u32 index, struct scratch *s, const struct verdict *v)
{
	struct predicate *p;

	if (!g || !s || !v)
		return UNSURE;
	p = AT(g, predicate, index);
	return p->kind == PREDICATE_SOURCE ? source_holds(g, p, v) : header_holds(g, p, s);
}

/* Whether all of a candidate's predicates are as they must be. */
static __always_inline enum truth
candidate_holds(struct generation *g, struct table *t, struct candidate *c, struct scratch *s,
		const struct verdict *v)
{
	u64 left = c->need | c->forbid;
	enum truth held = YES;
	u32 i;

	bpf_for(i, 0, TABLE_PREDICATES) {
		enum truth truth;
		u32 bit;

		if (!left)
			break;
		bit = __builtin_ctzll(left);
		left &= left - 1;
		truth = predicate_holds(g, t->predicates + bit * WORDS_OF(predicate), s, v);
		if (truth == UNSURE) {
			held = UNSURE;
			break;
		}
		if ((truth == YES) != (c->need >> bit & 1)) {
			held = NO;
			break;
		}
	}
	return held;
}

/* The first candidate of a group that holds; 0 for none, `unsure` when userspace must say. */
static __always_inline struct candidate *
find_candidate(struct generation *g, struct table *t, u32 group, struct scratch *s, struct head *h,
	       const struct verdict *v, bool *unsure)
{
	u32 count = AT(g, group, group)->count, at = 0, i;

	bpf_for(i, 0, GROUP_CANDIDATES) {
		u32 index = group + WORDS_OF(group) + i * WORDS_OF(candidate);
		struct candidate *c = AT(g, candidate, index);
		enum truth truth;

		if (i >= count)
			break;
		if (!(c->methods >> h->method & 1))
			continue;
		truth = candidate_holds(g, t, c, s, v);
		if (truth == NO)
			continue;
		*unsure = truth == UNSURE;
		at = index;
		break;
	}
	return at ? AT(g, candidate, at) : NULL;
}

/* The heap index of the cluster that the draw chooses; 0 for a backend that is missing. */
static __always_inline u32 pick_share(struct generation *g, struct action *a, u32 draw)
{
	u32 low = 0, high = a->count, point = scale(draw, a->total), i;

	if (!a->total)
		return 0;
	bpf_for(i, 0, 16) {
		u32 middle = (low + high) / 2;

		if (low >= high)
			break;
		if (AT(g, share, a->shares + middle * WORDS_OF(share))->up_to > point)
			high = middle;
		else
			low = middle + 1;
	}
	return AT(g, share, a->shares + low * WORDS_OF(share))->cluster;
}

static __always_inline void answer(struct verdict *v, u32 index, u32 reason)
{
	v->lane = LANE_ANSWERED;
	v->answer = index;
	v->reason = reason;
}

static __always_inline void
forward(struct generation *g, u32 cluster, u32 reason, struct verdict *v)
{
	struct cluster *c = AT(g, cluster, cluster);

	v->lane = LANE_NATIVE;
	v->reason = reason;
	if (!cluster) {
		answer(v, g->heap[ANSWER_BACKEND_MISSING], REASON_BACKEND_MISSING);
	} else if (!c->count) {
		answer(v, g->heap[ANSWER_NO_ENDPOINT], REASON_NO_ENDPOINT);
	} else if (!is_member(g, c->id, &v->endpoint)) {
		v->lane = LANE_DETOUR;
		v->reason = REASON_OTHER_CLUSTER;
	}
}

/* Follows the rules of a table for a head. */
static __always_inline void
apply_table(struct generation *g, struct table *t, struct scratch *s, struct head *h,
	    struct verdict *v)
{
	bool unsure = false;
	struct candidate *c = NULL;
	struct action *a;
	u32 group;

	v->lane = LANE_DETOUR;
	v->reason = REASON_TABLE;
	if (t->flags & TABLE_DETOUR)
		return;
	v->reason = REASON_PATH;
	if (h->needs_normalising)
		return;
	group = find_group(g, t, s, h);
	if (group)
		c = find_candidate(g, t, group, s, h, v, &unsure);
	v->reason = REASON_UNUSUAL;
	if (unsure)
		return;
	if (!c)
		return answer(v, t->no_route, REASON_NO_ROUTE);
	v->rule = c->rule + 1;
	a = AT(g, action, c->action);
	if (a->kind == ACTION_FORWARD) {
		forward(g, pick_share(g, a, v->draw), REASON_ROUTE, v);
	} else if (a->kind == ACTION_ANSWER) {
		answer(v, a->answer, REASON_ROUTE);
	} else {
		v->reason = REASON_RULE_ACTION;
	}
}

/* The verdict on a head that parse_head() understood. */
__weak __noinline int
judge(struct generation *g, struct scratch *s, struct head *h, struct verdict *v)
{
	struct frontend *f;

	if (!g || !s || !h || !v)
		return 0;
	v->rule = 0;
	v->answer = 0;
	v->certain = 0;
	f = find_frontend(g, v->service.ip, v->service.port, IPPROTO_TCP);
	if (!f) {
		v->lane = LANE_DETOUR;
		v->reason = REASON_NO_SERVICE;
		return 0;
	}
	if (f->table) {
		apply_table(g, AT(g, table, f->table), s, h, v);
	} else {
		forward(g, f->cluster, REASON_NONE, v);
		v->certain = v->lane == LANE_NATIVE;
	}
	/* an answer to HEAD has a length and no body (RFC 9110 section 9.3.2) */
	if (v->lane == LANE_ANSWERED && h->method == METHOD_HEAD) {
		v->lane = LANE_DETOUR;
		v->reason = REASON_UNUSUAL;
		v->answer = 0;
	}
	return 0;
}

#endif
