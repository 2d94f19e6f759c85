/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* Maps of the configuration and of connections, and what stands in them. */
#ifndef BEEWAY_MAPS_H
#define BEEWAY_MAPS_H

#include "counts.h"

/* Where a connection is in its stream of requests. */
struct framing {
	u64 left;		/* bytes of the phase that are still to come */
	u8 phase;
	u8 digits;		/* of the chunk size read so far; in a trailer: whether the line has any */
	u8 last;		/* byte before, where it matters */
	u8 pad[5];
};

/*
 * A connection, as the program that sees its sends knows it. Packets are looked at on the CPU on which
 * the other end sends them, so what is written with each request lies apart from what packets only
 * read, and what packets write too has a cache line to itself: the record begins 8 bytes into one.
 */
struct conn {
	u64 cookie;
	u64 sock;		/* kernel address of this end, once it stands */
	u64 peer;		/* cookie of the other end when it is on this host, else 0 */
	u64 peer_sock;		/* kernel address of the other end, checked against the cookie */
	u8 side;
	u8 protocol;
	u8 followed;		/* its native answers are, in `answers` */
	u8 noted;		/* it has, or had, a record in `flows` */
	u8 direct;		/* all that it sends goes by WAY_DIRECT */
	u8 told;		/* the agent knows that policies forbid it now */
	u8 alone;		/* the other end is not in the mesh on this host, and will not be */
	u8 pad;
	u64 generation;		/* of the policies that a connection which is not HTTP was judged by */
	struct address source;
	struct address caller;	/* who connects: an address by which it is known */
	struct address service;	/* what the application asked for */
	struct address endpoint;/* what it got */

	/* what sends write, and packets out of here read */
	struct framing framing;
	struct framing before;	/* as it was before the last message */
	u32 judged;		/* sequence number up to which TCP's bytes were judged */
	u32 asked;		/* requests handed to the proxy */
	u32 native;		/* requests that the endpoint was given */
	u8 lane;		/* of the request under way */
	u8 paid;		/* the request that was sent last has taken its tokens */
	u8 sampled;		/* the head judged last is in `samples` */
	u8 fill;
	u32 expected;		/* write_seq once TCP has taken the last message */
	u32 sent;		/* bytes of that message; 0: it did not go by TCP */

	/* what packets write too */
	struct asking asking;

	/* what sends and the agent's sweep write */
	struct batch batch;

	u64 detoured;		/* bytes handed to the proxy */
	u64 mark;		/* progress() when the last native request was sent */
	u64 now;		/* CLOCK_MONOTONIC, ns: when the head judged last was sent */
	u32 ahead;		/* bytes by bus since no answer by detour was owed */
	u32 rest;
};

_Static_assert(sizeof(struct asking) == 64, "a cache line");
_Static_assert(sizeof(struct batch) == 64, "a cache line");
_Static_assert(__builtin_offsetof(struct conn, asking) % 64 == 56, "a cache line of its own");

#define LINE_BYTES 64	/* of a line kept until its end comes; a power of two */

enum answer_flags { ANSWER_LENGTH = 1, ANSWER_CHUNKED = 2 };

/* How far the answers to a connection's native requests have come; by the client's cookie. Written
 * by what brings the answers, but for the first two. */
struct answers {
	u64 heads;		/* bit n % 64: request n, from 0, is a HEAD */
	u32 lost;		/* too many requests at once for that */
	u32 answered;		/* native requests whose answers have ended */
	u16 status;		/* of the head under way; 0: a head begins here */
	u8 flags;		/* enum answer_flags: fields of that head */
	u8 held;		/* bytes in `line` */
	struct framing body;	/* PHASE_HEAD: in a head; PHASE_DEAD: nothing is certain */
	u8 skip;		/* in a line of no concern */
	u8 pad[7];
	u8 line[LINE_BYTES];	/* the beginning of a line that came in parts */
};

/* Names a TCP connection for both of its ends: two pods may own the same addresses, hardly the
 * same two initial sequence numbers. From the client's point of view. */
