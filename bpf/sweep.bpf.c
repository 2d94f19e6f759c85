// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/* Looks at all connections when the agent asks: what is over and nobody has counted yet. */
#include "order.h"
#include "visit_traffic.h"

struct bpf_iter_meta;

struct bpf_map;

struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	struct sock *sk;
	void *value;
};

/* Whether the answer to the request under way has come, as far as can be told: its end where answers
 * are followed, and else that it has begun and been still for STILL. */
static __always_inline bool is_over(struct conn *conn)
{
	struct answers *a = conn->followed ? answers_of(conn) : NULL;
	u64 last = conn->asking.answered;
	struct link *l;

	if (a && a->body.phase != PHASE_DEAD)
		return !answers_owed(a, conn->native);
	l = link_of(conn);
	if (l && l->answered > last)
		last = l->answered;
	return last > conn->asking.at && bpf_ktime_get_ns() - last > STILL;
}

SEC("iter/bpf_sk_storage_map")
int sweep(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct conn *conn = ctx->value;

	if (!conn || !ctx->sk || conn->side != SIDE_CLIENT)
		return 0;
	if (conn->asking.open && conn->protocol != PROTOCOL_HTTP)
		count_connection(conn, false);
	else if (conn->asking.open && is_over(conn))
		settle(conn);
	flush(conn);
	return 0;
}

/* The same for who comes in. */
SEC("iter/bpf_sk_storage_map")
int sweep_visits(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct inlet *inlet = ctx->value;
	struct visit *visit;
	u64 cookie;

	if (!inlet || !ctx->sk || !inlet->visit)
		return 0;
	cookie = cookie_of(KERNEL_AT(tcp_sock, ctx->sk));
	visit = bpf_map_lookup_elem(&visits, &cookie);
	if (visit && visit->open && visit->answered > visit->at &&
	    bpf_ktime_get_ns() - visit->answered > STILL)
		settle_visit(visit, cookie);
	return 0;
}

struct bpf_iter__sockmap {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	void *key;
	struct sock *sk;
};

/* Notes what waits to be read on each bus. */
SEC("iter/sockmap")
int measure_buses(struct bpf_iter__sockmap *ctx)
{
	u32 *key = ctx->key, at;
	u64 *depth;

	if (!key)
		return 0;
	at = *key;
	depth = bpf_map_lookup_elem(&depths, &at);
	if (depth)
		*depth = ctx->sk ? psock_of(KERNEL_AT(tcp_sock, ctx->sk))->msg_tot_len : 0;
	return 0;
}
