//! The gateway's process, or this one in its place: rights and limits; and who holds the tunnel's port.

use super::root::{Root, field};
use std::fs;

#[derive(Clone, Debug, Default)]
pub(crate) struct Process {
    /// `the gateway (pid 7)` or `this command`.
    pub(crate) who: String,
    /// Effective capabilities, one bit each (`include/uapi/linux/capability.h`).
    pub(crate) capabilities: u64,
    /// Soft limits; `None` is unlimited. Bytes, and descriptors.
    pub(crate) locked_bytes_max: Option<u64>,
    pub(crate) files_max: Option<u64>,
    /// KiB of the process that are in swap.
    pub(crate) swapped_kib: u64,
}

/// A program that has UDP sockets on the tunnel's port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PortHolder {
    /// Unknown when `/proc/PID/fd` may not be read.
    pub(crate) pid: Option<u32>,
    /// Its program's name.
    pub(crate) program: String,
    /// Datagrams its sockets had no room for, since they were opened.
    pub(crate) dropped: u64,
}

impl Process {
    /// `gateway` is the running gateway's process.
    pub(crate) fn read(root: &Root, gateway: Option<u32>, status: &str) -> Self {
        let limits = root
            .text(format!("proc/{}/limits", directory(gateway)))
            .unwrap_or_default();
        Self {
            who: gateway.map_or_else(
                || "this command".to_owned(),
                |pid| format!("the gateway (pid {pid})"),
            ),
            capabilities: field(status, "CapEff")
                .and_then(|bits| u64::from_str_radix(bits, 16).ok())
                .unwrap_or_default(),
            locked_bytes_max: soft_limit(&limits, "Max locked memory"),
            files_max: soft_limit(&limits, "Max open files"),
            swapped_kib: field(status, "VmSwap")
                .and_then(|text| text.strip_suffix("kB")?.trim().parse().ok())
                .unwrap_or_default(),
        }
    }
}

/// Its directory below `/proc`.
pub(super) fn directory(pid: Option<u32>) -> String {
    pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string())
}

fn soft_limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Who has bound the UDP port, each process once.
pub(crate) fn port_holders(root: &Root, port: u16) -> Vec<PortHolder> {
    let mut sockets = Vec::new();
    for file in ["proc/net/udp", "proc/net/udp6"] {
        let table = root.text(file).unwrap_or_default();
        sockets.extend(table.lines().skip(1).filter_map(|line| bound(line, port)));
    }
    let mut holders: Vec<PortHolder> = Vec::new();
    for (socket, dropped) in sockets {
        let pid = owner(root, &socket);
        if let Some(known) = holders.iter_mut().find(|holder| holder.pid == pid) {
            known.dropped += dropped;
            continue;
        }
        let program = pid
            .and_then(|pid| root.text(format!("proc/{pid}/comm")))
            .unwrap_or_else(|| "an unknown process".to_owned());
        holders.push(PortHolder {
            pid,
            program,
            dropped,
        });
    }
    holders
}

/// What `/proc/PID/fd` calls the socket of this line, and its drops, if it is bound to the port.
fn bound(line: &str, port: u16) -> Option<(String, u64)> {
    let columns: Vec<&str> = line.split_whitespace().collect();
    let (_, local) = columns.get(1)?.rsplit_once(':')?;
    let inode = columns.get(9)?;
    let dropped = columns.get(12).and_then(|drops| drops.parse().ok());
    (u16::from_str_radix(local, 16) == Ok(port))
        .then(|| (format!("socket:[{inode}]"), dropped.unwrap_or_default()))
}

fn owner(root: &Root, socket: &str) -> Option<u32> {
    let pids = root.names("proc");
    pids.iter()
        .filter_map(|name| name.parse::<u32>().ok())
        .find(|pid| {
            let at = format!("proc/{pid}/fd");
            root.names(&at).iter().any(|descriptor| {
                fs::read_link(root.path(&at).join(descriptor))
                    .is_ok_and(|target| target.as_os_str() == socket)
            })
        })
}