struct pair_key {
	u8 client[16];
	u8 server[16];
	u16 client_port;
	u16 server_port;
	u32 client_seq;
	u32 server_seq;
};

struct end {
	u64 cookie;
	u64 sock;
};

/* What is known of a connection with an end in the mesh that was accepted, or made when nobody
 * looked. */
struct inlet {
	u64 generation;		/* of the policies that it was last judged by here */
	u8 judged;		/* its client's end is, by a program of ours */
	u8 denied;
	u8 told;		/* the agent knows that it is denied */
	u8 visit;		/* its requests are judged here: it is in `visits` */
	u8 outgoing;		/* it was not accepted */
	u8 pad[3];
};

/* A connection that was accepted here and whose requests nobody has judged; by the cookie of the
 * accepted socket. Once bytes flow only on_receive() writes it, but for what packet_out() sees of
 * answers. */
struct visit {
	struct address caller;
	struct address called;
	struct framing framing;
	/* of the request under way, until it is counted (visit_traffic.h) */
	u64 at;			/* CLOCK_MONOTONIC, ns: when its head came */
	u64 answered;		/* when bytes of its answer left last; 0: none have */
	u64 bytes;		/* of it, that have come */
	u64 answer_bytes;	/* that have left */
	u64 bucket;		/* id of the one that had no token for it; 0: none, or policies forbid it */
	u32 answer;		/* sequence number at which its answer begins */
	u32 left;		/* and behind what has left of it */
	u32 open;		/* who counts it makes this 0 */
	u32 next;		/* sequence number behind the last segment */
	u16 status;		/* of its answer; below 200: not known yet */
	u8 sampled;		/* it is in `samples` */
	u8 denied;		/* its body is not read */
	u8 known;		/* `next` is */
	u8 pad[3];
};

/* A connection with both ends on this host; by the client's cookie. */
struct link {
	struct end server;
	u64 answered_bytes;	/* put into the client's queue by the server's sends */
	u64 answered;		/* when that was last (CLOCK_MONOTONIC, ns) */
	u32 status;		/* of the answer under way; below 200: not known yet */
	u32 pad;
};

/* A connection with detours; by the client's cookie. */
struct flow {
	u64 sock;		/* kernel address of the client's socket */
	u32 asked;		/* number of the last request handed to the proxy */
	u32 answered;		/* number of the last request whose answer has ended */
	u32 partial;		/* an answer has begun and not ended */
	u32 pid;		/* process (thread group) that sent last */
	u32 way;		/* enum way */
	u32 direct;		/* bytes have been sent that did not go by bus */
	u32 first;		/* sequence number of the first of them */
	u32 bus;		/* the one that it uses; BUSES: none yet */
	u64 by_bus;		/* how many bytes did */
};

/* What an injector socket is in the middle of. */
struct injection {
	u64 cookie;
	u32 left;
	u32 end;
	u32 request;
	u32 out;		/* the socket sends the bytes */
};

/* A connection to the proxy: the two addresses that the proxy sees too. Two pods of one address
 * cannot both talk to this host. */
struct anchor_key {
	u8 client[16];
	u8 listener[16];
	u16 client_port;
	u16 listener_port;
};

/* What a client that was led to the proxy asked for, and an address by which it is known. */
struct anchor {
	struct address service;
	struct address caller;
};

struct datagram_key {
	u64 cookie;
	u8 ip[16];
	u32 port;
	u32 pad;
};

struct line {
	u32 hash;
	u16 name;
	u16 name_length;
	u16 value;
	u16 value_length;
};

