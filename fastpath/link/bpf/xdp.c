// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/* Steers our frames to the workers' AF_XDP sockets and leaves all others to the kernel, untouched.
 *
 * `sluice_service` runs on the uplink of the node's bridge or on a LAN NIC: frames to us, for the service ranges.
 * `sluice_underlay` runs on a NIC: UDP datagrams to one of our addresses and the tunnel port. What it does not take
 * apart itself (VLAN tags, IP options, fragments, frames of several buffers) reaches the gateway too, through the
 * kernel and the UDP socket that it keeps open on the same port.
 *
 * A queue without a socket passes its frames (the last argument of bpf_redirect_map): when the process dies, so does
 * its map entry, and the kernel has the device back.
 */
#include "early_drop.h"
#include "redirect.h"

static __always_inline int in_service_v4(__be32 ip)
{
	return (ip & settings.service_v4.mask[3]) == settings.service_v4.network[3];
}

static __always_inline int in_service_v6(const struct in6_addr *ip)
{
	const __be32 *words = ip->s6_addr32;

	return (words[0] & settings.service_v6.mask[0]) == settings.service_v6.network[0] &&
	       (words[1] & settings.service_v6.mask[1]) == settings.service_v6.network[1] &&
	       (words[2] & settings.service_v6.mask[2]) == settings.service_v6.network[2] &&
	       (words[3] & settings.service_v6.mask[3]) == settings.service_v6.network[3];
}

/* Frames of local services: parse, is it for a service, established flow, worker. */
SEC("xdp.frags")
int sluice_service(struct xdp_md *context)
{
	struct frame frame = frame_of(context);
	struct ethhdr *ethernet;
	struct iphdr *v4;
	struct ipv6hdr *v6;
	int is_v4, action;

	if (!TAKE(&frame, ethernet) || !same_mac(ethernet->h_dest, settings.service_mac))
		return XDP_PASS;
	is_v4 = ethernet->h_proto == bpf_htons(ETH_P_IP);
	if (is_v4) {
		if (!TAKE(&frame, v4) || !in_service_v4(v4->daddr))
			return XDP_PASS;
	} else if (ethernet->h_proto == bpf_htons(ETH_P_IPV6)) {
		if (!TAKE(&frame, v6) || !in_service_v6(&v6->daddr))
			return XDP_PASS;
	} else {
		return XDP_PASS;
	}
	if (unlikely(is_multi_buffer(context)))
		return drop(TALLY_TOO_BIG);
	action = redirect_outbound(context, is_v4, settings.underlay_mac);
	if (action != NO_FLOW)
		return action;
	return bpf_redirect_map(&service_sockets, context->rx_queue_index, XDP_PASS);
}

/* Checks the datagram after the IP header, `payload` bytes long by that header; TALLY_COUNT when it is sound. */
static __always_inline enum tally judge_datagram(const struct udphdr *udp, __u32 payload)
{
	__u32 length = bpf_ntohs(udp->len);

	if (length < sizeof(*udp) || length > payload)
		return TALLY_MALFORMED;
	if (length == sizeof(*udp))
		return TALLY_EMPTY;
	return TALLY_COUNT;
}

/* Datagrams of other nodes: parse, is it for us, early drop, established flow, worker. */
SEC("xdp.frags")
int sluice_underlay(struct xdp_md *context)
{
	struct frame frame = frame_of(context);
	struct ethhdr *ethernet;
	struct address source, destination;
	struct udphdr *udp;
	enum tally verdict;
	int martian, is_v4, action;
	/* By the IP header: bytes from the IP header on, and bytes of the datagram. */
	__u32 packet, payload;
	void *ip;

	if (!TAKE(&frame, ethernet) || !same_mac(ethernet->h_dest, settings.underlay_mac))
		return XDP_PASS;
	ip = frame.at;
	if (ethernet->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *v4;

		if (!TAKE(&frame, v4) || v4->version != 4 || v4->ihl != 5 || v4->protocol != IPPROTO_UDP ||
		    v4->frag_off & IP_FRAGMENT_MASK)
			return XDP_PASS;
		packet = bpf_ntohs(v4->tot_len);
		payload = packet - sizeof(*v4);
		source = mapped(v4->saddr);
		destination = mapped(v4->daddr);
		martian = is_martian_v4(v4->saddr) || same_address(&source, &destination);
		is_v4 = 1;
	} else if (ethernet->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *v6;

		if (!TAKE(&frame, v6) || v6->version != 6 || v6->nexthdr != IPPROTO_UDP)
			return XDP_PASS;
		payload = bpf_ntohs(v6->payload_len);
		packet = payload + sizeof(*v6);
		source = full(&v6->saddr);
		destination = full(&v6->daddr);
		martian = is_martian_v6(&v6->saddr) || same_address(&source, &destination);
		is_v4 = 0;
	} else {
		return XDP_PASS;
	}
	if (!TAKE(&frame, udp) || udp->dest != settings.tunnel_port ||
	    !bpf_map_lookup_elem(&own_addresses, &destination) || is_multi_buffer(context))
		return XDP_PASS;

	/* A header that says less than itself makes `payload` wrap around, and `packet` too small. */
	if (packet > (__u32)(frame.end - ip) || packet < payload)
		return drop(TALLY_MALFORMED);
	verdict = judge_datagram(udp, payload);
	if (verdict != TALLY_COUNT)
		return drop(verdict);
	if (martian)
		return drop(TALLY_MARTIAN_SOURCE);
	verdict = judge_source(source, is_v4);
	if (verdict != TALLY_COUNT)
		return drop(verdict);
	if (bpf_ntohs(udp->len) == payload) {
		action = redirect_inbound(context, frame, packet - payload + sizeof(*udp), payload - sizeof(*udp), &source,
					  &destination, settings.service_mac);
		if (action != NO_FLOW)
			return action;
	}
	return bpf_redirect_map(&underlay_sockets, context->rx_queue_index, XDP_PASS);
}
