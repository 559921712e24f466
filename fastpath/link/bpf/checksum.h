/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* One's complement sums (RFC 1071), in words as they lie in memory: 0 and 0xffff are the same number.
 *
 * The checksum of an outer IPv6 datagram covers the whole tunnelled packet, which has checksums of its own: a TCP or UDP
 * segment and its pseudo-header sum up to zero, and so does an IPv4 header. So the packet's sum follows from its headers,
 * without its payload, and before the stack has finished the inner checksum.
 */
#ifndef SLUICE_CHECKSUM_H
#define SLUICE_CHECKSUM_H

#include "packet.h"

/* Of up to 65,537 words. */
static __always_inline __u16 folded(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return sum + (sum >> 16);
}

static __always_inline __u32 sum_of_address(const struct address *address)
{
	const __u16 *words = (const void *)address->octets;
	__u32 sum = 0;

#pragma unroll
	for (int at = 0; at < 8; at++)
		sum += words[at];
	return sum;
}

static __always_inline __u32 sum_of_v4(__be32 ip)
{
	return (ip & 0xffff) + (ip >> 16);
}

/* Version, traffic class, flow label, next header and hop limit, without the next header that the pseudo-header has. */
static __always_inline __u32 ipv6_beside(const struct ipv6hdr *v6)
{
	const __u16 *words = (const void *)v6;

	return (__u32)words[0] + words[1] + words[3] + (__u16)~bpf_htons(v6->nexthdr);
}

/* Of a tunnelled IPv4 packet from `source` to `destination`, `layer_4` bytes of it behind its header. */
static __always_inline __u16 sum_of_packet_v4(__be32 source, __be32 destination, __u8 protocol, __u32 layer_4)
{
	return ~folded(sum_of_v4(source) + sum_of_v4(destination) + bpf_htons(protocol) + bpf_htons(layer_4));
}

#endif
