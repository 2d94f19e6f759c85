// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/* Programs that userspace runs by BPF_PROG_TEST_RUN: the decision functions, and what is to be known
 * of a client's socket. */
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

/* In: cookie, and the way to go on by (0: as it is). Out: the record of a connection with detours, and
 * its socket if that is still there. */
struct connection_query {
	u64 cookie;
	u32 way;		/* enum way; WAY_HELD only from WAY_BUS */
	u32 found;		/* there is a record */
	u32 open;		/* there is a socket */
	/* as in struct flow */
	u32 pid;
	u32 direct;
	u32 first;
	u32 bus;
	u32 pad;
	u64 by_bus;
	/* as in struct tcp_sock */
	u32 state;
	u32 rcv_nxt;
	u32 rcv_wnd;
	u32 rcv_wup;
	u32 snd_una;
	u32 snd_nxt;
	u32 snd_wnd;
	u32 ts_recent;
	struct address local;
	struct address remote;
};

static __always_inline void
read_ip(u32 ip[4], const struct sock_common *sk, u32 ip4, const struct in6_addr *ip6)
{
	map_ip4(ip, ip4);
	/* the verifier wants no load that is merged with those of a branch */
	barrier_var(ip);
	if (sk->skc_family != AF_INET)
		bpf_probe_read_kernel(ip, 16, ip6);
}

static __always_inline void read_socket(struct connection_query *query, const struct tcp_sock *tcp)
{
	const struct sock_common *sk = &tcp->inet_conn.icsk_inet.sk.__sk_common;
	u32 ip[4];

	query->state = sk->skc_state;
	query->rcv_nxt = tcp->rcv_nxt;
	query->rcv_wnd = tcp->rcv_wnd;
	query->rcv_wup = tcp->rcv_wup;
	query->snd_una = tcp->snd_una;
	query->snd_nxt = tcp->snd_nxt;
	query->snd_wnd = tcp->snd_wnd;
	query->ts_recent = tcp->rx_opt.ts_recent;
	query->local.port = sk->skc_num;
	query->remote.port = bpf_ntohs(sk->skc_dport);
	query->local.family = query->remote.family = sk->skc_family == AF_INET ? 4 : 6;
	read_ip(ip, sk, sk->skc_rcv_saddr, &sk->skc_v6_rcv_saddr);
	copy_ip(query->local.ip, ip);
	read_ip(ip, sk, sk->skc_daddr, &sk->skc_v6_daddr);
	copy_ip(query->remote.ip, ip);
}

SEC("syscall")
int query_connection(struct connection_query *query)
{
	u64 cookie = query->cookie;
	struct flow *flow = bpf_map_lookup_elem(&flows, &cookie);
	const struct tcp_sock *tcp;

	query->found = query->open = 0;
	if (!flow)
		return 0;
	if (query->way == WAY_HELD && !__sync_val_compare_and_swap(&flow->way, WAY_BUS, WAY_HELD))
		add(COUNT_HELD, 1);
	else if (query->way == WAY_DIRECT)
		flow->way = WAY_DIRECT;
	query->found = 1;
	query->pid = flow->pid;
	query->way = flow->way;
	query->direct = flow->direct;
	query->first = flow->first;
	query->bus = flow->bus;
	query->by_bus = flow->by_bus;
	tcp = KERNEL_AT(tcp_sock, flow->sock);
	if (cookie_of(tcp) != cookie)
		return 0;
	query->open = 1;
	read_socket(query, tcp);
	return 0;
}

#define FILES 32	/* open files looked at in one step */

/* In: cookie. Out: the descriptor that the process which sent last knows the socket by, or -1. */
struct descriptor_query {
	u64 cookie;
	u32 pid;
	s32 descriptor;
};

/* Where `wanted` is in a process's table of open files, or -1. */
static __always_inline s32 find_file(const struct fdtable *table, u64 wanted)
{
	u32 count = table->max_fds, i, j;
	u64 files[FILES], at = (u64)table->fd;

	bpf_for(i, 0, (count + FILES - 1) / FILES) {
		u32 first = i * FILES;

		if (bpf_probe_read_kernel(files, sizeof(files), (void *)(at + first * 8)))
			return -1;
		bpf_for(j, 0, FILES)
			if (files[j & (FILES - 1)] == wanted && first + j < count)
				return first + j;
	}
	return -1;
}

