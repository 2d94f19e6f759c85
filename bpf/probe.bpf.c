// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/*
 * What `beeway doctor` loads to learn what a kernel can do: one tiny program for each thing that
 * the real ones rely on. An object of its own, never pinned; crates/dataplane/src/probe.rs loads
 * each program alone, gives it something to do and looks at the effect.
 */
#include "kernel.h"

/* weak, so that its absence fails one program and not the whole object */
extern void *bpf_rdonly_cast(const void *obj, __u32 btf_id) __ksym __weak;
extern void *bpf_cast_to_kern_ctx(void *ctx) __ksym __weak;

#define PROBE_PORT 9	/* "discard" (RFC 863): what clients ask for */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} target SEC(".maps");		/* the port that stands for PROBE_PORT, host byte order */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} seen SEC(".maps");		/* bytes that passed a program */

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 8);
	__type(key, u32);
	__type(value, u64);
} ends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} records SEC(".maps");

static __always_inline int swap_port(struct bpf_sock_addr *ctx, bool to_target)
{
	u32 zero = 0, *port = bpf_map_lookup_elem(&target, &zero);
	u32 from, to;

	if (!port)
		return 1;
	from = bpf_htons(to_target ? PROBE_PORT : *port);
	to = bpf_htons(to_target ? *port : PROBE_PORT);
	if (ctx->user_port == from)
		ctx->user_port = to;
	return 1;
}

#define SWAP(hook, to_target) \
	SEC("cgroup/" #hook) int probe_##hook(struct bpf_sock_addr *ctx) \
	{ return swap_port(ctx, to_target); }

SWAP(connect4, true)
SWAP(connect6, true)
SWAP(sendmsg4, true)
SWAP(sendmsg6, true)
SWAP(recvmsg4, false)
SWAP(recvmsg6, false)
SWAP(getpeername4, false)
SWAP(getpeername6, false)

/* enrols the connecting end under key 0, the accepting end under key 1 */
SEC("sockops")
int probe_sockops(struct bpf_sock_ops *ctx)
{
	u32 key;

	if (ctx->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
		key = 0;
	else if (ctx->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		key = 1;
	else
		return 1;
	bpf_sock_hash_update(ctx, &ends, &key, BPF_ANY);
	return 1;
}

static __always_inline void saw(u32 bytes)
{
	u32 zero = 0;
	u64 *sum = bpf_map_lookup_elem(&seen, &zero);

	if (sum)
		__sync_fetch_and_add(sum, bytes);
}

SEC("sk_msg")
int probe_msg(struct sk_msg_md *msg)
{
	saw(msg->size);
	return SK_PASS;
}

SEC("sk_msg")
int probe_redirect(struct sk_msg_md *msg)
{
	u32 peer = 1;

	saw(msg->size);
	return bpf_msg_redirect_hash(msg, &ends, &peer, BPF_F_INGRESS);
}

/* a first message skips TCP, what follows does not */
SEC("sk_msg")
int probe_redirect_first(struct sk_msg_md *msg)
{
	u32 zero = 0, peer = 1;
	u64 *sum = bpf_map_lookup_elem(&seen, &zero);

	if (!sum || *sum)
		return SK_PASS;
	*sum = 1;
	return bpf_msg_redirect_hash(msg, &ends, &peer, BPF_F_INGRESS);
}

/* how far the socket's reader is ahead of the segment that comes, plus 1 */
SEC("sk_skb/stream_verdict")
int probe_position(struct __sk_buff *skb)
{
	u64 segment = (u64)bpf_cast_to_kern_ctx(skb);
	const struct sk_buff *buffer = KERNEL_AT(sk_buff, segment);
	u32 seq = KERNEL_AT(tcp_skb_cb, buffer->cb)->seq;

	saw(KERNEL_AT(tcp_sock, buffer->sk)->copied_seq - seq);
	return SK_PASS;
}

SEC("sk_skb/stream_verdict")
int probe_skb(struct __sk_buff *skb)
{
	saw(skb->len);
	return SK_PASS;
}

struct probe_answer {
	u64 value;
};

SEC("syscall")
int probe_syscall(struct probe_answer *answer)
{
	answer->value = answer->value + 1;
	return 0;
}

SEC("syscall")
int probe_iterator(struct probe_answer *answer)
{
	u64 sum = 0;
	int i;

	bpf_for(i, 0, 101)
		sum += i;
	answer->value = sum;
	return 0;
}

/* this process's number, read through a cast */
SEC("syscall")
int probe_cast(struct probe_answer *answer)
{
	u64 task = bpf_get_current_task();
	int tgid = bpf_get_current_pid_tgid() >> 32;

	answer->value = KERNEL_AT(task_struct, task)->tgid == tgid;
	return 0;
}

SEC("syscall")
int probe_ring(struct probe_answer *answer)
{
	u64 value = answer->value;

	return bpf_ringbuf_output(&records, &value, sizeof(value), 0);
}

char _license[] SEC("license") = "Dual BSD/GPL";