/* What is asked about a request, and the answer. */
struct verdict {
	/* in */
	struct address service;
	struct address endpoint;
	struct address source;	/* the caller's address; family 0: not known */
	struct address caller;	/* the address by which the caller is known; family 0: it is not */
	u32 draw;
	u32 transport;		/* IPPROTO_TCP or IPPROTO_UDP */
	/* out */
	u32 lane;		/* LANE_NATIVE, LANE_DETOUR or LANE_ANSWERED */
	u32 reason;
	u32 rule;		/* + 1; 0: none */
	u32 answer;		/* struct answer */
	u32 access;		/* what policies say: enum access */
	u32 guarded;		/* there are some that say something */
	u32 guard;		/* struct guard of who is called; 0: none */
	u32 limits;		/* struct rate_limits of who is called; 0: none */
	u32 limited;		/* which of them are about it, a bit each */
	u32 certain;		/* neither rules nor policies: any further request is native too */
};

/* Where a head is taken apart. Claimed for one run: sk_msg programs can be preempted. */
struct scratch {
	u32 busy;
	u32 lines_used;
	u32 reason;		/* why the last step failed */
	u32 name_hash;		/* of the field name just read */
	u32 cursor;
	u32 value_length;	/* of the query parameter just found */
	u32 path;		/* of the request under judgement */
	u32 path_length;
	u32 query;
	u32 query_length;
	u64 known;		/* predicates of the group that have been looked at, a bit each */
	u64 held;		/* those of them that hold */
	u64 high;		/* number of 128 bits that in_ranges() looks for */
	u64 low;
	u32 order;		/* of the best candidate so far */
	u32 candidate;		/* its heap index; 0: none */
	u32 unsure;		/* userspace must say whether it holds */
	u32 from;		/* bytes of the head that walk() reads, or what in_ranges() has left: up
				 * to `to` */
	u32 to;
	u32 offset;		/* of an answer: bytes followed so far */
	struct verdict verdict;
	struct line lines[HEAD_LINES];
	u8 head[HEAD_BYTES + 64];
};
#define SCRATCH_PER_CPU 4

struct settings {
	u32 abi;
	u32 buses;		/* in use for new requests */
	u32 shortcut;		/* 0: never */
	u32 first_bus;		/* index of the first of them */
	u64 generation;		/* number of the one in force, for the next agent */
	u32 proxy;		/* process of the userspace proxy that new requests go to */
	u32 former;		/* of the one that it has taken over from */
	u32 inlets;		/* who comes in is judged */
	u32 positions;		/* copied_seq counts what TCP brought, and nothing else */
	u32 telemetry;		/* requests are counted by who asks whom */
	u32 records;		/* records of each kind a CPU may begin in RECORD_WINDOW */
};

/* One slot: an array of one struct generation. The loader supplies the inner map's shape. */
MAP {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} generations SEC(".maps");

MAP {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, SOCKETS);
	__type(key, u64);
	__type(value, u64);
} sockets SEC(".maps");

MAP {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct conn);
} conns SEC(".maps");

MAP {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct injection);
} injections SEC(".maps");

MAP {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct pair_key);
	__type(value, struct end);
} pairs SEC(".maps");

/* Connections whose client's end is judged by a program of ours (server_seq is 0), and datagrams (it is
 * IPPROTO_UDP, and client_seq is when). */
MAP {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct pair_key);
	__type(value, u8);
} announced SEC(".maps");

MAP {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct inlet);
} inlets SEC(".maps");

MAP {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, VISITS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, struct visit);
} visits SEC(".maps");

MAP {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SOCKETS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, struct link);
} links SEC(".maps");

MAP {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SOCKETS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, struct flow);
} flows SEC(".maps");

MAP {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SOCKETS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, struct answers);
} answers SEC(".maps");

MAP {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, BUSES);
	__type(key, u32);
	__type(value, u64);
} buses SEC(".maps");

MAP {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, BUSES);
	__type(key, u32);
	__type(value, u64);
} injectors SEC(".maps");

/* Bytes that wait on each bus, as far as the agent has asked (sweep.bpf.c). */
MAP {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BUSES);
	__type(key, u32);
	__type(value, u64);
} depths SEC(".maps");

/* One socket that is shut for sending: what is redirected there fails with EPIPE. */
MAP {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} dead_end SEC(".maps");