SEC("syscall")
int find_descriptor(struct descriptor_query *query)
{
	u64 cookie = query->cookie, wanted;
	struct flow *flow = bpf_map_lookup_elem(&flows, &cookie);
	struct task_struct *task;
	const struct tcp_sock *tcp;

	query->descriptor = -1;
	if (!flow)
		return 0;
	query->pid = flow->pid;
	tcp = KERNEL_AT(tcp_sock, flow->sock);
	if (cookie_of(tcp) != cookie)
		return 0;
	wanted = (u64)tcp->inet_conn.icsk_inet.sk.sk_socket->file;
	task = wanted ? bpf_task_from_pid(query->pid) : NULL;
	if (!task)
		return 0;
	query->descriptor = find_file(KERNEL_AT(fdtable, task->files->fdt), wanted);
	bpf_task_release(task);
	return 0;
}

/* In: a bucket and what it is like, and the time (CLOCK_MONOTONIC, ns; 0: now). Out: enum token. */
struct token_query {
	struct rate_limit limit;
	struct bucket_key key;
	u64 now;
	u32 token;
	u32 pad;
};

SEC("syscall")
int ask_token(struct token_query *query)
{
	struct rate_limit limit = {};
	struct bucket_key key = {};
	u64 now = query->now ? query->now : bpf_ktime_get_ns();

	limit.interval = query->limit.interval;
	limit.capacity = query->limit.capacity;
	limit.fill = query->limit.fill;
	key.limit = query->key.limit;
	copy_ip(key.endpoint, query->key.endpoint);
	copy_ip(key.caller, query->key.caller);
	key.port = query->key.port;
	query->token = take_token(&limit, &key, now);
	return 0;
}

/* In: a duration and a number of bytes. Out: the buckets that they are counted in (series.h). */
struct buckets_query {
	u64 duration;		/* ns */
	u64 bytes;
	u32 latency;		/* of the duration in struct latency */
	u32 milliseconds;	/* by Envoy's bounds */
	u32 size;
	u32 pad;
};

SEC("syscall")
int find_buckets(struct buckets_query *query)
{
	query->latency = latency_bucket(query->duration);
	query->milliseconds = bounded(doubled_milliseconds(query->duration));
	query->size = bounded(query->bytes * 2);
	return 0;
}

/* In: verdict's inputs and a head. Out: what on_send() would do with it, or for a visit on_receive(). */
struct decision_query {
	struct verdict verdict;
	struct head parsed;
	u32 length;
	u32 visit;		/* it came in, and is judged nowhere else */
	u8 head[HEAD_BYTES];
};

static __always_inline void
decide_visit(struct generation *g, struct scratch *s, struct head *h, struct verdict *v)
{
	enum access access = judge_request(g, s, h, v, 1);

	v->lane = access == ACCESS_PASS ? LANE_NATIVE : access == ACCESS_DENIED ? LANE_ANSWERED : LANE_REFUSED;
	v->reason = access == ACCESS_DENIED ? REASON_DENIED : REASON_VISIT;
}

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
	v.caller = query->verdict.caller;
	v.transport = IPPROTO_TCP;
	v.draw = query->verdict.draw;
	reason = parse_head(s, length, &h);
	if (reason) {
		v.lane = LANE_DETOUR;
		v.reason = reason;
	} else if (query->visit) {
		decide_visit(g, s, &h, &v);
	} else {
		judge(g, s, &h, &v);
	}
	release_scratch(s);
	query->verdict.lane = v.lane;
	query->verdict.reason = v.reason;
	query->verdict.rule = v.rule;
	query->verdict.answer = v.answer;
	query->verdict.limited = v.limited;
	query->parsed.length = h.length;
	query->parsed.body = h.body;
	query->parsed.chunked = h.chunked;
	return 0;
}
