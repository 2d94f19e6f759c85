// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
#define DEFINE_MAPS
#include "maps.h"

/*
 * Never loaded: names the layouts that userspace needs, so that they are in the object's BTF, from
 * which the build makes Rust types.
 */
struct layouts {
	struct generation generation;
	struct frontend frontend;
	struct cluster cluster;
	struct endpoint endpoint;
	struct member member;
	struct workload workload;
	struct guard guard;
	struct rate_limits rate_limits;
	struct rate_limit rate_limit;
	struct bucket_key bucket_key;
	struct bucket bucket;
	enum token token;
	struct range range;
	enum identity identity;
	struct table table;
	struct paths paths;
	struct run run;
	struct machine machine;
	struct group group;
	struct candidate candidate;
	struct predicate predicate;
	struct action action;
	struct share share;
	struct answer answer;
	struct anchor anchor;
	struct home home;
	enum home_kind home_kind;
	struct stir stir;
	enum stir_kind stir_kind;
	struct frame frame;
	struct event event;
	struct traffic_key traffic_key;
	enum traffic_kind traffic_kind;
	struct traffic traffic;
	struct latency_key latency_key;
	struct latency latency;
	struct record record;
	enum limits limits;
	enum lane lane;
	enum reason reason;
	enum counter counter;
	enum protocol protocol;
	enum guarded guarded;
	enum guards guards;
	enum listener listener;
	enum side side;
	enum table_flags table_flags;
	enum method method;
	enum state state;
	enum accepts accepts;
	enum subject subject;
	enum comparison comparison;
	enum action_kind action_kind;
	enum prepared prepared;
	enum frame_kind frame_kind;
	enum frame_flags frame_flags;
	enum event_kind event_kind;
	enum way way;
};

SEC("?syscall")
int layouts(struct layouts *unused)
{
	return unused->limits;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