/* Where the proxy listens, by enum listener. A socket that is closed leaves by itself. */
MAP {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, LISTENERS);
	__type(key, u32);
	__type(value, u64);
} listeners SEC(".maps");

/* What clients that were led to the proxy asked for. The proxy takes entries out. */
MAP {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, ANCHORS);
	__type(key, struct anchor_key);
	__type(value, struct anchor);
} anchors SEC(".maps");

/* Who runs where: an address of the workload. The agent keeps it. */
MAP {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, HOMES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct home);
	__type(value, struct address);
} homes SEC(".maps");

/* Addresses of workloads that are at home elsewhere: a process that is not known to be at home
 * there is not the workload, whatever address it has. The agent keeps it. */
MAP {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, HOUSED);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u8[16]);
	__type(value, u8);
} housed SEC(".maps");

/* Not LRU: a bucket that is forgotten would be a full one. The agent removes what has been full for
 * long. */
MAP {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, BUCKETS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct bucket_key);
	__type(value, struct bucket);
} buckets SEC(".maps");

MAP {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, CLOSED_QUEUE);
} events SEC(".maps");

/* Whom a socket exchanges datagrams with: the address that it knows him by. Family 0: he began, and what
 * he sends is judged; else it is an answer. */
MAP {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct datagram_key);
	__type(value, struct address);
} datagrams SEC(".maps");

/* max_entries is SCRATCH_PER_CPU for each possible CPU, set by the loader */
MAP {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 256 * SCRATCH_PER_CPU);
	__type(key, u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

MAP {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct settings);
} settings SEC(".maps");

/* Whether an address names a workload and is on no packet: 100::/64 (RFC 6666). */
static __always_inline bool is_made_up(const u8 *ip)
{
	const u32 *word = (const u32 *)ip;

	return word[0] == bpf_htonl(0x01000000) && !word[1];
}

/* The address of nobody: no workload owns it. */
static __always_inline bool is_nobody(const u8 *ip)
{
	const u64 *half = (const u64 *)ip;

	return !half[0] && !half[1];
}

/* Who has an address, and is at home nowhere: the workload that owns it, unless that is at home
 * elsewhere. Then nobody, and the world's rules hold: no workload owns the address zero. */
static __always_inline void name_by_address(struct address *caller, const struct address *own)
{
	*caller = *own;
	if (bpf_map_lookup_elem(&housed, own->ip))
		__builtin_memset(caller->ip, 0, sizeof(caller->ip));
}

/* Who is in no known cgroup, and in a network namespace. */
static __always_inline struct address *find_by_namespace(u64 cookie)
{
	struct home key = { .kind = HOME_REST };
	struct address *known = bpf_map_lookup_elem(&homes, &key);

	if (known && known->family)
		return known;
	key.id = cookie;
	key.kind = HOME_NAMESPACE;
	return bpf_map_lookup_elem(&homes, &key);
}

/* Cookies are not drawn at random: both ends of connections on this host take them in turn. */
static __always_inline u32 mix(u64 cookie)
{
	return cookie * 0x9E3779B97F4A7C15ull >> 32;
}

static __always_inline struct generation *current_generation(void)
{
	u32 zero = 0;
	void *inner = bpf_map_lookup_elem(&generations, &zero);

	return inner ? bpf_map_lookup_elem(inner, &zero) : NULL;
}

static __always_inline struct scratch *claim_scratch(void)
{
	u32 first = bpf_get_smp_processor_id() * SCRATCH_PER_CPU;

	for (u32 i = 0; i < SCRATCH_PER_CPU; i++) {
		u32 key = first + i;
		struct scratch *s = bpf_map_lookup_elem(&scratches, &key);

		if (s && !__sync_val_compare_and_swap(&s->busy, 0, 1))
			return s;
	}
	return NULL;
}

static __always_inline void release_scratch(struct scratch *s)
{
	__sync_lock_test_and_set(&s->busy, 0);
}

#endif
