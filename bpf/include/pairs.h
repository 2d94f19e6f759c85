/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* How the two ends of a connection find each other when both are on this host. */
#ifndef BEEWAY_PAIRS_H
#define BEEWAY_PAIRS_H

#include "balance.h"

/* Whether bytes may skip TCP. */
static __always_inline bool may_shortcut(void)
{
	u32 zero = 0;
	struct settings *set = bpf_map_lookup_elem(&settings, &zero);

	return set && set->shortcut;
}

/* Local and remote address of a socket, as sockops shows them. */
static __always_inline void
get_ends(struct bpf_sock_ops *ctx, struct address *local, struct address *remote)
{
	u32 ip, *to = (u32 *)local->ip, *peer = (u32 *)remote->ip;

	if (ctx->family == AF_INET) {
		map_ip4(local->ip, OWN(ctx->local_ip4));
		map_ip4(remote->ip, OWN(ctx->remote_ip4));
	} else {
		to[0] = OWN(ctx->local_ip6[0]);
		to[1] = OWN(ctx->local_ip6[1]);
		to[2] = OWN(ctx->local_ip6[2]);
		to[3] = OWN(ctx->local_ip6[3]);
		peer[0] = OWN(ctx->remote_ip6[0]);
		peer[1] = OWN(ctx->remote_ip6[1]);
		peer[2] = OWN(ctx->remote_ip6[2]);
		peer[3] = OWN(ctx->remote_ip6[3]);
	}
	local->family = remote->family = ctx->family == AF_INET ? 4 : 6;
	local->port = ctx->local_port;
	remote->port = bpf_ntohl(ctx->remote_port);
}

static __always_inline bool enrol(struct bpf_sock_ops *ctx, u64 cookie)
{
	if (bpf_sock_hash_update(ctx, &sockets, &cookie, BPF_ANY)) {
		add(COUNT_NOT_ENROLLED, 1);
		return false;
	}
	add(COUNT_ENROLLED, 1);
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	return true;
}

/* By what both ends know a connection: its addresses and initial sequence numbers. */
static __always_inline struct pair_key
pair_key_of(const struct address *client, const struct address *server, u32 client_seq, u32 server_seq)
{
	struct pair_key key = {};

	copy_ip(key.client, client->ip);
	copy_ip(key.server, server->ip);
	key.client_port = client->port;
	key.server_port = server->port;
	key.client_seq = client_seq;
	key.server_seq = server_seq;
	return key;
}

/* The connecting end stands: tell the other one, which stands a moment later. */
static __always_inline void
announce(struct bpf_sock_ops *ctx, struct bpf_sock *sk, u64 cookie, const struct address *local,
	 const struct address *remote)
{
	struct pair_key key = pair_key_of(local, remote, ctx->snd_nxt, ctx->rcv_nxt);
	struct end end = {};

	end.cookie = cookie;
	end.sock = (u64)bpf_skc_to_tcp_sock(sk);
	if (bpf_map_update_elem(&pairs, &key, &end, BPF_ANY))
		add(COUNT_FULL, 1);
}

/* The accepting end stands: who is at the other one, when that is one of ours. */
static __always_inline bool find_client(struct bpf_sock_ops *ctx, struct end *client)
{
	struct address local = {}, remote = {};
	struct pair_key key;
	struct end *found;

	get_ends(ctx, &local, &remote);
	key = pair_key_of(&remote, &local, ctx->rcv_nxt, ctx->snd_nxt);
	found = bpf_map_lookup_elem(&pairs, &key);
	if (!found)
		return false;
	*client = *found;
	bpf_map_delete_elem(&pairs, &key);
	return true;
}

/* Tells each end of the other. */
static __always_inline bool
pair(struct conn *conn, struct bpf_sock *sk, const struct end *client)
{
	struct link link = {};

	link.server.cookie = conn->cookie;
	link.server.sock = (u64)bpf_skc_to_tcp_sock(sk);
	if (bpf_map_update_elem(&links, &client->cookie, &link, BPF_ANY)) {
		add(COUNT_FULL, 1);
		return false;
	}
	conn->peer = client->cookie;
	conn->peer_sock = client->sock;
	return true;
}

#endif
