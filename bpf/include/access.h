/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* What policies say of a call; the truth is the model's evaluator. */
#ifndef BEEWAY_ACCESS_H
#define BEEWAY_ACCESS_H

#include "table.h"

/* What policies say of a call. */
enum access { ACCESS_PASS, ACCESS_DENIED, ACCESS_UNSURE };

/* What follows from the candidate that was found. */
static __always_inline enum access candidate_says(struct generation *g, const struct scratch *s)
{
	struct action *a;

	if (s->unsure)
		return ACCESS_UNSURE;
	if (!s->candidate)
		return ACCESS_DENIED;
	a = AT(g, action, AT(g, candidate, s->candidate)->action);
	if (a->kind == ACTION_PASS)
		return ACCESS_PASS;
	return a->kind == ACTION_ANSWER ? ACCESS_DENIED : ACCESS_UNSURE;
}

static __always_inline enum access
group_says(struct generation *g, u32 group, struct scratch *s, const struct verdict *v)
{
	if (!group)
		return ACCESS_PASS;
	s->order = ~0u;
	s->candidate = s->unsure = 0;
	consider(g, group, s, METHOD_GET, v);
	return candidate_says(g, s);
}

/* Of two that must both let it pass. */
static __always_inline enum access both(enum access a, enum access b)
{
	if (a == ACCESS_DENIED || b == ACCESS_DENIED)
		return ACCESS_DENIED;
	return a == ACCESS_UNSURE || b == ACCESS_UNSURE ? ACCESS_UNSURE : ACCESS_PASS;
}

/* What is about whoever is called at an address: struct guard; 0: nothing. */
static __always_inline u32 guard_of(struct generation *g, const struct address *to)
{
	u32 called = find_workload(g, to);

	return called ? AT(g, workload, called)->guard : 0;
}

/*
 * What is about who comes straight to an address: of all services that it is an endpoint of, nobody knows which
 * is meant, so policies that name any of them count. Not inlined, for the sake of the stack.
 */
static __noinline u32 guard_at(struct generation *g, const struct address *to, u32 transport)
{
	struct frontend *f = NULL;

	if (g->guarded & GUARDS_STRAIGHT)
		f = find_frontend(g, to->ip, to->port, transport);
	return f && f->guard ? f->guard : guard_of(g, to);
}

/* The policies on whom a workload may call: struct group; 0: none. */
static __always_inline u32 leave_of(struct generation *g, const struct address *from)
{
	u32 caller = find_workload(g, from);

	return caller ? AT(g, workload, caller)->leave : 0;
}

/* What is asked about a connection besides the network's policies. */
enum asked {
	ASK_NETWORK,		/* nothing: its requests are judged one by one */
	ASK_CONNECTION,		/* it is not HTTP */
	ASK_CARRIER,		/* its requests are judged elsewhere */
	ASK_WHAT = 3,
	ASK_STRAIGHT = 4,	/* and it is not known which service is meant: a flag */
};

/* Whether a workload calls itself, which no policy on the network forbids (NetworkPolicy's API). */
static __always_inline bool is_to_itself(const struct verdict *v)
{
	return same_ip(v->caller.ip, v->endpoint.ip);
}

/* What policies say of a connection, by enum asked. Sets v->guarded where any apply, and v->guard. */
__weak __noinline int
judge_connection(struct generation *g, struct scratch *s, struct verdict *v, u32 asked)
{
	u32 leave;
	enum access access = ACCESS_PASS;
	struct guard *guard;

	if (!g || !s || !v)
		return ACCESS_UNSURE;
	leave = leave_of(g, &v->caller);
	if (leave && !is_to_itself(v)) {
		v->guarded = 1;
		access = group_says(g, leave, s, v);
	}
	v->guard = asked & ASK_STRAIGHT ? guard_at(g, &v->endpoint, v->transport) :
					  guard_of(g, &v->endpoint);
	asked &= ASK_WHAT;
	if (!v->guard)
		return access;
	v->guarded = 1;
	guard = AT(g, guard, v->guard);
	if (!is_to_itself(v))
		access = both(access, group_says(g, guard->network, s, v));
	if (asked == ASK_CONNECTION)
		access = both(access, group_says(g, guard->connections, s, v));
	else if (asked == ASK_CARRIER)
		access = both(access, group_says(g, guard->carriers, s, v));
	return access;
}

/* What policies say of a request, on the connection that it is on; `visits`: it is judged where it comes
 * in. */
__weak __noinline int judge_request(struct generation *g, struct scratch *s, struct head *h,
				    struct verdict *v, u32 visits)
{
	enum access access;
	struct guard *guard;
	u32 table;

	if (!g || !s || !h || !v)
		return ACCESS_UNSURE;
	access = judge_connection(g, s, v, visits ? ASK_NETWORK | ASK_STRAIGHT : ASK_NETWORK);
	if (!v->guard)
		return access;
	guard = AT(g, guard, v->guard);
	table = visits ? guard->visits : guard->requests;
	if (!table)
		return access;
	if (AT(g, table, table)->flags & TABLE_DETOUR || h->needs_normalising)
		return both(access, ACCESS_UNSURE);
	find_candidate(g, table, s, h, v);
	return both(access, candidate_says(g, s));
}

#endif
