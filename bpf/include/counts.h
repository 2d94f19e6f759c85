/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* Maps of what is counted and told of. Who does so is traffic.h, but for plain counters. */
#ifndef BEEWAY_COUNTS_H
#define BEEWAY_COUNTS_H

#include "kernel.h"
#include "abi.h"
#include "map.h"

/* A request that went to its endpoint, until what came of it is counted (traffic.h); or, of a
 * connection that is not HTTP, the connection. */
struct asking {
	u64 at;			/* CLOCK_MONOTONIC, ns: when its head was sent */
	u64 answered;		/* when bytes of its answer came last by TCP; 0: none have */
	u64 sent;		/* bytes of it */
	u64 received;		/* bytes that had come by TCP before */
	u64 shortcut;		/* and past TCP */
	u32 answer;		/* sequence number at which its answer begins */
	u32 open;		/* it is under way: who counts it makes this 0 */
	u16 status;		/* of its answer; below 200: not known yet */
	u8 lane;
	u8 reason;
	u8 sampled;		/* it is in `samples` */
	u8 pad[11];
};

/* In which buckets of the histograms a request is counted. */
struct bins {
	u16 latency;
	u16 duration : 5;
	u16 request_size : 5;
	u16 response_size : 5;
};

_Static_assert(BOUNDS <= 32, "5 bits");

#define BATCH 7		/* requests of a connection that are counted at once, at most */

/* Requests of one connection and one series that are over, until they are counted (series.h). */
struct batch {
	u64 request_bytes;
	u64 response_bytes;
	u64 duration;		/* ns */
	u32 busy;		/* somebody is at it */
	u32 length;
	u16 status;		/* of their answers */
	u8 lane;
	u8 reason;
	struct bins bins[BATCH];
};

/* Records of a CPU's present window: of what goes to its endpoint, and of what does not. */
struct budget {
	u64 window;
	u32 used[2];
};

MAP {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LANES * REASONS);
	__type(key, u32);
	__type(value, u64);
} requests SEC(".maps");

MAP {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, u32);
	__type(value, u64);
} counters SEC(".maps");

/* max_entries is less where there are many CPUs, set by the loader. It makes those of
 * what there is no room for beforehand. */
MAP {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, SERIES);
	__type(key, struct traffic_key);
	__type(value, struct traffic);
} traffic SEC(".maps");

MAP {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, LATENCIES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct latency_key);
	__type(value, struct latency);
} latencies SEC(".maps");

/* Requests under way that will be told of, by the cookie of the socket at which they are seen. */
MAP {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, SAMPLES);
	__type(key, u64);
	__type(value, struct record);
} samples SEC(".maps");

MAP {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RECORD_QUEUE);
} records SEC(".maps");

MAP {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct budget);
} budgets SEC(".maps");

static __always_inline void add(u32 counter, u64 n)
{
	u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		*value += n;
}

static __always_inline void count_request(u32 lane, u32 reason)
{
	u32 at = lane * REASONS + reason;
	u64 *value = bpf_map_lookup_elem(&requests, &at);

	/* programs of one CPU interrupt one another */
	if (value)
		__sync_fetch_and_add(value, 1);
}

/* A request whose message comes again. */
static __always_inline void uncount_request(u32 lane, u32 reason)
{
	u32 at = lane * REASONS + reason;
	u64 *value = bpf_map_lookup_elem(&requests, &at);

	if (value)
		__sync_fetch_and_add(value, -1);
}

#endif
