// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/* What an enrolled socket receives by TCP. */
#include "answers.h"
#include "visit.h"

static __always_inline long load_skb(void *skb, u32 at, u32 n, void *to)
{
	return bpf_skb_load_bytes(skb, at, to, n);
}

static __always_inline const struct tcp_skb_cb *segment_at(u64 skb)
{
	return KERNEL_AT(tcp_skb_cb, KERNEL_AT(sk_buff, skb)->cb);
}

/* The segment that a socket's queue holds last; 0 if what it holds last skipped TCP, or nothing. */
static __always_inline u64 last_segment(const struct sk_psock *psock)
{
	const struct list_head *tail = psock->ingress_msg.prev;

	/* those that wait for memory are behind the others */
	if (psock->ingress_skb.qlen)
		return (u64)psock->ingress_skb.prev;
	if (tail == &psock->ingress_msg)
		return 0;
	return (u64)KERNEL_AT(sk_msg, (u64)tail - bpf_core_field_offset(struct sk_msg, list))->skb;
}

/*
 * How many bytes at the beginning of a segment have come before. A sender need not repeat by the
 * segments that were acknowledged; TCP's own readers skip what they have, but a queue under this
 * program is given whole segments (tcp_read_skb()), and the application would read bytes twice.
 */
static __always_inline u32
repeated(const struct tcp_sock *tcp, const struct tcp_skb_cb *segment, const struct visit *visit)
{
	u64 last = last_segment(psock_of(tcp));
	/* bytes skip TCP only when all that came by TCP was read */
	u32 end = last ? segment_at(last)->end_seq : tcp->copied_seq;
	struct settings *set;
	u32 zero = 0;
	s32 n;

	/* what the queue was not given may be behind what it holds */
	if (visit && visit->known)
		end = visit->next;
	n = end - segment->seq;
	if (n <= 0)
		return 0;
	set = bpf_map_lookup_elem(&settings, &zero);
	return set && set->positions ? n : 0;
}

#define CUT_BYTES 4095		/* that one call of the helper takes off */

/* Takes the first n bytes off a segment; false when there is no memory for that. */
static __always_inline bool cut(struct __sk_buff *skb, u32 n)
{
	s32 rest = n % CUT_BYTES;
	u32 i;

	bpf_for(i, 0, n / CUT_BYTES)
		if (bpf_skb_adjust_room(skb, -CUT_BYTES, 0, 0))
			return false;
	return !rest || !bpf_skb_adjust_room(skb, -rest, 0, 0);
}

/*
 * Lets bytes from TCP pass, and follows the answers in them where that is wanted. What passes here
 * is put behind the bytes that skipped TCP, so that a socket has one queue: a read takes from one
 * only, and a program that is told once of what has come does not read again. Its presence also
 * makes FIONREAD answer for sockets under sk_msg on kernels since commit 929e30f93125.
 */
SEC("sk_skb/stream_verdict")
int on_receive(struct __sk_buff *skb)
{
	/* there is no socket storage here */
	u64 cookie = bpf_get_socket_cookie(skb), at = (u64)bpf_cast_to_kern_ctx(skb);
	const struct tcp_sock *tcp = KERNEL_AT(tcp_sock, KERNEL_AT(sk_buff, at)->sk);
	const struct tcp_skb_cb *segment = segment_at(at);
	/* a client's socket, or an accepted one */
	struct answers *a = bpf_map_lookup_elem(&answers, &cookie);
	struct visit *visit = a ? NULL : bpf_map_lookup_elem(&visits, &cookie);
	u32 again = repeated(tcp, segment, visit);

	if (again && again < skb->len) {
		add(COUNT_REPEATED_BYTES, again);
		if (!cut(skb, again))
			return SK_DROP;
	}
	if (visit) {
		visit->next = segment->end_seq;
		visit->known = 1;
		return on_visit(skb, visit, tcp, cookie);
	}
	if (a)
		follow_answers(a, skb, skb->len, load_skb);
	return SK_PASS;
}
