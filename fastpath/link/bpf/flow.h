/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Established flows in the kernel: what the gateway installs, how a packet finds it, and when it is not believed.
 *
 * A flow has two entries, one for each direction, and one state. An entry is believed while the lease runs, its state
 * has its generation, and the slots it was made from have the versions it was made with. The gateway changes a version
 * before it publishes what the change is about: one store takes every flow out that used the old row.
 */
#ifndef SLUICE_FLOW_H
#define SLUICE_FLOW_H

#include "checksum.h"
#include "packet.h"
#include <linux/tcp.h>

/* What an entry is found by: the addresses and ports as the packet carries them where the program meets it, that is as
 * the local instance sends it, or as it was in the tunnel. */
struct flow_key {
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 inbound;
	__u8 zero[2];
};

/* What a packet becomes. */
struct binding {
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	/* Index and generation of the flow's state. */
	__u32 id;
	__u32 generation;
	/* Slots the flow was made from, and their versions then. */
	__u32 local;
	__u32 local_version;
	__u32 remote;
	__u32 remote_version;
	__u32 peer;
	__u32 peer_version;
	/* One's complement differences, folded: of the addresses, and of the ports. */
	__u16 address_change;
	__u16 port_change;
	/* Outbound: the outer source port. */
	__be16 lane;
	/* The instance's Ethernet address: outbound frames come from it, inbound ones go there. */
	__u8 mac[6];
	/* Inbound: the host's end of the veth pair whose other end has that address. 0: the instance is somewhere behind the
	 * uplink. */
	__u32 device;
};

struct flow_state {
	__u64 last_seen_ns;
	/* 0: taken out, by the gateway or by a packet that changes the flow. */
	__u32 generation;
	__u32 zero;
};

/* A node at the other end of a tunnel. */
struct peer {
	struct address ip;
	/* Our address towards it. */
	struct address local;
	__be16 port;
	/* The next hop towards it, where XDP writes the Ethernet header. */
	__u8 mac[6];
	/* The Ethernet device towards it. */
	__u32 device;
	/* The longest inner packet it takes. */
	__u32 mtu;
	__u32 version;
};

struct lease {
	/* bpf_ktime_get_coarse_ns() up to which a live gateway vouches for the entries. */
	__u64 until_ns;
	/* 1: everything goes to the worker, which has something to look at. */
	__u32 paused;
	/* `enum redirect`. */
	__u32 redirects;
	/* The longest packet that the service side takes; what is longer is the worker's. */
	__u32 longest_inbound;
	__u32 zero;
};

/* What may be done within XDP. A veth only takes redirected frames while somebody at its other end looks for them. */
enum redirect {
	/* The underlay's device takes frames. */
	REDIRECT_OUT = 1,
	/* The service side's device does. */
	REDIRECT_IN = 2,
	/* `sluice_inbound` takes what is unwrapped. */
	REDIRECT_JOINED = 4,
};

/* Index of `flow_counters`. */
enum flow_counter {
	FLOW_RECEIVED,
	FLOW_RECEIVED_BYTES,
	FLOW_FORWARDED,
	FLOW_FORWARDED_BYTES,
	FLOW_DROPPED,
	FLOW_COUNTERS,
};

struct offload_settings {
	__be16 tunnel_port;
	/* Of the uplink. */
	__u8 uplink_mac[6];
	/* 1: `sluice_outbound` is on the bridge's port towards the uplink, 0: on the uplink. */
	__u32 at_port;
	/* The uplink of the node's bridge: local instances are behind it. */
	__u32 uplink;
};

#define OFFLOAD_INSTANCES_MAX 65536
#define OFFLOAD_PEERS_MAX 4096

#define FLOW_LAYOUT                                                                                                    \
	sizeof(struct flow_key), __builtin_offsetof(struct flow_key, protocol), sizeof(struct binding),                \
		__builtin_offsetof(struct binding, id), __builtin_offsetof(struct binding, remote_version),            \
		__builtin_offsetof(struct binding, peer), sizeof(struct flow_state),                                   \
		__builtin_offsetof(struct flow_state, generation), sizeof(struct peer),                                \
		__builtin_offsetof(struct peer, device), __builtin_offsetof(struct peer, version),                     \
		__builtin_offsetof(struct binding, lane), __builtin_offsetof(struct binding, mac),                     \
		__builtin_offsetof(struct binding, device),                                                            \
		sizeof(struct lease), __builtin_offsetof(struct lease, paused),                                        \
		__builtin_offsetof(struct lease, longest_inbound), sizeof(struct offload_settings),                    \
		__builtin_offsetof(struct offload_settings, uplink), FLOW_COUNTERS, OFFLOAD_INSTANCES_MAX,             \
		OFFLOAD_PEERS_MAX

/* Fixed when the programs are loaded. */
const volatile struct offload_settings offload_settings;

/* The loader sets how many flows there can be. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 2);
	__type(key, struct flow_key);
	__type(value, struct binding);
} flow_bindings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow_state);
} flow_states SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, OFFLOAD_INSTANCES_MAX);
	__type(key, __u32);
	__type(value, __u32);
} instance_versions SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, OFFLOAD_PEERS_MAX);
	__type(key, __u32);
	__type(value, struct peer);
} flow_peers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lease);
} flow_lease SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FLOW_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} flow_counters SEC(".maps");

static __always_inline void count(enum flow_counter counter, __u64 n)
{
	__u32 index = counter;
	__u64 *value = bpf_map_lookup_elem(&flow_counters, &index);

	if (likely(value))
		*value += n;
}

static __always_inline int may_redirect(enum redirect redirect)
{
	__u32 only = 0;
	struct lease *lease = bpf_map_lookup_elem(&flow_lease, &only);

	return lease && lease->redirects & redirect;
}

/* A packet of a flow, as far as the offload reads it. */
struct flow_packet {
	struct flow_key key;
	/* Of the whole packet, by its IP header. */
	__u32 length;
	/* Layers 3 and 4. */
	__u32 header_length;
	/* Begins or ends a connection. */
	int changes;
	/* A UDP datagram over IPv4 may go without. */
	int has_checksum;
	/* Over IPv6: the sum of the words that make the header's sum differ from the pseudo-header's. */
	__u32 beside;
};

