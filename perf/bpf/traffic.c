// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/* The traffic generator and the sink of `sluice-perf`, one XDP program each.
 *
 * `generate` is run on live frames (BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES), attached to nothing: it writes the headers
 * of the next frame and sends it out of a device. The kernel uses the pages of frames again as whoever had them last left
 * them, so that all headers are written each time.
 *
 * `sink` is attached to the device at the other end: it counts what was expected, and ends it there.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <linux/in.h>

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name

static long (*const bpf_redirect)(__u32 ifindex, __u64 flags) = (void *)BPF_FUNC_redirect;
static __u64 (*const bpf_ktime_get_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;
static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;

/* No helper above asks for it; the kernel knows only names of the GPL family. */
char LICENSE[] SEC("license") = "GPL";

/* Ethernet, IPv4 and UDP without options. */
struct headers {
	struct ethhdr ethernet;
	struct iphdr ip;
	struct udphdr udp;
} __attribute__((packed));

/* What `generate` writes: headers with ports of zero, and the sum that the UDP checksum has without them; and how often. */
volatile const struct {
	__u32 device;
	/* Number of the first flow, and of flows less one: a power of two, less one. */
	__u32 first;
	__u32 mask;
	__u32 sum;
	/* Between two frames; 0 for as many as possible. */
	__u32 interval_ns;
	__u16 headers[sizeof(struct headers) / 2];
} stream = {};

/* The number of the next frame, and when it is due. One thread runs `generate`. */
struct {
	__u64 next;
	__u64 due_ns;
} progress;

/* A frame that comes so late sets the pace anew: what was missed is not made up for. */
#define LATE_NS 1000000

/* Flows of one destination port. */
#define SOURCE_PORTS 32768
#define SOURCE_PORT 1024
#define DESTINATION_PORT 7000
/* Odd, so that every flow has its turn before the first one has its second; near flows are far apart. */
#define STRIDE 40503

static inline __be16 be16(__u16 value)
{
	return __builtin_bswap16(value);
}

SEC("xdp")
int generate(struct xdp_md *context)
{
	void *end = (void *)(long)context->data_end;
	struct headers *frame = (void *)(long)context->data;
	__be16 source, destination;
	__u32 flow, sum;

	if ((void *)(frame + 1) > end)
		return XDP_ABORTED;
	if (stream.interval_ns) {
		__u64 now_ns = bpf_ktime_get_ns();

		if (now_ns < progress.due_ns)
			return XDP_DROP;
		if (now_ns - progress.due_ns > LATE_NS)
			progress.due_ns = now_ns;
		progress.due_ns += stream.interval_ns;
	}
	flow = stream.first + (((__u32)progress.next++ * STRIDE) & stream.mask);
	source = be16(SOURCE_PORT + flow % SOURCE_PORTS);
	destination = be16(DESTINATION_PORT + flow / SOURCE_PORTS);
	sum = stream.sum + source + destination;
#pragma clang loop unroll(full)
	for (int at = 0; at < (int)sizeof(*frame) / 2; at++)
		((__u16 *)frame)[at] = stream.headers[at];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	frame->udp.source = source;
	frame->udp.dest = destination;
	/* A sum of zero is sent as ones (RFC 768). */
	frame->udp.check = sum == 0xffff ? 0xffff : (__u16)~sum;
	return bpf_redirect(stream.device, 0);
}

/* What `sink` counts: tunnel datagrams to a port, with an inner IPv4 packet for an address at so many bytes into the frame. */
volatile const struct {
	__u32 inner_at;
	__be32 inner_destination;
	__be16 port;
	__u16 unused;
} expected = {};

enum { EXPECTED, OTHER, SUNK };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, SUNK);
} sunk SEC(".maps");

SEC("xdp")
int sink(struct xdp_md *context)
{
	void *end = (void *)(long)context->data_end;
	void *start = (void *)(long)context->data;
	struct headers *frame = start;
	struct iphdr *inner = start + (expected.inner_at & 0xff);
	__u32 which = OTHER;
	__u64 *count;

	if ((void *)(frame + 1) > end || frame->ethernet.h_proto != be16(ETH_P_IP) ||
	    frame->ip.protocol != IPPROTO_UDP || frame->udp.dest != expected.port)
		return XDP_PASS;
	if ((void *)(inner + 1) <= end && inner->daddr == expected.inner_destination)
		which = EXPECTED;
	count = bpf_map_lookup_elem(&sunk, &which);
	if (count)
		*count += 1;
	return XDP_DROP;
}
