/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* What a BPF program needs of the kernel beside its headers: sections, map definitions, the helpers we call.
 *
 * Written out here so that a build needs clang and the kernel's uapi headers only, not libbpf. The helper numbers are
 * ABI (enum bpf_func_id of linux/bpf.h), and none of the helpers is reserved for GPL programs.
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
/* Linux 5.18. */
static __u64 (*const bpf_xdp_get_buff_len)(struct xdp_md *context) = (void *)BPF_FUNC_xdp_get_buff_len;

#endif
