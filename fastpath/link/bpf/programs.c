// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/* All programs in one object, so that they share their maps: those of AF_XDP, and those of the offload.
 *
 * Licence. The source is offered under Apache-2.0 or GPL-2.0. The string below is what the kernel is told about the
 * loaded programs: it only knows names of the GPL family, and the second licence is one of them. Of the helpers we call,
 * bpf_fib_lookup asks for it.
 */
#include "xdp.c"
#include "offload.c"

char LICENSE[] SEC("license") = "GPL";

/* Sizes and offsets for the tests of `src/bpf/abi.rs` and `src/offload/abi.rs`; never loaded. */
const __u32 abi_layout[] SEC("abi") = { ABI_LAYOUT };
const __u32 flow_layout[] SEC("flow_abi") = { FLOW_LAYOUT };
