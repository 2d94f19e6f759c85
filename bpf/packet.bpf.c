// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/*
 * Packets of clients' connections with detours. Nearly all pass. Two kinds do not:
 *
 *   - Those of a connection that is held, both ways: what the client sends waits in its own send
 *     queue, with TCP's own back-pressure, until the agent has put the proxy in the endpoint's
 *     place. Then packets pass by the loopback device only; those of the endpoint are dropped.
 *   - What an endpoint says while the client waits for an answer by detour: the end of a connection
 *     that was idle to it, mostly. It is not the answer that the client waits for. The connection
 *     is held then, and the proxy takes the endpoint's place.
 */
#include "order.h"

#define PASS 1
#define DROP 0
#define LOOPBACK_IFINDEX 1	/* in every network namespace (include/net/net_namespace.h) */
#define TCP_BYTES 20
#define FIN_OR_RST 5

/* The client's connection with detours that a packet belongs to. */
static __always_inline struct conn *conn_of(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct conn *conn = sk ? bpf_sk_storage_get(&conns, sk, 0, 0) : NULL;

	return conn && conn->noted && conn->side == SIDE_CLIENT ? conn : NULL;
}

SEC("cgroup_skb/egress")
int packet_out(struct __sk_buff *skb)
{
	struct conn *conn = conn_of(skb);
	struct flow *flow;
	u64 cookie;

	if (!conn)
		return PASS;
	cookie = conn->cookie;
	flow = bpf_map_lookup_elem(&flows, &cookie);
	/* what waits in the send queue is for the proxy: it goes there or nowhere */
	if (conn->direct)
		return skb->ifindex == LOOPBACK_IFINDEX && (!flow || flow->way == WAY_DIRECT);
	return flow && flow->way == WAY_HELD ? DROP : PASS;
}

/* Whether a packet carries bytes, or an end. It begins with its IP header. */
static __always_inline bool says_something(struct __sk_buff *skb)
{
	u8 first, header[TCP_BYTES];
	u32 at = 40;

	if (bpf_skb_load_bytes(skb, 0, &first, 1))
		return false;
	if (first >> 4 == 4)
		at = (first & 15) * 4;
	/* behind extension headers of IPv6 nothing is looked for */
	if (bpf_skb_load_bytes(skb, at, header, sizeof(header)))
		return false;
	return header[13] & FIN_OR_RST || skb->len > at + (header[12] >> 4) * 4;
}

/* Whether the client waits for an answer by detour, and for nothing else. */
static __always_inline bool waits_for_proxy(struct conn *conn)
{
	if (conn->framing.phase == PHASE_STICKY)
		return true;
	/* where native answers are not followed, one may still be coming */
	return detour_outstanding(conn) && (conn->followed || !conn->native);
}

SEC("cgroup_skb/ingress")
int packet_in(struct __sk_buff *skb)
{
	struct conn *conn = conn_of(skb);
	struct settings *set;
	struct flow *flow;
	u64 cookie;
	u32 zero = 0;

	if (!conn)
		return PASS;
	cookie = conn->cookie;
	flow = bpf_map_lookup_elem(&flows, &cookie);
	if (!flow)
		return !conn->direct || skb->ifindex == LOOPBACK_IFINDEX;
	if (flow->way != WAY_BUS)
		return flow->way == WAY_DIRECT && skb->ifindex == LOOPBACK_IFINDEX;
	if (!waits_for_proxy(conn) || !says_something(skb))
		return PASS;
	set = bpf_map_lookup_elem(&settings, &zero);
	return set && set->buses && hold(flow, cookie) ? DROP : PASS;
}
