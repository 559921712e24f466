// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/* Established flows without the worker: outbound at the uplink of the node's bridge, inbound at the underlay's device.
 *
 *   instance -> bridge -> uplink: `sluice_outbound` (tc) translates, wraps, and sends out of the underlay's device
 *   underlay: `sluice_decap` (XDP) unwraps -> GRO joins segments -> `sluice_inbound` (tc) translates, and delivers:
 *   into the instance's namespace if a veth pair of the gateway's leads there, else over the uplink
 *
 * So it is beside TUN links. With AF_XDP links `sluice_underlay` unwraps, and what comes frame by frame does not come
 * here at all (redirect.h).
 *
 * The outbound program sees super-frames whole and leaves them whole: the kernel cuts them after the device's queue. The
 * inbound side is in two parts because segments can only be joined after they were unwrapped: XDP runs before GRO, and
 * tc after it, where the checksum's state is known. Whatever is not an established flow's is left as it is, for the worker.
 */
#include "hand_over.h"
#include "outer.h"
#include <linux/pkt_cls.h>

/* For the program behind ours in line, or for the kernel. */
#define NOT_OURS TC_ACT_UNSPEC

static __always_inline struct frame frame_of_skb(struct __sk_buff *skb)
{
	return (struct frame){ .at = (void *)(long)skb->data, .end = (void *)(long)skb->data_end };
}

/* Makes the packet after the Ethernet header the one the binding says. Checksums that the stack has left unfinished stay
 * so: the helpers know. */
