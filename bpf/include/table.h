/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * The interpreter of a table: which of its rules holds for a head. Free of hook types; the twin in Rust
 * is crates/dataplane/src/tables/interpret.
 */
#ifndef BEEWAY_TABLE_H
#define BEEWAY_TABLE_H

#include "http.h"

enum truth { NO, YES, UNSURE };

/* The first byte in which two words differ. */
static __always_inline u32 first_difference(u64 diff)
{
	/* the high bit of each byte that is not zero */
	return first_mark((((diff & ~HIGHS) + ~HIGHS) | diff) & HIGHS);
}

/* Where an automaton gets from `state` over s->from up to s->to of the head; 0 is dead. */
__weak __noinline u32
walk(struct generation *g, u32 classes_at, u32 state, struct scratch *s)
{
	const u8 *classes;
	u32 at, to, i;

	if (!g || !s)
		return 0;
	classes = (const u8 *)AT(g, table, classes_at);
	at = s->from;
	to = s->to;
	bpf_for(i, 0, HEAD_BYTES) {
		struct run *run;
		u32 n, left;
		u64 diff;

		if (at >= to || !state)
			break;
		if (!(state & STATE_RUN)) {
			state = g->heap[(state + classes[byte_at(s, at)]) & (HEAP_WORDS - 1)];
			at++;
			continue;
		}
		run = AT(g, run, state);
		left = to - at;
		n = run->length < left ? run->length : left;
		diff = word_at(s, at) ^ (run->bytes[0] | (u64)run->bytes[1] << 32);
		diff = first_bytes(diff, n);
		if (diff) {
			at += first_difference(diff) + 1;
			state = run->otherwise;
			continue;
		}
		at += n;
		if (n == run->length)
			state = run->next;
	}
	return state;
}

/* What a string that ends in a state is accepted as; a row and a run both begin with it. */
static __always_inline u32 accepted(struct generation *g, u32 state)
{
	return state ? g->heap[state & (HEAP_WORDS - 1)] : 0;
}

/* Puts s->from up to s->to of the head into lower case where they stand. */
__weak __noinline int lower(struct scratch *s)
{
	u32 i;

	if (!s)
		return 0;
	bpf_for(i, s->from, s->to) {
		u8 c = byte_at(s, i);

		if (c >= 'A' && c <= 'Z')
			s->head[i & HEAD_MASK] = c | 0x20;
	}
	return 0;
}

__weak __noinline int
same_bytes(struct generation *g, u32 bytes, struct scratch *s, u32 at, u32 length)
{
	const u32 *wanted;
	bool same = true;
	u32 i;

	if (!g || !s)
		return false;
	wanted = (const u32 *)AT(g, table, bytes);
	bpf_for(i, 0, PREDICATE_BYTES / 8) {
		u32 left = length - i * 8, word = i * 2 & (PREDICATE_BYTES / 4 - 1);
		u64 diff;

		if (i * 8 >= length)
			break;
		diff = word_at(s, at + i * 8) ^ (wanted[word] | (u64)wanted[word + 1] << 32);
		if (left < 8)
			diff = first_bytes(diff, left);
		if (diff) {
			same = false;
			break;
		}
	}
	return same;
}

/* Whether a value in the head is as a predicate wants it. */
static __always_inline enum truth
value_holds(struct generation *g, struct predicate *p, struct scratch *s, u32 at, u32 length)
{
	struct machine *m;

	switch (p->comparison) {
	case COMPARE_PRESENT:
		return YES;
	case COMPARE_NOT_EMPTY:
		return length ? YES : NO;
	case COMPARE_EXACT:
		if (length != p->value_length)
			return NO;
		break;
	case COMPARE_PREFIX:
		if (length < p->value_length)
			return NO;
		break;
	case COMPARE_SUFFIX:
		if (length < p->value_length)
			return NO;
		at += length - p->value_length;
		break;
	case COMPARE_REGEX:
		m = AT(g, machine, p->value);
		s->from = at;
		s->to = at + length;
		switch (accepted(g, walk(g, m->classes, m->start, s))) {
		case MACHINE_NO:
			return NO;
		case MACHINE_YES:
			return YES;
		}
		return UNSURE;
	default:
		return UNSURE;
	}
	return same_bytes(g, p->value, s, at, p->value_length) ? YES : NO;
}

/* A field that occurs twice is joined by userspace, not here. */
#define TWICE HEAD_LINES

/* The line of a field, from 1; 0 for none. */
__weak __noinline u32 find_field(struct generation *g, const struct predicate *p, struct scratch *s)
{
	u32 found = 0, i;

	if (!g || !p || !s)
		return 0;
	bpf_for(i, 0, HEAD_LINES) {
		struct line *l = &s->lines[i & (HEAD_LINES - 1)];

		if (i >= s->lines_used)
			break;
		if (l->hash != p->name_hash || l->name_length != p->name_length)
			continue;
		if (!same_bytes(g, p->name, s, l->name, p->name_length))
			continue;
		if (found)
			return TWICE + 1;
		found = i + 1;
	}
	return found;
}

