// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/* What an enrolled socket receives by TCP. */
#include "answers.h"

static __always_inline long load_skb(void *skb, u32 at, u32 n, void *to)
{
	return bpf_skb_load_bytes(skb, at, to, n);
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
	u64 cookie = bpf_get_socket_cookie(skb);
	struct answers *a = bpf_map_lookup_elem(&answers, &cookie);

	if (a)
		follow_answers(a, skb, skb->len, load_skb);
	return SK_PASS;
}
