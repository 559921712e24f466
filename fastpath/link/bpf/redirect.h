/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Established flows within XDP: rewritten in the frame, wrapped or unwrapped, and redirected to the other side's device.
 *
 * The kernel makes no packet of its own of such a frame. It is the way of frames that come one by one: datagrams, and all
 * that a NIC receives on the service side. TCP of local stacks has a better one: its super-frames are taken whole by
 * `sluice_outbound`, and its segments are unwrapped for GRO and `sluice_inbound` (offload.c).
 */
#ifndef SLUICE_REDIRECT_H
#define SLUICE_REDIRECT_H

#include "hand_over.h"
#include "outer.h"

/* Index of `flow_devices`. */
enum flow_device {
	TO_UNDERLAY,
	TO_SERVICE,
	FLOW_DEVICES,
};

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, FLOW_DEVICES);
	__type(key, __u32);
	__type(value, struct bpf_devmap_val);
} flow_devices SEC(".maps");

/* RFC 1624 eqn. 3, with the difference that the binding carries. */
static __always_inline __u16 updated(__u16 check, __u32 change)
{
	__u32 sum = (__u16)~check + change;

	sum = (sum & 0xffff) + (sum >> 16);
	return ~(sum + (sum >> 16));
}

/* Makes the packet at `at` the one the binding says; 0 when its headers do not end before `end`. */
static __always_inline int rewrite(void *at, void *end, const struct flow_packet *packet, const struct binding *binding,
				   int is_v4)
{
	__u32 change = binding->address_change;
	struct frame frame = { .at = at, .end = end };

	if (is_v4) {
		struct iphdr *v4;

		if (!TAKE(&frame, v4))
			return 0;
		v4->check = updated(v4->check, change);
		__builtin_memcpy(&v4->saddr, &binding->source.octets[12], 4);
		__builtin_memcpy(&v4->daddr, &binding->destination.octets[12], 4);
	} else {
		struct ipv6hdr *v6;

		if (!TAKE(&frame, v6))
			return 0;
		__builtin_memcpy(&v6->saddr, &binding->source, 16);
		__builtin_memcpy(&v6->daddr, &binding->destination, 16);
	}
	change += binding->port_change;
	if (packet->key.protocol == IPPROTO_TCP) {
		struct tcphdr *tcp;

		if (!TAKE(&frame, tcp))
			return 0;
		tcp->source = binding->source_port;
		tcp->dest = binding->destination_port;
		tcp->check = updated(tcp->check, change);
	} else {
		struct udphdr *udp;

		if (!TAKE(&frame, udp))
			return 0;
		udp->source = binding->source_port;
		udp->dest = binding->destination_port;
		/* RFC 768: zero is "no checksum", and stays so; a computed zero is written as ones. */
		if (udp->check) {
			__u16 check = updated(udp->check, change);

			udp->check = check ? check : 0xffff;
		}
	}
	return 1;
}

/* Cuts off what a device adds to short frames; 0 when the frame is shorter than its packet says. */
static __always_inline int strip_padding(struct xdp_md *context, __u32 length)
{
	__u32 present = context->data_end - context->data;

	if (present == length)
		return 1;
	return present > length && !bpf_xdp_adjust_tail(context, (int)length - (int)present);
}

static __always_inline int sent_on(const struct flow_packet *packet, enum flow_device device)
{
	count(FLOW_FORWARDED, 1);
	count(FLOW_FORWARDED_BYTES, packet->length);
	return bpf_redirect_map(&flow_devices, device, 0);
}

/* Half rewritten, a frame can go nowhere. The checks before leave no way here. */
static __always_inline int broken(void)
{
	count(FLOW_DROPPED, 1);
	return XDP_DROP;
}

/* A frame of a local instance, whose Ethernet header is ours. */
static __always_inline int redirect_outbound(struct xdp_md *context, int is_v4, const volatile __u8 own_mac[6])
{
	struct frame frame = frame_of(context);
	struct flow_packet packet;
	struct binding *binding;
	struct outer_v6 *outer_v6;
	struct outer_v4 *outer_v4;
	struct ethhdr *ethernet;
	struct peer *peer;
	int over_v4;

	if (!may_redirect(REDIRECT_OUT) || !TAKE(&frame, ethernet) || !parse_flow(&frame, is_v4, 0, &packet))
		return NO_FLOW;
	binding = find_flow(&packet, 0, 0, &peer);
	if (!binding || packet.length > peer->mtu)
		return NO_FLOW;
	/* Whose frame it is, the worker judges. */
	if (!same_mac(ethernet->h_source, binding->mac))
		return NO_FLOW;
	over_v4 = is_v4_address(&peer->ip);
	if (!over_v4 && !packet.has_checksum)
		return NO_FLOW;
	if (!strip_padding(context, sizeof(*ethernet) + packet.length) ||
	    bpf_xdp_adjust_head(context, -(int)(over_v4 ? OUTER_V4 : OUTER_V6)))
		return NO_FLOW;
	count(FLOW_RECEIVED, 1);
	count(FLOW_RECEIVED_BYTES, packet.length);
	frame = frame_of(context);
	ethernet = frame.at;
	if (over_v4) {
		if (!TAKE(&frame, outer_v4) || !rewrite(outer_v4 + 1, frame.end, &packet, binding, is_v4))
			return broken();
		write_outer_v4(outer_v4, packet.length, binding, peer);
	} else {
		if (!TAKE(&frame, outer_v6) || !rewrite(outer_v6 + 1, frame.end, &packet, binding, is_v4))
			return broken();
		write_outer_v6(outer_v6, packet.length, packet.length, &packet, binding, peer, is_v4);
	}
	__builtin_memcpy(ethernet->h_dest, peer->mac, 6);
	copy_mac(ethernet->h_source, own_mac);
	return sent_on(&packet, TO_UNDERLAY);
}

/* The tunnelled packet at `frame.at`, `length` bytes long, behind `outer` bytes of IP and UDP header. */
static __always_inline int redirect_inbound(struct xdp_md *context, struct frame frame, __u32 outer, __u32 length,
					    const struct address *source, const struct address *destination,
					    const volatile __u8 own_mac[6])
{
	struct flow_packet packet;
	struct binding *binding;
	struct ethhdr *ethernet;
	int is_v4, joined = may_redirect(REDIRECT_JOINED);

	binding = find_tunnelled(&frame, length, source, destination, &packet, &is_v4);
	if (!binding)
		return NO_FLOW;
	if (joined && (packet.key.protocol == IPPROTO_TCP || !may_redirect(REDIRECT_IN)))
		return hand_over(context, outer, is_v4);
	if (!may_redirect(REDIRECT_IN) || !strip_padding(context, sizeof(*ethernet) + outer + length) ||
	    bpf_xdp_adjust_head(context, outer))
		return NO_FLOW;
	count(FLOW_RECEIVED, 1);
	count(FLOW_RECEIVED_BYTES, length);
	frame = frame_of(context);
	if (!TAKE(&frame, ethernet) || !rewrite(ethernet + 1, frame.end, &packet, binding, is_v4))
		return broken();
	__builtin_memcpy(ethernet->h_dest, binding->mac, 6);
	copy_mac(ethernet->h_source, own_mac);
	ethernet->h_proto = is_v4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	return sent_on(&packet, TO_SERVICE);
}

#endif