static __always_inline enum truth
header_holds(struct generation *g, struct predicate *p, struct scratch *s)
{
	u32 found = find_field(g, p, s);
	struct line *l = &s->lines[(found - 1) & (HEAD_LINES - 1)];

	if (!found)
		return NO;
	return found > TWICE ? UNSURE : value_holds(g, p, s, l->value, l->value_length);
}

/* Finds the first parameter of a name, undecoded; the value's offset and s->value_length, or 0. */
__weak __noinline u32
find_parameter(struct generation *g, const struct predicate *p, struct scratch *s, u32 at, u32 to)
{
	u32 name, length, found = 0, i;

	if (!g || !p || !s)
		return 0;
	name = p->name;
	length = p->name_length;
	s->cursor = at;
	bpf_for(i, at, to + 1) {
		u32 from = s->cursor, behind = from + length;

		if (i < to && byte_at(s, i) != '&')
			continue;
		s->cursor = i + 1;
		if (behind > i || (behind < i && byte_at(s, behind) != '='))
			continue;
		if (!same_bytes(g, name, s, from, length))
			continue;
		found = behind < i ? behind + 1 : i;
		s->value_length = i - found;
		break;
	}
	return found;
}

static __always_inline enum truth
query_holds(struct generation *g, struct predicate *p, struct scratch *s)
{
	u32 at;

	if (s->query_length > QUERY_BYTES)
		return UNSURE;
	at = find_parameter(g, p, s, s->query, s->query + s->query_length);
	return at ? value_holds(g, p, s, at, s->value_length) : NO;
}

static __always_inline enum truth
member_holds(struct generation *g, struct predicate *p, u32 number)
{
	if (number / 32 >= p->value_length)
		return NO;
	return g->heap[(p->value + number / 32) & (HEAP_WORDS - 1)] >> (number % 32) & 1 ? YES : NO;
}

/*
 * Whether s->high and s->low are in one of a predicate's ranges: the first that does not end before
 * them decides. What a search narrows down is in s, where the verifier forgets what it was.
 */
__weak __noinline int in_ranges(struct generation *g, const struct predicate *p, struct scratch *s)
{
	struct range *r;
	u32 i;

	if (!g || !p || !s)
		return false;
	s->from = 0;
	s->to = p->value_length;
	bpf_for(i, 0, 20) {
		u32 middle = (s->from + s->to) / 2;

		if (s->from >= s->to)
			break;
		r = AT(g, range, p->value + middle * WORDS_OF(range));
		if (r->to_high > s->high || (r->to_high == s->high && r->to_low >= s->low))
			s->to = middle;
		else
			s->from = middle + 1;
	}
	if (s->from >= p->value_length)
		return false;
	r = AT(g, range, p->value + s->from * WORDS_OF(range));
	return r->from_high < s->high || (r->from_high == s->high && r->from_low <= s->low);
}

static __always_inline enum truth
address_holds(struct generation *g, struct predicate *p, struct scratch *s, const struct address *a)
{
	const u32 *ip = (const u32 *)a->ip;

	if (!a->family)
		return UNSURE;
	s->high = (u64)bpf_ntohl(ip[0]) << 32 | bpf_ntohl(ip[1]);
	s->low = (u64)bpf_ntohl(ip[2]) << 32 | bpf_ntohl(ip[3]);
	return in_ranges(g, p, s) ? YES : NO;
}

static __always_inline enum truth
port_holds(struct generation *g, struct predicate *p, struct scratch *s, const struct verdict *v)
{
	s->high = 0;
	s->low = (u64)v->transport << 16 | v->endpoint.port;
	return in_ranges(g, p, s) ? YES : NO;
}

/* Who stands in x-forwarded-for is read by userspace. */
static __always_inline enum truth
remote_holds(struct generation *g, struct predicate *p, struct scratch *s, const struct verdict *v)
{
	return find_field(g, p, s) ? UNSURE : address_holds(g, p, s, &v->source);
}

static __always_inline enum truth
source_holds(struct generation *g, struct predicate *p, const struct verdict *v)
{
	return v->caller.family ? member_holds(g, p, identity_of(g, &v->caller)) : UNSURE;
}

/* One predicate; kept apart so that the verifier looks at it once. */
__weak __noinline int
predicate_holds(struct generation *g, u32 index, struct scratch *s, const struct verdict *v)
{
	struct predicate *p;

	if (!g || !s || !v)
		return UNSURE;
	p = AT(g, predicate, index);
	switch (p->subject) {
	case SUBJECT_HEADER:
		return header_holds(g, p, s);
	case SUBJECT_QUERY:
		return query_holds(g, p, s);
	case SUBJECT_SOURCE:
		return source_holds(g, p, v);
	case SUBJECT_CALLED:
		return member_holds(g, p, identity_of(g, &v->endpoint));
	case SUBJECT_SOURCE_ADDRESS:
		return address_holds(g, p, s, &v->source);
	case SUBJECT_REMOTE_ADDRESS:
		return remote_holds(g, p, s, v);
	case SUBJECT_CALLED_ADDRESS:
		return address_holds(g, p, s, &v->endpoint);
	case SUBJECT_PORT:
		return port_holds(g, p, s, v);
	case SUBJECT_PATH:
		return value_holds(g, p, s, s->path, s->path_length);
	}
	return UNSURE;
}

