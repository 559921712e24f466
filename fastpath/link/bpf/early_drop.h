/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* What is dropped before user space is woken: tunnel datagrams that can never be valid, or are not wanted.
 *
 * Only datagrams for our tunnel port come here. Everything else on the device belongs to the kernel.
 */
#ifndef SLUICE_EARLY_DROP_H
#define SLUICE_EARLY_DROP_H

#include "packet.h"
#include "state.h"

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, BLOCKLIST_MAX);
	__type(key, struct prefix);
	__type(value, __u8);
} blocklist SEC(".maps");

/* What a source prefix may still send. */
struct bucket {
	/* bpf_ktime_get_ns() of the last refill. */
	__u64 filled_ns;
	/* Datagrams left, in billionths, so that a refill is one multiplication. */
	__u64 nano_datagrams;
};

/* One entry while the limit is off; the loader then asks for more. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct address);
	__type(value, struct bucket);
} source_buckets SEC(".maps");

/* RFC 6890: addresses that no datagram from another host has as its source. */
static __always_inline int is_martian_v4(__be32 source)
{
	__u32 ip = bpf_ntohl(source);

	return ip >> 24 == 0 || ip >> 24 == 127 || ip >> 28 >= 14;
}

static __always_inline int is_martian_v6(const struct in6_addr *source)
{
	const __be32 *words = source->s6_addr32;

	if (source->s6_addr[0] == 0xff)
		return 1;
	/* ::, ::1 and the mapped ::ffff:0:0/96. */
	return !words[0] && !words[1] &&
	       ((!words[2] && (bpf_ntohl(words[3]) <= 1)) || words[2] == bpf_htonl(0xffff));
}

/* The bits of `source` that share a bucket. */
static __always_inline void keep_prefix(struct address *source, __u32 length)
{
#pragma unroll
	for (__u32 octet = 0; octet < 16; octet++) {
		__u32 begin = octet * 8;

		if (begin >= length)
			source->octets[octet] = 0;
		else if (length - begin < 8)
			source->octets[octet] &= (__u8)(0xff00 >> (length - begin));
	}
}

/* A token bucket. Two CPUs may take the same token: the limit is a fence against floods, not an account. */
static __always_inline int is_over_limit(struct address source, int is_v4)
{
	__u64 now = bpf_ktime_get_ns();
	__u64 full_bucket = (__u64)settings.source_burst * 1000000000;
	struct bucket *bucket;

	keep_prefix(&source, is_v4 ? 96 + settings.source_length_v4 : settings.source_length_v6);
	bucket = bpf_map_lookup_elem(&source_buckets, &source);
	if (!bucket) {
		struct bucket first = { .filled_ns = now, .nano_datagrams = full_bucket - 1000000000 };

		bpf_map_update_elem(&source_buckets, &source, &first, BPF_ANY);
		return 0;
	}
	/* Another CPU may have filled it since we read the clock: that fills nothing, and time does not go back. */
	__s64 passed = now - bucket->filled_ns;
	/* Longer does not fill it further, nor overflow the product. */
	__s64 enough = full_bucket / settings.source_rate;
	__u64 left = bucket->nano_datagrams;

	if (passed > 0) {
		left += (passed < enough ? passed : enough) * settings.source_rate;
		bucket->filled_ns = now;
	}
	if (left > full_bucket)
		left = full_bucket;
	if (left < 1000000000) {
		bucket->nano_datagrams = left;
		return 1;
	}
	bucket->nano_datagrams = left - 1000000000;
	return 0;
}

/* TALLY_COUNT when the source may send. */
static __always_inline enum tally judge_source(struct address source, int is_v4)
{
	if (settings.blocking) {
		struct prefix key = { .length = 128, .address = source };

		if (bpf_map_lookup_elem(&blocklist, &key))
			return TALLY_BLOCKED_SOURCE;
	}
	if (settings.source_rate && is_over_limit(source, is_v4))
		return TALLY_SOURCE_LIMIT;
	return TALLY_COUNT;
}

#endif
