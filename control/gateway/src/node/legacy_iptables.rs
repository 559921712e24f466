//! The FORWARD chain of the legacy iptables backend, read by the two `getsockopt` calls that `iptables-legacy` uses.
//!
//! Nothing else shows it: neither netlink nor a file has its rules. Layouts are those of
//! `include/uapi/linux/netfilter_ipv4/ip_tables.h` and its IPv6 sister.

use rustix::net::{AddressFamily, SocketType};
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use sluice_wire::Family;

/// A FORWARD chain as far as it concerns us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct LegacyForward {
    pub(crate) policy_drop: bool,
    /// A rule accepts what comes from our uplink, and another what leaves by it.
    pub(crate) accepts_uplink: bool,
}

/// `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES`; IPv6 has the same numbers.
const GET_INFO: i32 = 64;
const GET_ENTRIES: i32 = 65;
const TABLE_NAME_LENGTH: usize = 32;
/// `struct ipt_getinfo`: name, valid hooks, five entry offsets, five policy offsets, count, size.
const INFO_LENGTH: usize = 84;
/// `struct ipt_get_entries` up to its entries, which are aligned to eight bytes.
const ENTRIES_OFFSET: usize = 40;
const HOOK_FORWARD: usize = 2;
/// Verdicts of a standard target are stored as `-verdict - 1`.
const DROP: i32 = -1;
const ACCEPT: i32 = -2;

/// Where the fields of an entry are, in bytes.
struct Layout {
    in_device: usize,
    out_device: usize,
    target_offset: usize,
}

const fn layout(family: Family) -> Layout {
    match family {
        Family::V4 => Layout {
            in_device: 16,
            out_device: 32,
            target_offset: 88,
        },
        Family::V6 => Layout {
            in_device: 64,
            out_device: 80,
            target_offset: 140,
        },
    }
}

impl LegacyForward {
    /// True when our packets end here: they have no way around it, and it cannot be changed without replacing all of it.
    pub(crate) const fn is_in_the_way(self) -> bool {
        self.policy_drop && !self.accepts_uplink
    }
}

/// Reads the chain of the caller's namespace; `None` when there is no such table.
///
/// # Errors
/// When the caller may not (it takes CAP_NET_ADMIN), or the answer has another layout.
pub(crate) fn forward(family: Family, uplink: &str) -> io::Result<Option<LegacyForward>> {
    let tables = match family {
        Family::V4 => "/proc/net/ip_tables_names",
        Family::V6 => "/proc/net/ip6_tables_names",
    };
    let names = std::fs::read_to_string(tables).unwrap_or_default();
    // Asking for a table that is not there would make one.
    if !names.lines().any(|name| name == "filter") {
        return Ok(None);
    }
    let (domain, level) = match family {
        Family::V4 => (AddressFamily::INET, libc::IPPROTO_IP),
        Family::V6 => (AddressFamily::INET6, libc::IPPROTO_IPV6),
    };
    let socket = rustix::net::socket(domain, SocketType::RAW, Some(rustix::net::ipproto::RAW))?;
    let mut info = table_name(INFO_LENGTH);
    ask(&socket, level, GET_INFO, &mut info)?;
    let number = |bytes: &[u8], at: usize| -> Option<usize> {
        let four = bytes.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_ne_bytes(four)).ok()
    };
    let garbled = || io::Error::new(io::ErrorKind::InvalidData, "the table's layout is unknown");
    let first = number(&info, 36 + 4 * HOOK_FORWARD).ok_or_else(garbled)?;
    let policy = number(&info, 56 + 4 * HOOK_FORWARD).ok_or_else(garbled)?;
    let size = number(&info, 80).ok_or_else(garbled)?;
    let mut entries = table_name(ENTRIES_OFFSET + size);
    let size = u32::try_from(size).map_err(|_| garbled())?;
    entries[TABLE_NAME_LENGTH..TABLE_NAME_LENGTH + 4].copy_from_slice(&size.to_ne_bytes());
    ask(&socket, level, GET_ENTRIES, &mut entries)?;
    let table = entries.get(ENTRIES_OFFSET..).unwrap_or_default();
    let forward = chain(table, first, policy, &layout(family), uplink);
    forward.map(Some).ok_or_else(garbled)
}

