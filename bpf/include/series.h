/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * Where traffic is counted: a series for all requests that are alike, and a histogram of how long they took
 * for each caller and service. Finding both costs several times what adding to them does, so a
 * connection's requests are counted some at a time.
 */
#ifndef BEEWAY_SERIES_H
#define BEEWAY_SERIES_H

#include "balance.h"

static const struct traffic no_traffic;
static const struct latency no_latency;

/* Upper bounds of Envoy's histograms, doubled to be whole; filled up to a power of two. */
static const u64 bounds[32] = {
	1, 2, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 60000, 120000, 600000,
	1200000, 3600000, 7200000, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull,
	~0ull, ~0ull, ~0ull, ~0ull,
};

/* The bucket of a value, doubled. */
__weak __noinline u32 bounded(u64 doubled)
{
	u32 at = 0;

	for (u32 step = 16; step; step /= 2)
		if (bounds[(at + step - 1) & 31] < doubled)
			at += step;
	return at < BOUNDS ? at : BOUNDS - 1;
}

/* Twice the milliseconds, rounded up: a bound belongs to its bucket. */
static __always_inline u64 doubled_milliseconds(u64 ns)
{
	return (ns * 2 + 999999) / 1000000;
}

/* The bucket of a duration (crates/telemetry/src/latency.rs). */
static __always_inline u32 latency_bucket(u64 ns)
{
	u64 units = ns >> LATENCY_SHIFT;
	u32 doublings = 0;

	if (units >= 2 * LATENCY_STEPS)
		doublings = 63 - __builtin_clzll(units) - 6;
	if (doublings >= LATENCY_DOUBLINGS)
		return LATENCY_BUCKETS - 1;
	return LATENCY_STEPS * doublings + (units >> doublings);
}

/* The series of so many requests. */
static __always_inline struct traffic *find_series(struct traffic_key *key, u32 requests)
{
	struct traffic *t = bpf_map_lookup_elem(&traffic, key);
	struct traffic_key rest = {};

	if (t)
		return t;
	bpf_map_update_elem(&traffic, key, &no_traffic, BPF_NOEXIST);
	t = bpf_map_lookup_elem(&traffic, key);
	if (t)
		return t;
	add(COUNT_SERIES_FULL, requests);
	rest.status = key->status / 100 % 10 * 100;
	rest.lane = key->lane;
	rest.kind = key->kind;
	return bpf_map_lookup_elem(&traffic, &rest);
}

static __always_inline void plus(u64 *sum, u64 n)
{
	__sync_fetch_and_add(sum, n);
}

static __always_inline struct latency *find_latency(const struct traffic_key *key)
{
	struct latency_key at = {
		.port = key->port, .cpu = bpf_get_smp_processor_id(), .kind = key->kind,
	};
	struct latency *l;

	copy_ip(at.source, key->source);
	copy_ip(at.service, key->service);
	l = bpf_map_lookup_elem(&latencies, &at);
	if (l)
		return l;
	bpf_map_update_elem(&latencies, &at, &no_latency, BPF_NOEXIST);
	return bpf_map_lookup_elem(&latencies, &at);
}

static __always_inline void
find_bins(struct bins *b, u64 duration, u64 request_bytes, u64 response_bytes)
{
	b->latency = latency_bucket(duration);
	b->duration = bounded(doubled_milliseconds(duration));
	b->request_size = bounded(request_bytes * 2);
	b->response_size = bounded(response_bytes * 2);
}

static __always_inline void count_bin(u64 *bins, u32 at)
{
	/* or what is compared is another copy than what the verifier sees used */
	barrier_var(at);
	if (at < BOUNDS)
		plus(&bins[at], 1);
}

static __always_inline void count_in(struct traffic *t, struct latency *l, const struct bins *b)
{
	u32 latency = b->latency;

	count_bin(t->durations, b->duration);
	count_bin(t->request_sizes, b->request_size);
	count_bin(t->response_sizes, b->response_size);
	barrier_var(latency);
	if (l && latency < LATENCY_BUCKETS)
		plus(&l->buckets[latency], 1);
	else
		add(COUNT_LATENCIES_LOST, 1);
}

