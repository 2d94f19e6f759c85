/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/*
 * What is counted and told of requests that are judged where they come in (visit.h).
 *
 * One that passes is counted when it is over, as its client's end would (traffic.h): when the next one
 * comes, when the connection closes, or when the agent's sweep finds its answer still. What the answer
 * is is read where it leaves (packet.bpf.c).
 */
#ifndef BEEWAY_VISIT_TRAFFIC_H
#define BEEWAY_VISIT_TRAFFIC_H

#include "traffic.h"

static __always_inline void
name_visit(struct traffic_key *key, const struct visit *visit, u32 lane, u32 reason, u32 status)
{
	copy_ip(key->source, visit->caller.ip);
	copy_ip(key->service, visit->called.ip);
	copy_ip(key->endpoint, visit->called.ip);
	key->port = visit->called.port;
	key->status = status;
	key->lane = lane;
	key->reason = reason;
	key->kind = TRAFFIC_VISIT;
}

static __always_inline void name_record(struct record *record, const struct visit *visit)
{
	record->source = record->caller = visit->caller;
	record->service = record->endpoint = visit->called;
}

/* Why a request is not let in. */
static __always_inline u32 why_denied(const struct visit *visit)
{
	return visit->bucket ? REASON_RATE_LIMITED : REASON_DENIED;
}

/* Tells of a request that is not let in. */
static __always_inline void tell_visit(const struct visit *visit, struct scratch *s, u32 length)
{
	struct traffic_key key = {
		.kind = TRAFFIC_VISIT, .lane = LANE_ANSWERED, .reason = why_denied(visit),
	};
	struct settings *set = telemetry_settings();
	struct record *record;

	record = set ? new_record(set, &key, bpf_ktime_get_ns()) : NULL;
	if (!record)
		return;
	name_record(record, visit);
	record->status = visit->status;
	keep_head(record, s, length);
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
}

/* Counts a request that is not let in, by who asked for what. */
static __always_inline void count_visit(const struct visit *visit, u32 lane, u32 reason, u32 status)
{
	struct traffic_key key = {};

	count_request(lane, reason);
	if (!telemetry_settings())
		return;
	name_visit(&key, visit, lane, reason, status);
	count_over(&key, 0, 0, 0);
}

/* Counts the request under way, of which there will not be more. The cookie is its socket's. */
__weak __noinline int settle_visit(struct visit *visit, u64 cookie)
{
	struct settings *set = telemetry_settings();
	struct traffic_key key = {};
	struct record *record;
	u64 duration;

	if (!visit || !visit->open || !__sync_lock_test_and_set(&visit->open, 0) || !set)
		return 0;
	name_visit(&key, visit, LANE_NATIVE, REASON_VISIT, visit->status);
	if (key.status < 200)
		key.status = 0;
	duration = visit->answered > visit->at ? visit->answered - visit->at :
						 bpf_ktime_get_ns() - visit->at;
	count_over(&key, duration, visit->bytes, visit->answer_bytes);
	if (!visit->sampled)
		return 0;
	record = kept_sample(cookie, &key, visit->at, duration, visit->bytes, visit->answer_bytes);
	if (!record)
		return 0;
	name_record(record, visit);
	tell_kept(set, cookie, record);
	return 0;
}

/* Keeps what the head of a request says, if it is to be told of. */
__weak __noinline int sample_visit(struct visit *visit, u64 cookie, struct scratch *s, u32 length)
{
	return visit && s && keep_sample(cookie, visit->at, s, length, true);
}

/* A request is let in. What the socket has been given to send is before its answer. */
static __always_inline void begin_visited(struct visit *visit, u64 cookie, struct scratch *s,
					  u32 length, u32 written)
{
	count_request(LANE_NATIVE, REASON_VISIT);
	if (!telemetry_settings())
		return;
	visit->sampled = sample_visit(visit, cookie, s, length);
	visit->answered = 0;
	visit->bytes = 0;
	visit->answer_bytes = 0;
	visit->answer = visit->left = written;
	visit->status = 0;
	visit->open = 1;
}

/* A socket is closed: of what it had accepted nothing more will come. */
static __always_inline void forget_visit(struct bpf_sock *sk, u64 cookie)
{
	struct inlet *inlet = bpf_sk_storage_get(&inlets, sk, 0, 0);
	struct visit *visit;

	if (!inlet || !inlet->visit)
		return;
	visit = bpf_map_lookup_elem(&visits, &cookie);
	if (visit)
		settle_visit(visit, cookie);
	bpf_map_delete_elem(&visits, &cookie);
}

#endif
