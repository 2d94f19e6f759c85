// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/*
 * The userspace proxy's own connections to endpoints: where the other end is in the mesh and on this
 * host, bytes skip TCP as they do between clients and servers. These programs hang on the cgroup
 * that the agent runs in, look at sockets of the agent alone (the newer one, where one takes over
 * from another), and are gone when it is.
 *
 * Only where HTTP is spoken in the clear, and the proxy speaks it itself: a program may hand its
 * socket over to TLS in the kernel, which would then show us what it is about to encrypt.
 */
#include "inlet.h"

#define PASS 1

static __always_inline bool is_proxy(void)
{
	u32 zero = 0, process = bpf_get_current_pid_tgid() >> 32;
	struct settings *set = bpf_map_lookup_elem(&settings, &zero);

	return set && (set->proxy == process || set->former == process);
}

/*
 * Sockets of the bus are in maps of their own: nothing on the loopback is looked at. What has a
 * port before it connects is about to take an endpoint's place (crates/dataplane/src/divert).
 */
static __always_inline int remember(struct bpf_sock_addr *ctx, bool loopback)
{
	struct conn *conn;

	if (ctx->type != SOCK_STREAM || loopback || !is_proxy())
		return PASS;
	if (!ctx->sk || ctx->sk->src_port)
		return PASS;
	conn = bpf_sk_storage_get(&conns, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!conn) {
		add(COUNT_FULL, 1);
		return PASS;
	}
	if (conn->side == SIDE_ALONE)
		return PASS;
	conn->cookie = bpf_get_socket_cookie(ctx);
	conn->side = SIDE_PROXY;
	return PASS;
}

SEC("cgroup/connect4")
int upstream_connect4(struct bpf_sock_addr *ctx)
{
	return remember(ctx, (bpf_ntohl(ctx->user_ip4) >> 24) == 127);
}

SEC("cgroup/connect6")
int upstream_connect6(struct bpf_sock_addr *ctx)
{
	bool loopback = !ctx->user_ip6[0] && !ctx->user_ip6[1] && !ctx->user_ip6[2] &&
			ctx->user_ip6[3] == bpf_htonl(1);

	return remember(ctx, loopback);
}

/* The proxy has connected to an endpoint. */
static __always_inline void connected(struct bpf_sock_ops *ctx)
{
	struct address local = {}, remote = {};
	struct bpf_sock *sk = ctx->sk;
	struct conn *conn = sk ? bpf_sk_storage_get(&conns, sk, 0, 0) : NULL;

	if (!conn || conn->side != SIDE_PROXY || !may_shortcut())
		return;
	/* while one agent takes over from another, both have this program here */
	if (ctx->bpf_sock_ops_cb_flags & BPF_SOCK_OPS_STATE_CB_FLAG)
		return;
	if (!enrol(ctx, conn->cookie))
		return;
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_RTT_CB_FLAG);
	get_ends(ctx, &local, &remote);
	announce(ctx, sk, conn->cookie, &local, &remote);
}

/* Whether nothing waits in the queue that is given up with a socket's place in the map. */
static __always_inline bool is_drained(const struct tcp_sock *tcp)
{
	const struct sk_psock *psock = psock_of(tcp);

	return !psock->msg_tot_len && !psock->ingress_skb.qlen && tcp->rcv_nxt == tcp->copied_seq;
}

/*
 * The endpoint has acknowledged something that was sent. It stands, so what is not known of it now never
 * will be: without a place in the map the connection costs what TCP costs.
 */
static __always_inline void acknowledged(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct conn *conn = sk ? bpf_sk_storage_get(&conns, sk, 0, 0) : NULL;
	struct tcp_sock *tcp = sk ? bpf_skc_to_tcp_sock(sk) : NULL;
	u64 cookie;

	if (!conn || !tcp || conn->side != SIDE_PROXY)
		return;
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags & ~BPF_SOCK_OPS_RTT_CB_FLAG);
	cookie = conn->cookie;
	if (bpf_map_lookup_elem(&links, &cookie) || !is_drained(tcp))
		return;
	conn->side = SIDE_ALONE;
	if (!bpf_map_delete_elem(&sockets, &cookie))
		add(COUNT_RELEASED, 1);
}

static __always_inline void closed(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct conn *conn = sk ? bpf_sk_storage_get(&conns, sk, 0, 0) : NULL;
	u64 cookie;

	if (!conn || conn->side != SIDE_PROXY)
		return;
	cookie = conn->cookie;
	bpf_map_delete_elem(&links, &cookie);
}

/* The proxy is about to connect to an endpoint: what it sends there was judged. */
static __always_inline void connecting(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct conn *conn = sk ? bpf_sk_storage_get(&conns, sk, 0, 0) : NULL;

	if (conn && (conn->side == SIDE_PROXY || conn->side == SIDE_ALONE))
		announce_call(ctx);
}

SEC("sockops")
int on_upstream(struct bpf_sock_ops *ctx)
{
	if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		connecting(ctx);
	else if (ctx->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
		connected(ctx);
	else if (ctx->op == BPF_SOCK_OPS_RTT_CB)
		acknowledged(ctx);
	else if (ctx->op == BPF_SOCK_OPS_STATE_CB && ctx->args[1] == STATE_CLOSE)
		closed(ctx);
	return 1;
}
