/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* The headers around a tunnelled packet, as `src/af_xdp/headers.rs` writes them. */
#ifndef SLUICE_OUTER_H
#define SLUICE_OUTER_H

#include "flow.h"

struct outer_v4 {
	struct ethhdr ethernet;
	struct iphdr ip;
	struct udphdr udp;
} __attribute__((packed));

struct outer_v6 {
	struct ethhdr ethernet;
	struct ipv6hdr ip;
	struct udphdr udp;
} __attribute__((packed));

#define OUTER_HOP_LIMIT 64
#define OUTER_V6 (sizeof(struct ipv6hdr) + sizeof(struct udphdr))
#define OUTER_V4 (sizeof(struct iphdr) + sizeof(struct udphdr))

static __always_inline __sum16 header_checksum(const struct iphdr *ip)
{
	const __u16 *words = (const void *)ip;
	__u32 sum = 0;

#pragma unroll
	for (int at = 0; at < 10; at++)
		sum += words[at];
	return ~folded(sum);
}

/* IP and UDP around an inner packet of `length` bytes. The UDP checksum is zero (RFC 768: none was made): inside are
 * checksums of its own. */
static __always_inline void write_outer_v4(struct outer_v4 *outer, __u32 length, const struct binding *binding,
					   const struct peer *peer)
{
	struct iphdr ip = {};

	ip.version = 4;
	ip.ihl = 5;
	ip.tot_len = bpf_htons(length + OUTER_V4);
	ip.frag_off = bpf_htons(0x4000); /* don't fragment */
	ip.ttl = OUTER_HOP_LIMIT;
	ip.protocol = IPPROTO_UDP;
	__builtin_memcpy(&ip.saddr, &peer->local.octets[12], 4);
	__builtin_memcpy(&ip.daddr, &peer->ip.octets[12], 4);
	ip.check = header_checksum(&ip);
	outer->ethernet.h_proto = bpf_htons(ETH_P_IP);
	outer->ip = ip;
	outer->udp.source = binding->lane;
	outer->udp.dest = peer->port;
	outer->udp.len = bpf_htons(length + sizeof(outer->udp));
	outer->udp.check = 0;
}

/* The same on an IPv6 underlay, where there is a UDP checksum (RFC 8200 section 8.1): of the packet that the binding makes
 * of `packet`, which must have a checksum itself. A super-frame's is the one of all its segments, `segment` bytes long
 * each: the kernel cuts it without looking at the checksum. */
static __always_inline void write_outer_v6(struct outer_v6 *outer, __u32 length, __u32 segment,
					   const struct flow_packet *packet, const struct binding *binding,
					   const struct peer *peer, int is_v4)
{
	__be16 datagram = bpf_htons(length + sizeof(outer->udp));
	__be16 summed = bpf_htons(segment + sizeof(outer->udp));
	__u32 sum = sum_of_address(&peer->local) + sum_of_address(&peer->ip) + bpf_htons(IPPROTO_UDP) + binding->lane +
		    peer->port + 2 * (__u32)summed;
	__be32 source, destination;
	__sum16 check;

	if (is_v4) {
		__builtin_memcpy(&source, &binding->source.octets[12], 4);
		__builtin_memcpy(&destination, &binding->destination.octets[12], 4);
		sum += sum_of_packet_v4(source, destination, packet->key.protocol, segment - sizeof(struct iphdr));
	} else {
		sum += packet->beside;
	}
	check = ~folded(sum);
	__builtin_memset(&outer->ip, 0, sizeof(outer->ip));
	outer->ip.version = 6;
	outer->ip.payload_len = datagram;
	outer->ip.nexthdr = IPPROTO_UDP;
	outer->ip.hop_limit = OUTER_HOP_LIMIT;
	__builtin_memcpy(&outer->ip.saddr, &peer->local, 16);
	__builtin_memcpy(&outer->ip.daddr, &peer->ip, 16);
	outer->ethernet.h_proto = bpf_htons(ETH_P_IPV6);
	outer->udp.source = binding->lane;
	outer->udp.dest = peer->port;
	outer->udp.len = datagram;
	/* RFC 768: a computed zero is written as ones. */
	outer->udp.check = check ? check : 0xffff;
}

#endif
