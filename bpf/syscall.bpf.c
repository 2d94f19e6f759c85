// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/* Programs that userspace runs by BPF_PROG_TEST_RUN: the decision functions, and a look at a queue. */
#include "lanes.h"

/* In: cookie. Out: bytes that the client's socket has not read yet; found 0: it is gone. */
struct queue_query {
	u64 cookie;
	u64 queued;
	u32 found;
	u32 pad;
};

SEC("syscall")
int query_queue(struct queue_query *query)
{
	u64 cookie = query->cookie;
	struct flow *flow = bpf_map_lookup_elem(&flows, &cookie);
	const struct tcp_sock *tcp;

	query->found = 0;
	if (!flow)
		return 0;
	tcp = KERNEL_AT(tcp_sock, flow->sock);
	if (cookie_of(tcp) != cookie)
		return 0;
	query->queued = psock_of(tcp)->msg_tot_len;
	query->found = 1;
	return 0;
}

/* In: verdict's inputs and a head. Out: what on_send() would do with it. */
struct decision_query {
	struct verdict verdict;
	struct head parsed;
	u32 length;
	u32 pad;
	u8 head[HEAD_BYTES];
};

SEC("syscall")
int decide(struct decision_query *query)
{
	struct generation *g = current_generation();
	u32 length = query->length;
	struct scratch *s;
	struct verdict v = {};
	struct head h = {};
	int reason;

	if (!g || !length || length > HEAD_BYTES)
		return -1;
	/* on_send() works on the same ones */
	s = claim_scratch();
	if (!s)
		return -1;
	if (bpf_probe_read_kernel(s->head, length, query->head)) {
		release_scratch(s);
		return -1;
	}
	__builtin_memset(&s->head[length & (2 * HEAD_BYTES - 1)], 0, 8);
	v.service = query->verdict.service;
	v.endpoint = query->verdict.endpoint;
	v.source = query->verdict.source;
	v.draw = query->verdict.draw;
	reason = parse_head(s, length, &h);
	if (reason) {
		v.lane = LANE_DETOUR;
		v.reason = reason;
	} else {
		judge(g, s, &h, &v);
	}
	release_scratch(s);
	query->verdict.lane = v.lane;
	query->verdict.reason = v.reason;
	query->verdict.rule = v.rule;
	query->verdict.answer = v.answer;
	query->parsed.length = h.length;
	query->parsed.body = h.body;
	query->parsed.chunked = h.chunked;
	return 0;
}
