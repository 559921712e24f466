/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* The headers of a tunnelled packet on an IPv4 underlay, as `src/af_xdp/headers.rs` writes them. */
#ifndef SLUICE_OUTER_H
#define SLUICE_OUTER_H

#include "packet.h"

struct outer_v4 {
	struct ethhdr ethernet;
	struct iphdr ip;
	struct udphdr udp;
} __attribute__((packed));

#define OUTER_V4 (sizeof(struct iphdr) + sizeof(struct udphdr))

/* RFC 1071. */
static __always_inline __sum16 header_checksum(const struct iphdr *ip)
{
	const __u16 *words = (const void *)ip;
	__u32 sum = 0;

#pragma unroll
	for (int at = 0; at < 10; at++)
		sum += words[at];
	sum = (sum & 0xffff) + (sum >> 16);
	return ~(sum + (sum >> 16));
}

/* IP and UDP around an inner packet of `length` bytes. The UDP checksum is zero (RFC 768: none was made): inside are
 * checksums of its own. */
static __always_inline void write_outer(struct outer_v4 *outer, __u32 length, __be32 source, __be32 destination,
					__be16 source_port, __be16 destination_port)
{
	struct iphdr ip = {};

	ip.version = 4;
	ip.ihl = 5;
	ip.tot_len = bpf_htons(length + OUTER_V4);
	ip.frag_off = bpf_htons(0x4000); /* don't fragment */
	ip.ttl = 64;
	ip.protocol = IPPROTO_UDP;
	ip.saddr = source;
	ip.daddr = destination;
	ip.check = header_checksum(&ip);
	outer->ethernet.h_proto = bpf_htons(ETH_P_IP);
	outer->ip = ip;
	outer->udp.source = source_port;
	outer->udp.dest = destination_port;
	outer->udp.len = bpf_htons(length + sizeof(outer->udp));
	outer->udp.check = 0;
}

#endif
