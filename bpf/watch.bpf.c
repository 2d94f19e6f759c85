// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/*
 * Tells the agent what happens to the cgroups of the mesh, so that it knows who runs where before a
 * process there connects. An object of its own: it ends with the agent, and where it cannot be
 * loaded the agent looks around by itself, later.
 *
 * A fork says nothing new: a child begins where its parent is. A process that was cloned into a
 * cgroup is heard of when it executes its program, and so is one that has entered a namespace.
 */
#include "kernel.h"
#include "abi.h"
#include <bpf/bpf_tracing.h>

struct kernfs_node {
	u64 id;
} VIEW;

struct cgroup {
	int level;
	struct kernfs_node *kn;
} VIEW;

extern struct cgroup *bpf_cgroup_ancestor(struct cgroup *cgroup, int level) __ksym;
extern void bpf_cgroup_release(struct cgroup *cgroup) __ksym;

/* The cgroup of the mesh. */
struct top {
	u64 id;
	u32 pad;
	u32 lost;		/* stirs that did not fit the ring buffer */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct top);
} top SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} stirs SEC(".maps");

static __always_inline struct top *find_top(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&top, &zero);
}

static __always_inline void tell(struct top *t, u64 cgroup, u32 kind, u32 pid)
{
	struct stir *stir = bpf_ringbuf_reserve(&stirs, sizeof(*stir), 0);

	if (!stir) {
		__sync_fetch_and_add(&t->lost, 1);
		return;
	}
	stir->cgroup = cgroup;
	stir->kind = kind;
	stir->pid = pid;
	stir->when = bpf_ktime_get_ns();
	bpf_ringbuf_submit(stir, 0);
}

/* Userspace may see a part of the tree, and would not know at which level the mesh's cgroup is. */
static __always_inline bool is_below(struct cgroup *cgroup, u64 id)
{
	bool found = false;
	int level;

	bpf_for(level, 0, CGROUP_DEPTH) {
		struct cgroup *ancestor;

		if (level > cgroup->level)
			break;
		ancestor = bpf_cgroup_ancestor(cgroup, level);
		if (!ancestor)
			break;
		found = ancestor->kn->id == id;
		bpf_cgroup_release(ancestor);
		if (found)
			break;
	}
	return found;
}

static __always_inline bool is_current_below(u64 id)
{
	u64 ancestor;
	int level;

	bpf_for(level, 0, CGROUP_DEPTH) {
		ancestor = bpf_get_current_ancestor_cgroup_id(level);
		if (!ancestor)
			return false;
		if (ancestor == id)
			return true;
	}
	return false;
}

static __always_inline void tell_of(struct cgroup *cgroup, u32 kind, u32 pid)
{
	struct top *t = find_top();

	if (t && is_below(cgroup, t->id))
		tell(t, cgroup->kn->id, kind, pid);
}

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(cgroup_made, struct cgroup *cgroup)
{
	tell_of(cgroup, STIR_MADE, 0);
	return 0;
}

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(cgroup_removed, struct cgroup *cgroup)
{
	tell_of(cgroup, STIR_REMOVED, 0);
	return 0;
}

SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(cgroup_entered, struct cgroup *to, const char *path, struct task_struct *task)
{
	tell_of(to, STIR_ENTERED, task->tgid);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(executed)
{
	struct top *t = find_top();

	if (t && is_current_below(t->id))
		tell(t, bpf_get_current_cgroup_id(), STIR_EXECUTED, bpf_get_current_pid_tgid() >> 32);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
