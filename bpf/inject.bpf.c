// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/*
 * The way back of a detour: the userspace proxy writes frames to an injector socket, and what is in
 * them goes into the receive queue of the client that each frame names.
 */
#include "lanes.h"

/* Makes the injector's write() fail. SK_DROP would do so for ever: the kernel keeps that verdict
 * (psock->eval in tcp_bpf.c). */
static __always_inline int fail_injection(struct sk_msg_md *msg)
{
	return bpf_msg_redirect_map(msg, &dead_end, 0, 0);
}

/* Reads the header of the next frame and takes it off, unless nothing would be left then. */
static __always_inline bool next_frame(struct sk_msg_md *msg, struct injection *in)
{
	struct frame *f;

	if (msg->size < sizeof(*f) || bpf_msg_pull_data(msg, 0, sizeof(*f), 0))
		return false;
	f = msg->data;
	if ((void *)(f + 1) > msg->data_end)
		return false;
	in->cookie = f->cookie;
	in->left = f->length;
	in->end = f->flags & FRAME_END;
	in->out = f->flags & FRAME_OUT;
	in->request = f->request;
	return !in->left || !bpf_msg_pop_data(msg, 0, sizeof(*f), 0);
}

/* What the answer's bytes mean for the connection's record. */
static __always_inline void note_answer(struct injection *in, u64 cookie)
{
	struct flow *flow = bpf_map_lookup_elem(&flows, &cookie);
	bool ended = !in->left && in->end;

	if (!flow)
		return;
	flow->partial = !ended;
	if (ended && in->request)
		flow->answered = in->request;
}

/*
 * The proxy's answers: a frame header, then bytes for the client's socket that it names. The
 * write fails with EPIPE when that socket is gone, and for a frame without bytes.
 */
SEC("sk_msg")
int on_inject(struct sk_msg_md *msg)
{
	struct bpf_sock *sk = msg->sk;
	struct injection *in;
	u32 size, n;
	u64 cookie, where;

	bpf_msg_apply_bytes(msg, 0);
	in = sk ? bpf_sk_storage_get(&injections, sk, 0, BPF_SK_STORAGE_GET_F_CREATE) : NULL;
	if (!in)
		return fail_injection(msg);
	if (!in->left && !next_frame(msg, in)) {
		in->left = 0;
		return fail_injection(msg);
	}
	cookie = in->cookie;
	size = msg->size;
	n = size < in->left ? size : in->left;
	in->left -= n;
	note_answer(in, cookie);
	if (!n)
		return fail_injection(msg);
	only(msg, n, size);
	where = in->out ? 0 : BPF_F_INGRESS;
	if (bpf_msg_redirect_hash(msg, &sockets, &cookie, where) != SK_PASS) {
		/* the rest of the frame, if there is one, is not written: the next write begins anew */
		in->left = 0;
		return fail_injection(msg);
	}
	add(COUNT_INJECTED_BYTES, n);
	return SK_PASS;
}
