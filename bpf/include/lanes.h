/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* How the bytes of a message leave: natively, by the shortcut, by the detour, or answered here. */
#ifndef BEEWAY_LANES_H
#define BEEWAY_LANES_H

#include "traffic.h"
#include "verdict.h"

/* Makes the verdict hold for the first n of size bytes; the rest is judged in another run. */
static __always_inline void only(struct sk_msg_md *msg, u32 n, u32 size)
{
	if (n < size)
		bpf_msg_apply_bytes(msg, n);
}

/* send() fails with EACCES, now and for ever: what follows could not be understood. */
static __always_inline int refuse(struct conn *conn, u32 reason)
{
	conn->framing.phase = PHASE_DEAD;
	count_here(conn, LANE_REFUSED, reason, 0, 0);
	return SK_DROP;
}

/* The sending socket. */
static __always_inline struct tcp_sock *tcp_of(struct sk_msg_md *msg)
{
	struct bpf_sock *sk = msg->sk;

	return sk ? bpf_skc_to_tcp_sock(sk) : NULL;
}

/*
 * Whether redirected bytes would be read in order and without piling up: the peer is still that
 * socket, it has read all that went by TCP, and it keeps up with what it was given. The reverse
 * order is safe: redirected bytes are read before those in the TCP queue.
 */
static __always_inline bool peer_is_ready(struct conn *conn, u32 write_seq)
{
	const struct tcp_sock *peer = KERNEL_AT(tcp_sock, conn->peer_sock);

	if (cookie_of(peer) != conn->peer)
		return false;
	if (peer->inet_conn.icsk_inet.sk.__sk_common.skc_state == STATE_CLOSE)
		return false;
	if (peer->copied_seq != write_seq)
		return false;
	if (psock_of(peer)->msg_tot_len > QUEUE_BYTES) {
		add(COUNT_QUEUE_FULL, 1);
		return false;
	}
	return true;
}

/* A message so small against the room in the send buffer that TCP takes all of it, in segments of
 * whatever size and whatever the kernel adds to each. */
#define SMALL_BYTES 4096
#define SMALL_ROOM 65536

static __always_inline bool fits(const struct tcp_sock *me, u32 n)
{
	const struct sock *sk = &me->inet_conn.icsk_inet.sk;

	return n <= SMALL_BYTES && sk->sk_sndbuf - sk->sk_wmem_queued > SMALL_ROOM &&
	       me->mss_cache >= 512 && !me->notsent_lowat;
}

/*
 * Whether TCP was given bytes of a client that no program has seen: by a send() that began before the
 * connection was enrolled. Such a send() waits for the handshake and goes on as it began. Or an urgent
 * byte: its receiver leaves that out (RFC 6093), and reads another text than the one that was judged.
 */
static __always_inline bool has_unjudged(const struct conn *conn, const struct tcp_sock *me)
{
	u8 state = me->inet_conn.icsk_inet.sk.__sk_common.skc_state;
	bool open = state == STATE_ESTABLISHED || state == STATE_CLOSE_WAIT ||
		    state == STATE_SYN_SENT;

	/* the end takes a number too */
	return (s32)(me->write_seq - conn->judged) > !open || me->snd_up != me->snd_una;
}

/*
 * Sends n bytes by TCP. When the send buffer is full in the middle of a message, the kernel keeps
 * an SK_PASS (psock->eval in tcp_bpf.c) for whatever the application sends next, which would go out
 * unjudged. So where that can be, the message is redirected to its own socket, which comes to the
 * same and is not kept. So it is where an earlier run may have redirected another part of this
 * message to the peer: no helper takes that back.
 */
static __always_inline void send_native(struct sk_msg_md *msg, struct conn *conn,
					const struct tcp_sock *me, u32 n, u32 size)
{
	u64 self = conn->cookie;

	conn->expected = me->write_seq + n;
	conn->sent = n;
	conn->judged += n;
	if (conn->side == SIDE_CLIENT && (conn->peer || n < size || !fits(me, n)))
		bpf_msg_redirect_hash(msg, &sockets, &self, 0);
}