static __always_inline void
count_sums(struct traffic *t, u32 requests, u64 duration, u64 request_bytes, u64 response_bytes)
{
	plus(&t->count, requests);
	plus(&t->request_bytes, request_bytes);
	plus(&t->response_bytes, response_bytes);
	plus(&t->duration, duration);
}

/* Counts a request that is over. */
__weak __noinline int
count_over(struct traffic_key *key, u64 duration, u64 request_bytes, u64 response_bytes)
{
	struct traffic *t = key ? find_series(key, 1) : NULL;
	struct bins bins;

	if (!t)
		return 0;
	count_sums(t, 1, duration, request_bytes, response_bytes);
	find_bins(&bins, duration, request_bytes, response_bytes);
	count_in(t, find_latency(key), &bins);
	return 0;
}

/* Whether it is known who is, or would have been, called. */
static __always_inline bool is_called(const struct traffic_key *key)
{
	return key->lane <= LANE_SHORTCUT || key->reason == REASON_DENIED ||
	       key->reason == REASON_RATE_LIMITED;
}

/* Under which series requests of a connection are counted, but for their status. */
static __always_inline void
name_traffic(struct traffic_key *key, const struct conn *conn, u32 lane, u32 reason)
{
	copy_ip(key->source, conn->caller.ip);
	copy_ip(key->service, conn->service.ip);
	key->port = conn->service.port;
	key->lane = lane;
	key->reason = reason;
	if (is_called(key))
		copy_ip(key->endpoint, conn->endpoint.ip);
}

/* Counts what a connection has in its batch, which nobody else is at, and empties it. */
__weak __noinline int count_batch(struct conn *conn)
{
	struct batch *batch = conn ? &conn->batch : NULL;
	struct traffic_key key = {};
	struct latency *l;
	struct traffic *t;

	if (!batch)
		return 0;
	name_traffic(&key, conn, batch->lane, batch->reason);
	key.status = batch->status;
	t = find_series(&key, batch->length);
	l = find_latency(&key);
	if (t) {
		count_sums(t, batch->length, batch->duration, batch->request_bytes,
			   batch->response_bytes);
		for (u32 i = 0; i < BATCH && i < batch->length; i++)
			count_in(t, l, &batch->bins[i]);
	}
	batch->request_bytes = batch->response_bytes = batch->duration = 0;
	batch->length = 0;
	return 0;
}

/*
 * Counts a request of a connection that is over, with those that follow: finding where to count is what
 * costs, and it is the same for all of them. The agent has what is left counted whenever it looks.
 */
static __always_inline void count_later(struct conn *conn, struct traffic_key *key, u64 duration,
					u64 request_bytes, u64 response_bytes)
{
	struct batch *batch = &conn->batch;
	u32 at;

	if (__sync_lock_test_and_set(&batch->busy, 1)) {
		count_over(key, duration, request_bytes, response_bytes);
		return;
	}
	if (batch->length && (batch->status != key->status || batch->lane != key->lane ||
			      batch->reason != key->reason))
		count_batch(conn);
	batch->status = key->status;
	batch->lane = key->lane;
	batch->reason = key->reason;
	batch->request_bytes += request_bytes;
	batch->response_bytes += response_bytes;
	batch->duration += duration;
	at = batch->length;
	if (at < BATCH)
		find_bins(&batch->bins[at], duration, request_bytes, response_bytes);
	batch->length = at + 1;
	if (at + 1 >= BATCH)
		count_batch(conn);
	__sync_lock_test_and_set(&batch->busy, 0);
}

/* Counts what a connection has in its batch; whoever is at it does so otherwise. */
__weak __noinline int flush(struct conn *conn)
{
	struct batch *batch = conn ? &conn->batch : NULL;

	if (!batch || !batch->length || __sync_lock_test_and_set(&batch->busy, 1))
		return 0;
	count_batch(conn);
	__sync_lock_test_and_set(&batch->busy, 0);
	return 0;
}

#endif
