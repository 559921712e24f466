/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* What the programs and the gateway share: settings, keys, values, counters.
 *
 * `src/bpf/abi.rs` is the same in Rust. `abi_layout` at the end carries sizes and offsets as this compiler sees them,
 * and a test compares. All fields are in host byte order unless their type says otherwise.
 */
#ifndef SLUICE_ABI_H
#define SLUICE_ABI_H

#include <linux/types.h>

/* Either family; IPv4 is mapped (::ffff:a.b.c.d), as in the gateway's `Ip`. */
struct address {
	__u8 octets[16] __attribute__((aligned(4)));
};

/* `address & mask == network`, octet by octet. A family that is switched off has a mask of ones and the unspecified
 * network, which no packet is sent to. */
struct range {
	__be32 network[4];
	__be32 mask[4];
};

/* Fixed when the programs are loaded, so that the verifier removes what is switched off. */
struct settings {
	/* The service side: addressed to this, for one of these ranges. The IPv4 range is in its fourth word. */
	__u8 service_mac[6];
	/* The underlay: addressed to this, one of `own_addresses`, and this UDP port. */
	__u8 underlay_mac[6];
	__be16 tunnel_port;
	/* 1: `blocklist` has entries. */
	__u16 blocking;
	struct range service_v4;
	struct range service_v6;
	/* Tunnel datagrams a source prefix may send in a second, and at once; 0 switches the limit off. */
	__u32 source_rate;
	__u32 source_burst;
	/* Source prefix lengths that share one bucket. */
	__u32 source_length_v4;
	__u32 source_length_v6;
};

/* Key of `blocklist`; `length` counts from the first bit of the mapped address. */
struct prefix {
	__u32 length;
	struct address address;
};

/* Index of `tallies`: frames the programs dropped, by reason. */
enum tally {
	TALLY_MALFORMED,
	TALLY_EMPTY,
	TALLY_TOO_BIG,
	TALLY_MARTIAN_SOURCE,
	TALLY_BLOCKED_SOURCE,
	TALLY_SOURCE_LIMIT,
	TALLY_COUNT,
};

#define QUEUES_MAX 64
#define OWN_ADDRESSES_MAX 256
#define BLOCKLIST_MAX 4096

#define ABI_LAYOUT                                                                                                     \
	sizeof(struct address), sizeof(struct range), sizeof(struct settings),                                         \
		__builtin_offsetof(struct settings, underlay_mac), __builtin_offsetof(struct settings, tunnel_port),   \
		__builtin_offsetof(struct settings, blocking), __builtin_offsetof(struct settings, service_v4),        \
		__builtin_offsetof(struct settings, service_v6), __builtin_offsetof(struct settings, source_rate),     \
		__builtin_offsetof(struct settings, source_burst),                                                     \
		__builtin_offsetof(struct settings, source_length_v4),                                                 \
		__builtin_offsetof(struct settings, source_length_v6), sizeof(struct prefix),                          \
		__builtin_offsetof(struct prefix, address), TALLY_COUNT, QUEUES_MAX

#endif
