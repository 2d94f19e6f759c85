/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * Judges the requests of who comes in and is judged nowhere else, where they are received: a request
 * that policies forbid, or for which a limit has no token, is taken out of the stream, the application
 * does not wake up, and the agent lets the socket that received it send the answer. (To turn the request
 * into its answer here would make the kernel take the answer's length for that of what was read.) What
 * cannot be judged here, because a head comes in several segments, or two requests in one, or it is not
 * plain HTTP/1.1, ends the connection: there is no way from here to userspace.
 *
 * Nor can a piece of a head be kept back until its rest comes (tried on Linux 6.18):
 *   - One that passes may be taken for a whole: to Python's http.server, and others, the end of a
 *     connection ends a head.
 *   - One that is dropped counts as read, and again when it is read in front of the last piece: copied_seq
 *     is then ahead of what has come, and tcp_data_ready() tells nobody of the next request.
 *   - One that is cut off and then dropped does not count, so poll() says all the while that there is
 *     something to read, and a server that asks again and again is kept busy by whoever sends half a head.
 *   - A stream_parser keeps pieces back, but sets copied_seq as if all that came earlier had been read, and
 *     the next request after a slow reader's is not told of either.
 */
#ifndef BEEWAY_VISIT_H
#define BEEWAY_VISIT_H

#include "inlet.h"
#include "limits.h"
#include "visit_traffic.h"
#include "http.h"
#include "body.h"

#define VISIT_STEPS 512	/* of framing in one segment */

enum visit_verdict { VISIT_PASS, VISIT_DENIED, VISIT_REFUSED };

/* Takes the tokens of a request that policies let in; visit->bucket, if a limit has none for it. Limits that
 * only userspace could tell to be about it do not hold for it. */
static __always_inline void
limit_visit(struct generation *g, struct visit *visit, struct scratch *s, struct head *h)
{
	struct verdict *v = &s->verdict;
	u32 refused;

	find_limits(g, s, h, v);
	if (!v->limited)
		return;
	refused = spend(g, v->limits, v->limited, &visit->called, &visit->caller);
	if (!refused)
		return;
	visit->bucket = AT(g, rate_limit, refused)->id;
	visit->status = AT(g, answer, AT(g, rate_limit, refused)->answer)->status;
	visit->denied = 1;
}

/* Judges the request whose head begins s->head[0..length]; s->offset is where its body begins. */
__weak __noinline int judge_visit(struct visit *visit, struct scratch *s, u32 length)
{
	struct generation *g = current_generation();
	struct verdict *v;
	enum access access;
	struct head h;

	if (!visit || !s || !g || parse_head(s, length, &h))
		return VISIT_REFUSED;
	v = &s->verdict;
	__builtin_memset(v, 0, sizeof(*v));
	v->source = v->caller = visit->caller;
	v->endpoint = visit->called;
	v->transport = IPPROTO_TCP;
	access = judge_request(g, s, &h, v, 1);
	expect_body(&visit->framing, &h);
	s->offset = h.length;
	visit->bucket = 0;
	visit->status = 403;
	visit->denied = access != ACCESS_PASS;
	if (!visit->denied && v->guard)
		limit_visit(g, visit, s, &h);
	if (!visit->denied)
		return VISIT_PASS;
	tell_visit(visit, s, h.length);
	/* the prepared answer has a body, which one to HEAD must not have */
	return h.method == METHOD_HEAD ? VISIT_REFUSED : VISIT_DENIED;
}

/* Reads the head at the beginning of a segment, and judges it. */
static __always_inline int
on_visit_head(struct __sk_buff *skb, struct visit *visit, struct scratch *s)
{
	u32 n = skb->len;

	if (n > HEAD_BYTES)
		n = HEAD_BYTES;
	barrier_var(n);
	if (!n || n > HEAD_BYTES || bpf_skb_load_bytes(skb, 0, s->head, n))
		return VISIT_REFUSED;
	__builtin_memset(&s->head[n & (2 * HEAD_BYTES - 1)], 0, 8);
	return judge_visit(visit, s, n);
}

/* A step over data, or over a byte of what is between chunks. */
static __always_inline bool
visit_step(struct __sk_buff *skb, struct framing *f, struct scratch *s, u32 size)
{
	u8 byte;

	if (f->phase != PHASE_BODY && f->phase != PHASE_CHUNK_DATA) {
		if (bpf_skb_load_bytes(skb, s->offset, &byte, 1))
			return false;
		s->offset++;
		return frame_byte(f, byte);
	}
	s->offset += take_data(f, size - s->offset);
	return true;
}

/* Whether the rest of a segment, from s->offset on, belongs to the request under way. */
static __always_inline bool
walk_visit(struct __sk_buff *skb, struct visit *visit, struct scratch *s)
{
	u32 size = skb->len, i;

	bpf_for(i, 0, VISIT_STEPS) {
		if (s->offset >= size || visit->framing.phase == PHASE_HEAD)
			break;
		if (!visit_step(skb, &visit->framing, s, size))
			return false;
	}
	return s->offset >= size;
}

static __always_inline bool
tell_of_visit(const struct visit *visit, const struct tcp_sock *tcp, enum event_kind kind)
{
	return tell_of_policy(tcp, kind, &visit->called, &visit->caller, &visit->caller, visit->bucket);
}

/* Nothing more of it is read, and the agent resets it. */
static __always_inline int refuse_visit(struct visit *visit, const struct tcp_sock *tcp)
{
	if (visit->framing.phase != PHASE_DEAD) {
		count_visit(visit, LANE_REFUSED, REASON_VISIT, 0);
		tell_of_visit(visit, tcp, EVENT_CAME);
	}
	visit->framing.phase = PHASE_DEAD;
	return SK_DROP;
}

/* Whether it matters what is asked of who is called: to those who only report it does not. */
static __always_inline bool asks_visits(const struct visit *visit)
{
	struct generation *g = current_generation();
	struct guard *guard;
	u32 at;

	if (!g || !g->guarded)
		return !g;
	at = guard_at(g, &visit->called, IPPROTO_TCP);
	guard = AT(g, guard, at);
	return at && (guard->visits || guard->limits);
}

/* A segment of a connection whose requests are judged here. */
static __always_inline int
on_visit(struct __sk_buff *skb, struct visit *visit, const struct tcp_sock *tcp, u64 cookie)
{
	bool begins = visit->framing.phase == PHASE_HEAD, understood;
	int said = VISIT_PASS;
	struct scratch *s;
	u32 head;

	if (!skb->len)
		return SK_PASS;
	/* nobody asked what it said, so where requests begin is not known */
	if (visit->framing.phase == PHASE_STICKY)
		return asks_visits(visit) ? refuse_visit(visit, tcp) : SK_PASS;
	s = visit->framing.phase == PHASE_DEAD ? NULL : claim_scratch();
	if (!s)
		return refuse_visit(visit, tcp);
	s->offset = 0;
	if (begins) {
		settle_visit(visit, cookie);
		visit->at = bpf_ktime_get_ns();
		said = on_visit_head(skb, visit, s);
	}
	head = s->offset;
	understood = said != VISIT_REFUSED && walk_visit(skb, visit, s);
	if (begins && understood && !visit->denied)
		begin_visited(visit, cookie, s, head, tcp->write_seq);
	release_scratch(s);
	if (!understood && !asks_visits(visit)) {
		settle_visit(visit, cookie);
		visit->framing.phase = PHASE_STICKY;
		return SK_PASS;
	}
	if (!understood || (said == VISIT_DENIED && !tell_of_visit(visit, tcp, EVENT_DENIED)))
		return refuse_visit(visit, tcp);
	if (begins && visit->denied)
		count_visit(visit, LANE_ANSWERED, why_denied(visit), visit->status);
	visit->bytes += skb->len;
	/* nor is the body of a request that is answered read */
	return visit->denied ? SK_DROP : SK_PASS;
}

#endif