/* Whether one of a candidate's predicates is known not to be as it must be. */
static __always_inline bool fails(const struct candidate *c, const struct scratch *s)
{
	return s->known & ((c->need & ~s->held) | (c->forbid & s->held));
}

/*
 * Whether all of a candidate's predicates are as they must be. What is known of the group's
 * predicates is kept in s->known and s->held: each is looked at once.
 */
static __always_inline enum truth
candidate_holds(struct generation *g, u32 predicates, struct candidate *c, struct scratch *s,
		const struct verdict *v)
{
	u64 left = (c->need | c->forbid) & ~s->known;
	bool unsure = false;
	u32 i;

	bpf_for(i, 0, GROUP_PREDICATES) {
		enum truth truth;
		u32 bit;

		/* one that fails already need not be looked at further */
		if (!left || fails(c, s))
			break;
		bit = __builtin_ctzll(left);
		left &= left - 1;
		truth = predicate_holds(g, g->heap[(predicates + bit) & (HEAP_WORDS - 1)], s, v);
		/* another one may still fail */
		if (truth == UNSURE) {
			unsure = true;
			continue;
		}
		s->known |= 1ull << bit;
		if (truth == YES)
			s->held |= 1ull << bit;
	}
	if (fails(c, s))
		return NO;
	return unsure ? UNSURE : YES;
}

/* Takes the first candidate of a group that holds, if it comes before the one taken so far. */
__weak __noinline int
consider(struct generation *g, u32 group, struct scratch *s, u32 method, const struct verdict *v)
{
	struct group *first;
	u32 count, predicates, i;

	if (!g || !group || !s || !v)
		return 0;
	first = AT(g, group, group);
	count = first->count;
	predicates = first->predicates;
	s->known = s->held = 0;
	bpf_for(i, 0, GROUP_CANDIDATES) {
		u32 index = group + WORDS_OF(group) + i * WORDS_OF(candidate);
		struct candidate *c = AT(g, candidate, index);
		enum truth truth;
		u32 order;

		if (i >= count || c->order >= s->order)
			break;
		if (!(c->methods >> (method & 31) & 1))
			continue;
		truth = candidate_holds(g, predicates, c, s, v);
		if (truth == NO)
			continue;
		order = truth == UNSURE ? c->order | 1 : c->order;
		if (order < s->order) {
			s->order = order;
			s->candidate = index;
			s->unsure = truth == UNSURE;
		}
		break;
	}
	return 0;
}

/* The struct paths of the rules that name the host; 0 for none. */
static __always_inline u32
find_host(struct generation *g, u32 index, struct scratch *s, struct head *h)
{
	struct machine *m = AT(g, machine, index);

	if (!index)
		return 0;
	s->from = h->host;
	s->to = h->host + h->host_length;
	return accepted(g, walk(g, m->classes, m->start, s));
}

/* Considers what an automaton over the path leads to. */
static __always_inline void
follow(struct generation *g, struct table *t, u32 start, struct scratch *s, struct head *h,
       const struct verdict *v)
{
	if (!start)
		return;
	s->from = h->path;
	s->to = h->path + h->path_length;
	consider(g, accepted(g, walk(g, t->classes, start, s)), s, h->method, v);
}

/* Finds the first candidate of a struct table that holds; s->candidate and s->unsure. */
__weak __noinline int
find_candidate(struct generation *g, u32 table, struct scratch *s, struct head *h,
	       const struct verdict *v)
{
	struct table *t;
	u32 named;

	if (!g || !s || !h || !v)
		return 0;
	t = AT(g, table, table);
	named = find_host(g, t->hosts, s, h);
	s->order = ~0u;
	s->candidate = s->unsure = 0;
	s->path = h->path;
	s->path_length = h->path_length;
	s->query = h->query;
	s->query_length = h->query_length;
	follow(g, t, AT(g, paths, t->any)->exact, s, h, v);
	if (named)
		follow(g, t, AT(g, paths, named)->exact, s, h, v);
	if (!AT(g, paths, t->any)->folded && !(named && AT(g, paths, named)->folded))
		return 0;
	s->from = h->path;
	s->to = h->path + h->path_length;
	lower(s);
	follow(g, t, AT(g, paths, t->any)->folded, s, h, v);
	if (named)
		follow(g, t, AT(g, paths, named)->folded, s, h, v);
	return 0;
}

#endif
