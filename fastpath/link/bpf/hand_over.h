/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* Between the two halves of the inbound side: XDP unwraps a tunnelled packet and leaves a note in front of it, GRO joins
 * segments, and the tc program that finds the note goes on. */
#ifndef SLUICE_HAND_OVER_H
#define SLUICE_HAND_OVER_H

#include "flow.h"

/* The frame is no established flow's, and as it was. */
#define NO_FLOW (-1)

/* What XDP leaves in front of a frame. Nothing that comes over a wire can have it. */
struct handed_over {
	__u32 magic;
	__u32 zero;
};

#define MAGIC 0x536c7563

/* The believed entry of the tunnelled packet at `frame->at`, `length` bytes long, that came from `source` to
 * `destination`; 0 when there is none, or its instance is on another node. */
static __always_inline struct binding *find_tunnelled(struct frame *frame, __u32 length, const struct address *source,
						      const struct address *destination, struct flow_packet *packet,
						      int *is_v4)
{
	struct peer *peer;

	if (frame->at + 1 > frame->end)
		return 0;
	*is_v4 = *(__u8 *)frame->at >> 4 == 4;
	if (!parse_flow(frame, *is_v4, 1, packet) || packet->length != length)
		return 0;
	return find_flow(packet, source, destination, &peer);
}

/* Takes `outer` bytes of IP and UDP header away and leaves the note. */
static __always_inline int hand_over(struct xdp_md *context, __u32 outer, int is_v4)
{
	struct frame frame = frame_of(context);
	struct ethhdr *ethernet, kept;
	struct handed_over *note;

	if (!TAKE(&frame, ethernet))
		return NO_FLOW;
	kept = *ethernet;
	kept.h_proto = is_v4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	/* A driver that has no room for the note leaves the frame to the worker. */
	if (bpf_xdp_adjust_meta(context, -(int)sizeof(*note)))
		return NO_FLOW;
	if (bpf_xdp_adjust_head(context, outer))
		return XDP_ABORTED;
	frame = frame_of(context);
	note = (void *)(long)context->data_meta;
	if (!TAKE(&frame, ethernet) || (void *)(note + 1) > (void *)(long)context->data)
		return XDP_ABORTED;
	*ethernet = kept;
	note->magic = MAGIC;
	note->zero = 0;
	return XDP_PASS;
}

#endif
