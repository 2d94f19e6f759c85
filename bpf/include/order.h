/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* Which answers a connection is still owed, by which way: what decides whether it may change lanes. */
#ifndef BEEWAY_ORDER_H
#define BEEWAY_ORDER_H

#include "lanes.h"
#include "answers.h"

/* How far the answers to native requests have come: bytes that reached the client's socket. */
static __always_inline u64 progress(struct conn *conn, const struct tcp_sock *tcp)
{
	u64 cookie = conn->cookie, bytes = tcp->rcv_nxt;
	struct link *link = conn->peer ? bpf_map_lookup_elem(&links, &cookie) : NULL;

	return bytes + (link ? link->answered_bytes : 0);
}

static __always_inline void note_progress(struct sk_msg_md *msg, struct conn *conn)
{
	struct tcp_sock *tcp = tcp_of(msg);

	if (tcp)
		conn->mark = progress(conn, tcp);
}

/* Whether some of what has come was not read. */
static __always_inline bool unread(const struct tcp_sock *tcp)
{
	u32 bytes = tcp->rcv_nxt - tcp->copied_seq;

	/* the FIN of a server that closes counts one */
	if (bytes == 1 && tcp->inet_conn.icsk_inet.sk.__sk_common.skc_state == STATE_CLOSE_WAIT)
		bytes = 0;
	return bytes || psock_of(tcp)->msg_tot_len;
}

static __always_inline struct answers *answers_of(struct conn *conn)
{
	u64 cookie = conn->cookie;

	return bpf_map_lookup_elem(&answers, &cookie);
}

/*
 * Whether a native answer may still be under way: one is owed, or what came was not read. Where
 * answers are not followed, because no rule was there, one is taken to be owed until some of it
 * has come: a client that has read a part of it and goes on asking is then not told apart.
 */
static __always_inline bool native_outstanding(struct conn *conn, struct sk_msg_md *msg)
{
	struct answers *a;
	struct tcp_sock *tcp;

	if (!conn->native)
		return false;
	tcp = tcp_of(msg);
	if (!tcp)
		return true;
	if (conn->followed) {
		a = answers_of(conn);
		if (!a || answers_owed(a, conn->native))
			return true;
	} else if (progress(conn, tcp) == conn->mark) {
		return true;
	}
	return unread(tcp);
}

/* From the next native request on answers are followed. Not inlined, for the sake of the stack. */
__weak __noinline int begin_following(struct sk_msg_md *msg, struct conn *conn)
{
	struct answers fresh = {};
	u64 cookie;

	if (!conn)
		return 0;
	fresh.answered = conn->native;
	if (native_outstanding(conn, msg))
		fresh.body.phase = PHASE_DEAD;
	conn->followed = 1;
	cookie = conn->cookie;
	if (bpf_map_update_elem(&answers, &cookie, &fresh, BPF_ANY))
		add(COUNT_FULL, 1);
	return 0;
}

/* An answer to a native request is owed from now on, a bare one if it has no body. Where no rule is
 * there (`certain`) only a change of configuration makes requests change lanes: not followed. */
static __always_inline void
note_native(struct sk_msg_md *msg, struct conn *conn, bool certain, bool bare)
{
	struct answers *a;

	if (!conn->followed && !certain)
		begin_following(msg, conn);
	if (!conn->followed) {
		note_progress(msg, conn);
	} else if (bare) {
		a = answers_of(conn);
		if (a)
			expect_bare(a, conn->native);
	}
	conn->native++;
}

static __always_inline bool detour_outstanding(struct conn *conn)
{
	u64 cookie = conn->cookie;
	struct flow *flow;

	if (!conn->asked)
		return false;
	flow = bpf_map_lookup_elem(&flows, &cookie);
	return !flow || flow->answered != conn->asked;
}

#endif
