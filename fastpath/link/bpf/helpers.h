/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* What a BPF program needs of the kernel beside its headers: sections, map definitions, the helpers we call.
 *
 * Written out here so that a build needs clang and the kernel's uapi headers only, not libbpf. The helper numbers are
 * ABI (enum bpf_func_id of linux/bpf.h). Of those we call, bpf_fib_lookup is reserved for GPL programs.
 */
#ifndef SLUICE_HELPERS_H
#define SLUICE_HELPERS_H

#include <linux/bpf.h>
#include <linux/stddef.h>
#include <linux/types.h>

#define SEC(name) __attribute__((section(name), used))
/* linux/stddef.h has a weaker one. */
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* Maps are described by the types of a struct's pointers, which the loader reads from BTF. */
#define __uint(name, value) int(*name)[value]
#define __type(name, value) value *name

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define bpf_htons(x) __builtin_bswap16(x)
#define bpf_htonl(x) __builtin_bswap32(x)
#else
#define bpf_htons(x) (x)
#define bpf_htonl(x) (x)
#endif
#define bpf_ntohs(x) bpf_htons(x)
#define bpf_ntohl(x) bpf_htonl(x)

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) =
	(void *)BPF_FUNC_map_update_elem;
static __u64 (*const bpf_ktime_get_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;
static long (*const bpf_redirect_map)(void *map, __u64 key, __u64 flags) = (void *)BPF_FUNC_redirect_map;
static __u64 (*const bpf_ktime_get_coarse_ns)(void) = (void *)BPF_FUNC_ktime_get_coarse_ns;
static long (*const bpf_xdp_adjust_head)(struct xdp_md *context, int delta) = (void *)BPF_FUNC_xdp_adjust_head;
static long (*const bpf_xdp_adjust_tail)(struct xdp_md *context, int delta) = (void *)BPF_FUNC_xdp_adjust_tail;
static long (*const bpf_xdp_adjust_meta)(struct xdp_md *context, int delta) = (void *)BPF_FUNC_xdp_adjust_meta;
static __s64 (*const bpf_csum_diff)(const void *from, __u32 from_length, const void *to, __u32 to_length, __u32 seed) =
	(void *)BPF_FUNC_csum_diff;
static long (*const bpf_l3_csum_replace)(struct __sk_buff *skb, __u32 offset, __u64 from, __u64 to, __u64 size) =
	(void *)BPF_FUNC_l3_csum_replace;
static long (*const bpf_l4_csum_replace)(struct __sk_buff *skb, __u32 offset, __u64 from, __u64 to, __u64 flags) =
	(void *)BPF_FUNC_l4_csum_replace;
static long (*const bpf_skb_store_bytes)(struct __sk_buff *skb, __u32 offset, const void *from, __u32 length,
					 __u64 flags) = (void *)BPF_FUNC_skb_store_bytes;
static long (*const bpf_skb_adjust_room)(struct __sk_buff *skb, __s32 difference, __u32 mode, __u64 flags) =
	(void *)BPF_FUNC_skb_adjust_room;
static long (*const bpf_fib_lookup)(void *context, struct bpf_fib_lookup *parameters, int length, __u32 flags) =
	(void *)BPF_FUNC_fib_lookup;
static long (*const bpf_redirect)(__u32 device, __u64 flags) = (void *)BPF_FUNC_redirect;
static long (*const bpf_redirect_peer)(__u32 device, __u64 flags) = (void *)BPF_FUNC_redirect_peer;
static long (*const bpf_redirect_neigh)(__u32 device, struct bpf_redir_neigh *parameters, int length, __u64 flags) =
	(void *)BPF_FUNC_redirect_neigh;
/* Linux 5.18. */
static __u64 (*const bpf_xdp_get_buff_len)(struct xdp_md *context) = (void *)BPF_FUNC_xdp_get_buff_len;

#endif