/* Sends n bytes on and says which lane it was: the shortcut when it is there, TCP otherwise. */
static __always_inline u32 send_on(struct sk_msg_md *msg, struct conn *conn, u32 n, u32 size)
{
	u64 peer = conn->peer;
	struct tcp_sock *me = tcp_of(msg);

	only(msg, n, size);
	if (!me)
		return LANE_NATIVE;
	/* a peer that vanished: TCP says so better than a failed redirect */
	if (peer && peer_is_ready(conn, me->write_seq) &&
	    bpf_msg_redirect_hash(msg, &sockets, &peer, BPF_F_INGRESS) == SK_PASS) {
		conn->sent = 0;
		add(COUNT_SHORTCUT_BYTES, n);
		return LANE_SHORTCUT;
	}
	send_native(msg, conn, me, n, size);
	return LANE_NATIVE;
}

/*
 * Goes back to where TCP got to. A socket with a full buffer takes a part of a message, and what
 * it did not take comes again as another message; the framing has already walked over it. False
 * when the part ends inside a head or between chunks: that is not kept.
 */
static __always_inline bool take_back(struct conn *conn, struct sk_msg_md *msg)
{
	u32 sent = conn->sent, missing;
	bool paid = conn->paid;
	struct tcp_sock *me;

	conn->sent = 0;
	conn->paid = 0;
	if (!sent)
		return true;
	me = tcp_of(msg);
	missing = me ? conn->expected - me->write_seq : 0;
	if (!missing)
		return true;
	if (missing > sent)
		return false;
	conn->judged -= missing;
	if (missing < sent && conn->before.phase != PHASE_BODY &&
	    conn->before.phase != PHASE_CHUNK_DATA)
		return false;
	if (conn->before.phase == PHASE_HEAD) {
		conn->native--;
		conn->paid = paid;
		uncount_request(conn->asking.lane, conn->asking.reason);
		conn->asking.open = 0;
	} else {
		conn->asking.sent -= missing;
	}
	conn->framing = conn->before;
	conn->framing.left -= sent - missing;
	return true;
}

/* Turns the message into a prepared answer and puts it into the sender's own queue. */
static __always_inline int
answer_here(struct sk_msg_md *msg, struct conn *conn, struct generation *g, u32 index)
{
	struct answer *a = AT(g, answer, index);
	u32 length = a->length, size = msg->size, steps, i;
	u64 cookie = conn->cookie;
	void *data, *end;

	if (!index || !length || length > ANSWER_BYTES)
		return refuse(conn, REASON_TABLE);
	if (bpf_msg_redirect_hash(msg, &sockets, &cookie, BPF_F_INGRESS) != SK_PASS)
		return refuse(conn, REASON_NO_SERVICE);
	/*
	 * A longer answer gets memory of its own, and the request goes: both in one piece would be a
	 * second allocation and a copy of both (bpf_msg_pull_data).
	 */
	if (size < length) {
		if (bpf_msg_push_data(msg, 0, length, 0))
			return refuse(conn, REASON_TABLE);
		size += length;
	}
	if (size > length && bpf_msg_pop_data(msg, length, size - length, 0))
		return refuse(conn, REASON_TABLE);
	if (bpf_msg_pull_data(msg, 0, length, 0))
		return refuse(conn, REASON_TABLE);
	data = msg->data;
	end = msg->data_end;
	/* answers are padded to whole steps */
	steps = length / ANSWER_STEP;
	bpf_for(i, 0, ANSWER_BYTES / ANSWER_STEP) {
		u64 *to = data + i * ANSWER_STEP;
		u32 from = index + WORDS_OF(answer) + i * (ANSWER_STEP / 4);

		if (i >= steps || (void *)(to + 2) > end)
			break;
		to[0] = *(u64 *)&g->heap[from & (HEAP_WORDS - 2)];
		to[1] = *(u64 *)&g->heap[(from + 2) & (HEAP_WORDS - 2)];
	}
	return SK_PASS;
}

/* The record by which injector and agent know a connection with detours. */
static __always_inline struct flow *note_flow(struct sk_msg_md *msg, struct conn *conn, u32 flags)
{
	struct flow fresh = {}, *flow;
	u64 cookie = conn->cookie;

	conn->noted = 1;
	flow = bpf_map_lookup_elem(&flows, &cookie);
	if (!flow) {
		fresh.sock = (u64)tcp_of(msg);
		fresh.answered = conn->asked;
		fresh.bus = BUSES;
		if (bpf_map_update_elem(&flows, &cookie, &fresh, BPF_ANY)) {
			add(COUNT_FULL, 1);
			return NULL;
		}
		flow = bpf_map_lookup_elem(&flows, &cookie);
		if (!flow)
			return NULL;
	}
	if (flags & FRAME_REQUEST) {
		if (flow->answered == conn->asked) {
			conn->ahead = 0;
			/* nobody is in the middle of anything: the newest proxy may have it */
			flow->bus = BUSES;
		}
		conn->asked++;
	}
	flow->asked = conn->asked;
	flow->pid = bpf_get_current_pid_tgid() >> 32;
	return flow;
}

