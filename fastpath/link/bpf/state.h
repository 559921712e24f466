/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* What the programs know and count: settings, sockets, own addresses, tallies. */
#ifndef SLUICE_STATE_H
#define SLUICE_STATE_H

#include "helpers.h"
#include "abi.h"

const volatile struct settings settings;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TALLY_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} tallies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, QUEUES_MAX);
	__type(key, __u32);
	__type(value, __u32);
} service_sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, QUEUES_MAX);
	__type(key, __u32);
	__type(value, __u32);
} underlay_sockets SEC(".maps");

/* Where tunnel datagrams may be sent to: what the kernel answers for on the underlay device. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, OWN_ADDRESSES_MAX);
	__type(key, struct address);
	__type(value, __u8);
} own_addresses SEC(".maps");

/* Counts a frame that ends here. */
static __always_inline int drop(enum tally reason)
{
	__u32 index = reason;
	__u64 *tally = bpf_map_lookup_elem(&tallies, &index);

	if (likely(tally))
		*tally += 1;
	return XDP_DROP;
}

#endif
