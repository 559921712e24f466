/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Headers of a frame, checked against its end before they are read. */
#ifndef SLUICE_PACKET_H
#define SLUICE_PACKET_H

#include "helpers.h"
#include "abi.h"
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#define IP_FRAGMENT_MASK bpf_htons(0x3fff) /* offset and more-fragments */

/* A frame's bytes that the program may read: all of it, or its first part when it has several. */
struct frame {
	void *at;
	void *end;
};

static __always_inline struct frame frame_of(struct xdp_md *context)
{
	return (struct frame){ .at = (void *)(long)context->data, .end = (void *)(long)context->data_end };
}

/* Several buffers make up the frame: longer than a page, from a device with a large MTU. */
static __always_inline int is_multi_buffer(struct xdp_md *context)
{
	return bpf_xdp_get_buff_len(context) > (__u64)(context->data_end - context->data);
}

/* The next `sizeof(*header)` bytes, or 0 when the frame is shorter. */
#define TAKE(frame, header)                                                                                            \
	({                                                                                                             \
		header = (frame)->at;                                                                                  \
		int fits = (void *)(header + 1) <= (frame)->end;                                                       \
		(frame)->at = header + 1;                                                                              \
		fits;                                                                                                  \
	})

static __always_inline int same_mac(const __u8 a[6], const volatile __u8 b[6])
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3] && a[4] == b[4] && a[5] == b[5];
}

/* From what the loader sets, which the compiler must not take for zero. */
static __always_inline void copy_mac(__u8 to[6], const volatile __u8 from[6])
{
#pragma unroll
	for (int at = 0; at < 6; at++)
		to[at] = from[at];
}

static __always_inline struct address mapped(__be32 ip)
{
	struct address address = {};

	address.octets[10] = 0xff;
	address.octets[11] = 0xff;
	__builtin_memcpy(&address.octets[12], &ip, 4);
	return address;
}

static __always_inline struct address full(const struct in6_addr *ip)
{
	struct address address;

	__builtin_memcpy(&address, ip, 16);
	return address;
}

/* ::ffff:0:0/96, which stands for the addresses of IPv4 (RFC 4291 section 2.5.5.2). */
static __always_inline int is_mapped(const struct in6_addr *ip)
{
	const __u32 *words = ip->in6_u.u6_addr32;

	return !(words[0] | words[1]) && words[2] == bpf_htonl(0xffff);
}

static __always_inline int is_v4_address(const struct address *address)
{
	const __u32 *words = (const __u32 *)address->octets;

	return !(words[0] | words[1]) && words[2] == bpf_htonl(0xffff);
}

static __always_inline int same_address(const struct address *a, const struct address *b)
{
	const __u32 *x = (const __u32 *)a->octets, *y = (const __u32 *)b->octets;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3];
}

#endif