/* Reads the TCP or UDP packet that begins at `frame->at`; 0 for everything the worker has to judge: fragments, options,
 * extension headers, lengths that contradict each other. */
static __always_inline int parse_flow(struct frame *frame, int is_v4, int inbound, struct flow_packet *packet)
{
	struct flow_key *key = &packet->key;
	__u32 layer_3;

	if (is_v4) {
		struct iphdr *v4;

		if (!TAKE(frame, v4) || v4->version != 4 || v4->ihl != 5 || v4->frag_off & IP_FRAGMENT_MASK || v4->ttl < 2)
			return 0;
		packet->length = bpf_ntohs(v4->tot_len);
		layer_3 = sizeof(*v4);
		packet->beside = 0;
		key->source = mapped(v4->saddr);
		key->destination = mapped(v4->daddr);
		key->protocol = v4->protocol;
	} else {
		struct ipv6hdr *v6;

		if (!TAKE(frame, v6) || v6->version != 6 || v6->hop_limit < 2)
			return 0;
		/* They would pass for addresses of the other family. */
		if (is_mapped(&v6->saddr) || is_mapped(&v6->daddr))
			return 0;
		packet->length = bpf_ntohs(v6->payload_len) + sizeof(*v6);
		layer_3 = sizeof(*v6);
		packet->beside = ipv6_beside(v6);
		key->source = full(&v6->saddr);
		key->destination = full(&v6->daddr);
		key->protocol = v6->nexthdr;
	}
	key->inbound = inbound;
	key->zero[0] = 0;
	key->zero[1] = 0;
	if (key->protocol == IPPROTO_TCP) {
		struct tcphdr *tcp;

		if (!TAKE(frame, tcp) || tcp->doff < 5)
			return 0;
		key->source_port = tcp->source;
		key->destination_port = tcp->dest;
		packet->header_length = layer_3 + tcp->doff * 4;
		packet->changes = tcp->syn || tcp->fin || tcp->rst;
		packet->has_checksum = 1;
	} else if (key->protocol == IPPROTO_UDP) {
		struct udphdr *udp;

		/* RFC 8200 section 8.1: over IPv6 there is a checksum. */
		if (!TAKE(frame, udp) || bpf_ntohs(udp->len) != packet->length - layer_3 || (!is_v4 && !udp->check))
			return 0;
		key->source_port = udp->source;
		key->destination_port = udp->dest;
		packet->header_length = layer_3 + sizeof(*udp);
		packet->changes = 0;
		packet->has_checksum = udp->check != 0;
	} else {
		return 0;
	}
	return packet->header_length <= packet->length;
}

static __always_inline int has_version(__u32 slot, __u32 version)
{
	__u32 *current = bpf_map_lookup_elem(&instance_versions, &slot);

	return current && *current == version;
}

/* What the entry was made from still stands; `*peer` is its peer. */
static __always_inline int is_grounded(const struct binding *binding, struct peer **peer)
{
	*peer = bpf_map_lookup_elem(&flow_peers, &binding->peer);
	return *peer && (*peer)->version == binding->peer_version &&
	       has_version(binding->local, binding->local_version) &&
	       has_version(binding->remote, binding->remote_version);
}

/* The believed entry of the packet and its peer; 0 when there is none. A tunnelled packet's outer addresses are `source`
 * and `destination`: one that is not from the flow's peer changes nothing. A packet that changes the flow takes it out, and
 * goes to the worker: what it begins or ends is decided there. */
static __always_inline struct binding *find_flow(struct flow_packet *packet, const struct address *source,
						 const struct address *destination, struct peer **peer)
{
	__u64 now_ns = bpf_ktime_get_coarse_ns();
	__u32 only = 0;
	struct lease *lease = bpf_map_lookup_elem(&flow_lease, &only);
	struct flow_state *state;
	struct binding *binding;

	if (!lease || lease->until_ns < now_ns || lease->paused)
		return 0;
	binding = bpf_map_lookup_elem(&flow_bindings, &packet->key);
	if (!binding)
		return 0;
	state = bpf_map_lookup_elem(&flow_states, &binding->id);
	if (!state || state->generation != binding->generation)
		return 0;
	if (!is_grounded(binding, peer))
		return 0;
	if (source && (!same_address(source, &(*peer)->ip) || !same_address(destination, &(*peer)->local)))
		return 0;
	if (packet->changes) {
		state->generation = 0;
		return 0;
	}
	if (source && packet->length > lease->longest_inbound)
		return 0;
	/* Other CPUs read the line for every packet. */
	if (state->last_seen_ns != now_ns)
		state->last_seen_ns = now_ns;
	return binding;
}

/* The same for a packet that `find_flow` found the entry of a moment ago, and that cannot go to the worker any more: it
 * came before whatever took its flow out meanwhile, and so before the lease's end. Only what it rests on must stand. */
static __always_inline struct binding *find_flow_again(struct flow_packet *packet)
{
	struct binding *binding = bpf_map_lookup_elem(&flow_bindings, &packet->key);
	struct peer *peer;

	return binding && is_grounded(binding, &peer) ? binding : 0;
}

#endif
