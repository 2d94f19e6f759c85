/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* What we use of the kernel: its UAPI, and CO-RE views of the few private fields that we read. */
#ifndef BEEWAY_KERNEL_H
#define BEEWAY_KERNEL_H

#include <linux/bpf.h>
#include <stdbool.h>

/* newer than the UAPI header of Debian 12 */
struct bpf_iter_num {
	__u64 opaque[1];
} __attribute__((aligned(8)));

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_core_read.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;

#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define EOPNOTSUPP 95
#define ECONNREFUSED 111
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17

/* Views: only the fields that are read; libbpf finds their place in the running kernel. */
#define VIEW __attribute__((preserve_access_index))

struct in6_addr {
	u8 bytes[16];
};

struct ns_common {
	unsigned int inum;
} VIEW;

struct net {
	struct ns_common ns;
	u64 net_cookie;
} VIEW;

struct sock_common {
	struct { struct net *net; } skc_net;
	struct { long long counter; } skc_cookie;
	unsigned char skc_state;
	u16 skc_family;
	u16 skc_num;		/* local port, host order */
	u16 skc_dport;		/* remote port, network order */
	u32 skc_rcv_saddr;	/* local address */
	u32 skc_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	struct in6_addr skc_v6_daddr;
} VIEW;

struct file {} VIEW;

struct socket {
	struct file *file;
} VIEW;

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
} VIEW;

struct files_struct {
	struct fdtable *fdt;
} VIEW;

struct task_struct {
	int tgid;
	struct files_struct *files;
} VIEW;

struct sock {
	struct sock_common __sk_common;
	struct socket *sk_socket;
	void *sk_user_data;
	u8 sk_shutdown;
	int sk_sndbuf;
	int sk_wmem_queued;
} VIEW;

struct inet_sock {
	struct sock sk;
} VIEW;

struct inet_connection_sock {
	struct inet_sock icsk_inet;
} VIEW;

struct tcp_options_received {
	u32 ts_recent;
} VIEW;

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	struct tcp_options_received rx_opt;
	u64 bytes_received;
	u64 bytes_sent;
	u64 bytes_retrans;
	u32 rcv_nxt;
	u32 rcv_wnd;
	u32 rcv_wup;
	u32 copied_seq;
	u32 write_seq;
	u32 snd_una;
	u32 snd_up;		/* end of what is urgent; snd_una: nothing is */
	u32 snd_nxt;
	u32 snd_wnd;
	u32 mss_cache;
	u32 notsent_lowat;
	bool is_mptcp;		/* where the kernel has it: one path of several */
	void *fastopen_req;	/* what a send() that connects has to send */
} VIEW;

struct list_head {
	struct list_head *next;
	struct list_head *prev;
} VIEW;

struct sk_buff_head {
	struct sk_buff *prev;
	u32 qlen;
} VIEW;

struct sk_buff {
	u32 len;
	struct sock *sk;
	char cb[48];
} VIEW;

/* what TCP keeps in a segment's cb */
struct tcp_skb_cb {
	u32 seq;
	u32 end_seq;
} VIEW;

struct sk_msg {
	struct sk_buff *skb;
	struct list_head list;
} VIEW;

struct sk_psock {
	u32 msg_tot_len;
	struct sk_buff_head ingress_skb;
	struct list_head ingress_msg;
} VIEW;

/* Reads a kernel address as a struct; a bad address reads as zeros. */
extern void *bpf_rdonly_cast(const void *obj, __u32 btf_id) __ksym;
#define KERNEL_AT(type, address) \
	((const struct type *)bpf_rdonly_cast((void *)(address), bpf_core_type_id_kernel(struct type)))

/* A load into a variable `ip` that the compiler does not merge with that of another branch: the
 * verifier wants each field of a context or socket read at its own offset. */
#define OWN(field) ({ ip = (field); barrier_var(ip); ip; })
extern void *bpf_cast_to_kern_ctx(void *ctx) __ksym;
extern struct task_struct *bpf_task_from_pid(s32 pid) __ksym;
extern void bpf_task_release(struct task_struct *task) __ksym;

static __always_inline u64 cookie_of(const struct tcp_sock *tcp)
{
	return tcp->inet_conn.icsk_inet.sk.__sk_common.skc_cookie.counter;
}

static __always_inline const struct sk_psock *psock_of(const struct tcp_sock *tcp)
{
	/* the low bits of sk_user_data are flags (include/net/sock.h) */
	return KERNEL_AT(sk_psock, (u64)tcp->inet_conn.icsk_inet.sk.sk_user_data & ~7ull);
}

/* enum values of enum sock_flags and tcp states that we need (include/net/tcp_states.h) */
#define STATE_ESTABLISHED 1
#define STATE_SYN_SENT 2
#define STATE_CLOSE 7
#define STATE_CLOSE_WAIT 8
#define STATE_LISTEN 10

#define FNV_BASIS 2166136261u

#endif
