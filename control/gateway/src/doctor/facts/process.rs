//! The gateway's process, or this one in its place: rights and limits; and who holds its ports.

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

/// A program that has sockets on a port.
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
    let tables = ["proc/net/udp", "proc/net/udp6"];
    holders(root, sockets(root, &tables, |line| bound(line, port)))
}

/// Who serves the port, UDP or TCP, on every address of this host: nobody else can have it on any.
pub(crate) fn everywhere_holders(root: &Root, port: u16) -> Vec<PortHolder> {
    let is_everywhere = |line: &&str| {
        let local = line.split_whitespace().nth(1).unwrap_or_default();
        local.trim_start_matches('0').starts_with(':')
    };
    let is_listening = |line: &&str| line.split_whitespace().nth(3) == Some("0A");
    let udp = ["proc/net/udp", "proc/net/udp6"];
    let mut found = sockets(root, &udp, |line| {
        bound(Some(line).filter(is_everywhere)?, port)
    });
    found.extend(sockets(root, &["proc/net/tcp", "proc/net/tcp6"], |line| {
        let (socket, _) = bound(Some(line).filter(is_everywhere).filter(is_listening)?, port)?;
        Some((socket, 0))
    }));
    holders(root, found)
}

/// A socket as `/proc/PID/fd` calls it, and its drops.
type Socket = (String, u64);

fn sockets(root: &Root, tables: &[&str], read: impl Fn(&str) -> Option<Socket>) -> Vec<Socket> {
    let mut sockets = Vec::new();
    for file in tables {
        let table = root.text(file).unwrap_or_default();
        sockets.extend(table.lines().skip(1).filter_map(&read));
    }
    sockets
}

fn holders(root: &Root, sockets: Vec<Socket>) -> Vec<PortHolder> {
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

/// The socket of this line, if it is bound to the port.
fn bound(line: &str, port: u16) -> Option<Socket> {
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