/// The rules from offset `first` up to the policy.
fn chain(
    table: &[u8],
    first: usize,
    policy: usize,
    layout: &Layout,
    uplink: &str,
) -> Option<LegacyForward> {
    let (mut accepts_in, mut accepts_out) = (false, false);
    let mut at = first;
    while at < policy {
        let entry = table.get(at..)?;
        let accepts = verdict(entry, layout) == Some(ACCEPT);
        accepts_in |= accepts && names(entry, layout.in_device, uplink);
        accepts_out |= accepts && names(entry, layout.out_device, uplink);
        let length = short(entry, layout.target_offset + 2)?;
        at += usize::from(length).max(1);
    }
    Some(LegacyForward {
        policy_drop: verdict(table.get(policy..)?, layout)? == DROP,
        accepts_uplink: accepts_in && accepts_out,
    })
}

/// The verdict of an entry's standard target; `None` for a named target.
fn verdict(entry: &[u8], layout: &Layout) -> Option<i32> {
    let target = entry.get(usize::from(short(entry, layout.target_offset)?)..)?;
    // Length (2 bytes), name (29), revision (1), verdict (4). A standard target has the empty name.
    if *target.get(2)? != 0 {
        return None;
    }
    Some(i32::from_ne_bytes(target.get(32..36)?.try_into().ok()?))
}

fn names(entry: &[u8], at: usize, device: &str) -> bool {
    entry
        .get(at..at + 16)
        .and_then(|name| name.split(|byte| *byte == 0).next())
        == Some(device.as_bytes())
}

fn short(entry: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(entry.get(at..at + 2)?.try_into().ok()?))
}

fn table_name(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    bytes[..6].copy_from_slice(b"filter");
    bytes
}

fn ask(socket: &impl AsFd, level: i32, name: i32, bytes: &mut [u8]) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(bytes.len()).unwrap_or(libc::socklen_t::MAX);
    // SAFETY: `bytes` is writable for `length` bytes, and the kernel writes no more than that.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            bytes.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(in_device: &str, out_device: &str, verdict: i32) -> Vec<u8> {
        let mut entry = vec![0; 112 + 40];
        entry[16..16 + in_device.len()].copy_from_slice(in_device.as_bytes());
        entry[32..32 + out_device.len()].copy_from_slice(out_device.as_bytes());
        entry[88..90].copy_from_slice(&112_u16.to_ne_bytes());
        entry[90..92].copy_from_slice(&152_u16.to_ne_bytes());
        entry[112 + 32..112 + 36].copy_from_slice(&verdict.to_ne_bytes());
        entry
    }

    #[test]
    fn policy_and_our_rules_are_found() {
        let read = |entries: &[Vec<u8>]| {
            let table = entries.concat();
            chain(&table, 0, table.len() - 152, &layout(Family::V4), "sluice0").unwrap()
        };
        let found = read(&[entry("", "", DROP)]);
        assert!(found.policy_drop && !found.accepts_uplink);
        let (into, out) = (entry("sluice0", "", ACCEPT), entry("", "sluice0", ACCEPT));
        assert!(!read(&[into.clone(), entry("", "", DROP)]).accepts_uplink);
        assert!(read(&[into, out, entry("", "", DROP)]).accepts_uplink);
        let other = [entry("sluice01", "sluice01", ACCEPT), entry("", "", ACCEPT)];
        let found = read(&other);
        assert!(!found.policy_drop && !found.accepts_uplink);
    }

    #[test]
    fn a_table_cut_short_is_no_panic() {
        let whole = [entry("sluice0", "", ACCEPT), entry("", "", DROP)].concat();
        for length in 0..whole.len() {
            let _ = chain(&whole[..length], 0, 152, &layout(Family::V4), "sluice0");
        }
    }
}