static __always_inline int translate(struct __sk_buff *skb, struct flow_packet *packet, struct binding *binding, int is_v4)
{
	__u32 layer_3 = sizeof(struct ethhdr);
	__u32 layer_4 = layer_3 + (is_v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
	int is_tcp = packet->key.protocol == IPPROTO_TCP;
	__u32 check = layer_4 + (is_tcp ? __builtin_offsetof(struct tcphdr, check) : __builtin_offsetof(struct udphdr, check));
	/* RFC 768: a UDP checksum of zero is none, and stays none. */
	__u64 flags = is_tcp ? 0 : BPF_F_MARK_MANGLED_0;
	/* Source and destination are neighbours in both; what mapped IPv4 addresses have in front of them adds nothing. */
	__s64 change = bpf_csum_diff(&packet->key.source, 2 * sizeof(struct address), &binding->source,
				     2 * sizeof(struct address), 0);
	/* The ports, too, and they are no part of the pseudo-header. */
	__be32 ports_before = (__u32)packet->key.source_port | (__u32)packet->key.destination_port << 16;
	__be32 ports = (__u32)binding->source_port | (__u32)binding->destination_port << 16;

	if (change < 0 || bpf_l4_csum_replace(skb, check, 0, change, flags | BPF_F_PSEUDO_HDR))
		return 0;
	if (ports != ports_before && (bpf_l4_csum_replace(skb, check, ports_before, ports, flags | sizeof(ports)) ||
				      bpf_skb_store_bytes(skb, layer_4, &ports, sizeof(ports), 0)))
		return 0;
	if (!is_v4)
		return !bpf_skb_store_bytes(skb, layer_3 + __builtin_offsetof(struct ipv6hdr, saddr), &binding->source,
					    2 * sizeof(struct address), 0);
	__be32 addresses[2];

	__builtin_memcpy(&addresses[0], &binding->source.octets[12], 4);
	__builtin_memcpy(&addresses[1], &binding->destination.octets[12], 4);
	return !bpf_l3_csum_replace(skb, layer_3 + __builtin_offsetof(struct iphdr, check), 0, change, 0) &&
	       !bpf_skb_store_bytes(skb, layer_3 + __builtin_offsetof(struct iphdr, saddr), addresses,
				    sizeof(addresses), 0);
}

/* Frames that the bridge floods are not for us, and the port it sends them to us by sees what it sends. */
static __always_inline int is_for_us(const struct __sk_buff *skb, const struct ethhdr *ethernet)
{
	if (offload_settings.at_port)
		return same_mac(ethernet->h_dest, offload_settings.uplink_mac);
	return skb->pkt_type == 0 /* PACKET_HOST */;
}

/* Local instances: parse, flow, locate, translate, encap. On the uplink, or, where XDP takes frames off it, before it: on
 * the bridge's port towards it, where super-frames are whole, too. */
SEC("classifier")
int sluice_outbound(struct __sk_buff *skb)
{
	struct frame frame = frame_of_skb(skb);
	struct flow_packet packet;
	struct bpf_fib_lookup route = { .l4_protocol = IPPROTO_UDP };
	union {
		struct outer_v4 v4;
		struct outer_v6 v6;
	} outer = {};
	struct binding *binding;
	struct ethhdr *ethernet;
	struct peer *peer;
	__u32 longest, outer_length;
	__u64 kind;
	int is_v4, over_v4;

	if (!TAKE(&frame, ethernet) || !is_for_us(skb, ethernet))
		return NOT_OURS;
	is_v4 = ethernet->h_proto == bpf_htons(ETH_P_IP);
	if ((!is_v4 && ethernet->h_proto != bpf_htons(ETH_P_IPV6)) || !parse_flow(&frame, is_v4, 0, &packet) ||
	    packet.length != skb->len - sizeof(*ethernet))
		return NOT_OURS;
	binding = find_flow(&packet, 0, 0, &peer);
	if (!binding)
		return NOT_OURS;
	/* A datagram super-frame would be cut into fragments of one, not into datagrams. Others go by XDP where they can. */
	if (packet.key.protocol != IPPROTO_TCP && (skb->gso_size || may_redirect(REDIRECT_OUT)))
		return NOT_OURS;
	longest = skb->gso_size ? packet.header_length + skb->gso_size : packet.length;
	if (longest > peer->mtu)
		return NOT_OURS;

	over_v4 = is_v4_address(&peer->ip);
	/* The checksum over IPv6 is all segments' or none's: the last one must be as long as the others. */
	if (!over_v4 && (!packet.has_checksum ||
			 (skb->gso_size && (packet.length - packet.header_length) % skb->gso_size)))
		return NOT_OURS;
	outer_length = over_v4 ? OUTER_V4 : OUTER_V6;

	/* The kernel's own tables say where the peer is now, and what the path takes. Without an answer, or when the path has
	 * become narrower, the worker's socket knows what to do. */
	if (over_v4) {
		route.family = 2; /* AF_INET */
		__builtin_memcpy(&route.ipv4_src, &peer->local.octets[12], 4);
		__builtin_memcpy(&route.ipv4_dst, &peer->ip.octets[12], 4);
	} else {
		route.family = 10; /* AF_INET6 */
		__builtin_memcpy(route.ipv6_src, &peer->local, 16);
		__builtin_memcpy(route.ipv6_dst, &peer->ip, 16);
	}
	route.sport = binding->lane;
	route.dport = peer->port;
	route.tot_len = longest + outer_length;
	/* As if it came in there, which it will have. */
	route.ifindex = offload_settings.uplink;
	if (bpf_fib_lookup(skb, &route, sizeof(route), 0) != BPF_FIB_LKUP_RET_SUCCESS || route.ifindex != peer->device)
		return NOT_OURS;

	count(FLOW_RECEIVED, 1);
	count(FLOW_RECEIVED_BYTES, packet.length);
	/* FIXED_GSO: the segments fit as they are, which was checked above. */
	kind = (over_v4 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV6) | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
	       BPF_F_ADJ_ROOM_FIXED_GSO;
	if (!translate(skb, &packet, binding, is_v4) ||
	    bpf_skb_adjust_room(skb, (int)outer_length, BPF_ADJ_ROOM_MAC, kind))
		goto broken;
	__builtin_memcpy(outer.v4.ethernet.h_dest, route.dmac, 6);
	__builtin_memcpy(outer.v4.ethernet.h_source, route.smac, 6);
	if (over_v4)
		write_outer_v4(&outer.v4, packet.length, binding, peer);
	else
		write_outer_v6(&outer.v6, packet.length, longest, &packet, binding, peer, is_v4);
	if (bpf_skb_store_bytes(skb, 0, &outer, sizeof(struct ethhdr) + outer_length, 0))
		goto broken;
	count(FLOW_FORWARDED, 1);
	count(FLOW_FORWARDED_BYTES, packet.length);
	return bpf_redirect(route.ifindex, 0);
broken:
	/* Half translated, it can go nowhere. */
	count(FLOW_DROPPED, 1);
	return TC_ACT_SHOT;
}

/* Other nodes: is it the tunnelled packet of an established flow, from the node its instance is on? Then decap. */
SEC("xdp.frags")
int sluice_decap(struct xdp_md *context)
{
	struct frame frame = frame_of(context);
	struct address source, destination;
	struct flow_packet packet;
	struct ethhdr *ethernet;
	struct udphdr *udp;
	__u32 payload, outer;
	int is_v4, action;

	if (!TAKE(&frame, ethernet))
		return XDP_PASS;
	if (ethernet->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *v4;

		if (!TAKE(&frame, v4) || v4->version != 4 || v4->ihl != 5 || v4->protocol != IPPROTO_UDP ||
		    v4->frag_off & IP_FRAGMENT_MASK)
			return XDP_PASS;
		outer = OUTER_V4;
		payload = bpf_ntohs(v4->tot_len) - sizeof(*v4);
		source = mapped(v4->saddr);
		destination = mapped(v4->daddr);
	} else if (ethernet->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *v6;

		/* A mapped address in an IPv6 header would pass for that of an IPv4 peer. */
		if (!TAKE(&frame, v6) || v6->version != 6 || v6->nexthdr != IPPROTO_UDP || is_mapped(&v6->saddr) ||
		    is_mapped(&v6->daddr))
			return XDP_PASS;
		outer = sizeof(*v6) + sizeof(*udp);
		payload = bpf_ntohs(v6->payload_len);
		source = full(&v6->saddr);
		destination = full(&v6->daddr);
	} else {
		return XDP_PASS;
	}
	if (!TAKE(&frame, udp) || udp->dest != offload_settings.tunnel_port || bpf_ntohs(udp->len) != payload ||
	    !find_tunnelled(&frame, payload - sizeof(*udp), &source, &destination, &packet, &is_v4))
		return XDP_PASS;
	action = hand_over(context, outer, is_v4);
	return action == NO_FLOW ? XDP_PASS : action;
}

/* What XDP unwrapped and GRO joined: flow, translate, deliver. */
SEC("classifier")
int sluice_inbound(struct __sk_buff *skb)
{
	struct handed_over *note = (void *)(long)skb->data_meta;
	struct frame frame = frame_of_skb(skb);
	struct flow_packet packet;
	struct binding *binding;
	struct ethhdr *ethernet;
	__u8 macs[12];
	int is_v4;

	if ((void *)(note + 1) > (void *)(long)skb->data || note->magic != MAGIC)
		return NOT_OURS;
	/* An instance may be a gateway, too. */
	note->magic = 0;
	count(FLOW_RECEIVED, 1);
	count(FLOW_RECEIVED_BYTES, skb->len - sizeof(*ethernet));
	if (!TAKE(&frame, ethernet))
		goto lost;
	is_v4 = ethernet->h_proto == bpf_htons(ETH_P_IP);
	if (!parse_flow(&frame, is_v4, 1, &packet) || packet.length > skb->len - sizeof(*ethernet))
		goto lost;
	binding = find_flow_again(&packet);
	if (!binding || !translate(skb, &packet, binding, is_v4))
		goto lost;
	count(FLOW_FORWARDED, 1);
	count(FLOW_FORWARDED_BYTES, skb->len - sizeof(*ethernet));
	if (!binding->device)
		return bpf_redirect_neigh(offload_settings.uplink, 0, 0, 0);
	/* Past the bridge and its guards, which judge what an instance sends, into the instance's namespace. */
	__builtin_memcpy(macs, binding->mac, 6);
	__builtin_memcpy(macs + 6, (const void *)offload_settings.uplink_mac, 6);
	bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0);
	return bpf_redirect_peer(binding->device, 0);
lost:
	/* A row changed since it was unwrapped, a moment ago: there is no way back to the worker. */
	count(FLOW_DROPPED, 1);
	return TC_ACT_SHOT;
}