/*
 * Lets the connection lead to the proxy: the agent is told, and until it has seen to that, what is
 * sent waits in the socket's own queue (packet.bpf.c). False when the agent cannot be told.
 */
static __always_inline bool hold(struct flow *flow, u64 cookie)
{
	struct event *event;

	if (flow->way != WAY_BUS)
		return true;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		add(COUNT_EVENTS_LOST, 1);
		return false;
	}
	event->kind = EVENT_HELD;
	event->pad = 0;
	event->cookie = cookie;
	if (__sync_val_compare_and_swap(&flow->way, WAY_BUS, WAY_HELD) == WAY_BUS) {
		add(COUNT_HELD, 1);
		bpf_ringbuf_submit(event, 0);
	} else {
		bpf_ringbuf_discard(event, 0);
	}
	return true;
}

/* Sends by the socket's own queue, to whatever it leads to, now and from now on. */
static __always_inline void
go_direct(struct sk_msg_md *msg, struct conn *conn, struct flow *flow, const struct tcp_sock *me)
{
	u64 self = conn->cookie;

	if (flow && me && !conn->direct) {
		flow->first = me->write_seq;
		flow->direct = 1;
		conn->direct = 1;
	}
	/* rather than SK_PASS: an earlier run may have redirected another part of this message */
	bpf_msg_redirect_hash(msg, &sockets, &self, 0);
}

/* Whether the connection leads to the proxy, or will. */
static __always_inline bool leads_to_proxy(struct sk_msg_md *msg, struct conn *conn)
{
	struct flow *flow = NULL;
	u64 cookie = conn->cookie;

	if (!conn->direct) {
		if (!conn->noted)
			return false;
		if (conn->lane == LANE_NATIVE && conn->framing.phase != PHASE_HEAD)
			return false;
		flow = bpf_map_lookup_elem(&flows, &cookie);
		if (!flow || flow->way == WAY_BUS)
			return false;
	}
	go_direct(msg, conn, flow, tcp_of(msg));
	return true;
}

/*
 * Hands n bytes to the proxy behind a frame header. 0, or the reason why it could not. Nothing
 * holds a sender back on the bus, so one that runs too far ahead of its answer leaves it.
 */
static __always_inline u32
detour(struct sk_msg_md *msg, struct conn *conn, u32 n, u32 size, u32 flags, u32 reason, u32 draw)
{
	struct flow *flow = note_flow(msg, conn, flags);
	struct frame *f;
	struct settings *set;
	u32 zero = 0;

	set = bpf_map_lookup_elem(&settings, &zero);
	if (!flow || !set || !set->buses)
		return REASON_NO_PROXY;
	if (flow->bus >= BUSES)
		flow->bus = set->first_bus + mix(conn->cookie) % set->buses;
	if (bpf_msg_redirect_map(msg, &buses, flow->bus, BPF_F_INGRESS) != SK_PASS)
		return REASON_NO_PROXY;
	if (conn->ahead + n > AHEAD_BYTES && hold(flow, conn->cookie)) {
		if (conn->detoured) {
			go_direct(msg, conn, flow, tcp_of(msg));
			return 0;
		}
		/* by its first frame the proxy learns whose connection it is */
		n = AHEAD_BYTES;
	}
	conn->ahead += n;
	if (bpf_msg_push_data(msg, 0, sizeof(*f), 0))
		return REASON_TABLE;
	if (bpf_msg_pull_data(msg, 0, sizeof(*f), 0))
		return REASON_TABLE;
	f = msg->data;
	if ((void *)(f + 1) > msg->data_end)
		return REASON_TABLE;
	f->length = n;
	f->kind = FRAME_DATA;
	f->flags = flags;
	f->cookie = conn->cookie;
	f->offset = conn->detoured;
	f->draw = draw;
	f->request = conn->asked;
	f->source = conn->source;
	f->service = conn->service;
	f->caller = conn->caller;
	f->reason = reason;
	only(msg, n + sizeof(*f), size + sizeof(*f));
	conn->detoured += n;
	flow->by_bus = conn->detoured;
	add(COUNT_DETOURED_BYTES, n);
	return 0;
}

#endif
