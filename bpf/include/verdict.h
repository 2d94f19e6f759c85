/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * The interpreter of a service port's table: which rule holds for a head, and what follows from
 * it for a connection that leads to a given endpoint. Free of hook types; the twin in Rust is
 * crates/dataplane/src/tables/interpret.rs, the truth is the model's router.
 */
#ifndef BEEWAY_VERDICT_H
#define BEEWAY_VERDICT_H

#include "limits.h"

/* The heap index of the cluster that the draw chooses; 0 for a backend that is missing. */
static __always_inline u32 pick_share(struct generation *g, struct action *a, u32 draw)
{
	u32 low = g->zero, high = a->count, point = scale(draw, a->total), i;

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
apply_table(struct generation *g, u32 table, struct scratch *s, struct head *h, struct verdict *v)
{
	struct table *t = AT(g, table, table);
	struct candidate *c;
	struct action *a;

	v->lane = LANE_DETOUR;
	v->reason = REASON_TABLE;
	if (t->flags & TABLE_DETOUR)
		return;
	v->reason = REASON_PATH;
	if (h->needs_normalising)
		return;
	find_candidate(g, table, s, h, v);
	v->reason = REASON_UNUSUAL;
	if (s->unsure)
		return;
	if (!s->candidate)
		return answer(v, t->no_route, REASON_NO_ROUTE);
	c = AT(g, candidate, s->candidate);
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

/* The verdict on a head that parse_head() understood, and of which policies have been asked. */
__weak __noinline int
follow_rules(struct generation *g, struct scratch *s, struct head *h, struct verdict *v)
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
	if (f->guarded)
		v->access = ACCESS_UNSURE;
	v->certain = !v->guarded;
	if (f->table) {
		apply_table(g, f->table, s, h, v);
		v->certain = 0;
	} else {
		forward(g, f->cluster, REASON_NONE, v);
	}
	if (v->lane == LANE_NATIVE && v->access == ACCESS_DENIED) {
		answer(v, g->heap[ANSWER_DENIED], REASON_DENIED);
	} else if (v->lane == LANE_NATIVE && v->access == ACCESS_UNSURE) {
		v->lane = LANE_DETOUR;
		v->reason = REASON_POLICY;
	}
	v->certain &= v->lane == LANE_NATIVE;
	/* an answer to HEAD has a length and no body (RFC 9110 section 9.3.2) */
	if (v->lane == LANE_ANSWERED && h->method == METHOD_HEAD) {
		v->lane = LANE_DETOUR;
		v->reason = REASON_UNUSUAL;
		v->answer = 0;
	}
	return 0;
}

/* The verdict on a head that parse_head() understood. Policies come first: rules may fold the path
 * where it stands. */
static __always_inline void
judge(struct generation *g, struct scratch *s, struct head *h, struct verdict *v)
{
	v->access = ACCESS_PASS;
	v->guarded = v->guard = v->limits = v->limited = 0;
	if (g->guarded)
		v->access = judge_request(g, s, h, v, 0);
	if (v->guard)
		find_limits(g, s, h, v);
	follow_rules(g, s, h, v);
}

#endif
