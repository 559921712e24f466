//! Rules about the gateway's process: rights, limits, memory, and its ports.

use crate::config::LinkKind;
use crate::doctor::facts::Facts;
use crate::doctor::facts::process::PortHolder;
use crate::doctor::finding::{Change, Severity, Verdict};
use sluice_link::af_xdp::QueueSettings;

/// What a capability is needed for.
#[derive(Clone, Copy, Debug)]
enum Need {
    /// The gateway does not work without.
    Gateway,
    AfXdp,
    /// Some workloads cannot be attached without.
    Attaching,
    /// The name server cannot listen without.
    Names,
}

/// A capability, its bit, and what is lost without it.
const CAPABILITIES: [(&str, u32, Need, &str); 7] = [
    (
        "CAP_NET_ADMIN",
        NET_ADMIN,
        Need::Gateway,
        "devices, routes, firewall and TUN cannot be made",
    ),
    (
        "CAP_SYS_ADMIN",
        SYS_ADMIN,
        Need::Gateway,
        "the namespaces of workloads cannot be entered",
    ),
    (
        "CAP_NET_RAW",
        13,
        Need::AfXdp,
        "no AF_XDP, and sockets cannot be bound to devices",
    ),
    (
        "CAP_BPF",
        BPF,
        Need::AfXdp,
        "no XDP and no offload of flows, unless CAP_SYS_ADMIN is there",
    ),
    (
        "CAP_SYS_PTRACE",
        19,
        Need::Attaching,
        "workloads of other users cannot be attached by process id",
    ),
    (
        "CAP_DAC_OVERRIDE",
        1,
        Need::Attaching,
        "containers cannot be attached by name",
    ),
    (
        "CAP_NET_BIND_SERVICE",
        10,
        Need::Names,
        "the name server cannot listen on port 53",
    ),
];
const SYS_ADMIN: u32 = 21;
const BPF: u32 = 39;
const NET_ADMIN: u32 = 12;
const IPC_LOCK: u32 = 14;

const fn has(facts: &Facts, bit: u32) -> bool {
    facts.process.capabilities & (1 << bit) != 0
}

pub(super) fn capabilities(facts: &Facts) -> Vec<Verdict> {
    let who = &facts.process.who;
    let lacking: Vec<Verdict> = CAPABILITIES
        .iter()
        .filter(|(_, bit, ..)| !(has(facts, *bit) || *bit == BPF && has(facts, SYS_ADMIN)))
        .filter(|(_, _, need, _)| facts.config.names.enabled || !matches!(need, Need::Names))
        .map(|(name, _, need, cost)| {
            let severity = match need {
                Need::Gateway => Severity::Error,
                Need::AfXdp => facts.without_af_xdp().max(Severity::Warning),
                Need::Attaching | Need::Names => Severity::Warning,
            };
            let verdict = Verdict::new(severity, who, format!("lacks {name}"));
            verdict.costs(*cost).fix(format!(
                "run it as root, or add {name} to AmbientCapabilities= and \
                     CapabilityBoundingSet= of its unit"
            ))
        })
        .collect();
    if lacking.is_empty() {
        vec![Verdict::ok(who, "has every capability it uses")]
    } else {
        lacking
    }
}

pub(super) fn locked_memory(facts: &Facts) -> Vec<Verdict> {
    /// Bytes of a frame, and rings of each of a worker's two sides.
    const FRAME: u64 = 2048;
    const RINGS: u64 = 2 * 2;
    let fastpath = &facts.config.fastpath;
    let who = &facts.process.who;
    if fastpath.link == LinkKind::Tun {
        return Vec::new();
    }
    let usual = QueueSettings::default().ring_entries;
    let ring = facts
        .config
        .hardware
        .set
        .xsk_ring
        .map_or(usual, |it| it.get());
    let needed = FRAME * RINGS * u64::from(ring) * fastpath.workers as u64;
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    vec![match facts.process.locked_bytes_max {
        Some(max) if max < needed && !has(facts, IPC_LOCK) => Verdict::new(
            facts.without_af_xdp(),
            who,
            format!("may lock {}, frames take {} or more", mib(max), mib(needed)),
        )
        .costs("AF_XDP cannot register its frames (ENOBUFS)")
        .fix("LimitMEMLOCK=infinity in the unit, or ulimit -l unlimited"),
        Some(max) => Verdict::ok(who, format!("may lock {}", mib(max))),
        None => Verdict::ok(who, "may lock any amount of memory"),
    }]
}

pub(super) fn open_files(facts: &Facts) -> Vec<Verdict> {
    /// Sockets of tunnels and workers, two descriptors for each attached namespace, callers of the API.
    const ENOUGH: u64 = 4096;
    let who = &facts.process.who;
    vec![match facts.process.files_max {
        // Most systems give 1024 and let a process raise it; a unit of ours has more.
        Some(max) if max < 1024 => Verdict::error(who, format!("may open {max} files"))
            .costs("attaching instances and accepting callers fails with EMFILE")
            .fix("LimitNOFILE=65536 in the unit, or ulimit -n 65536"),
        Some(max) if max < ENOUGH => Verdict::note(who, format!("may open {max} files"))
            .costs("enough for some hundred instances")
            .fix("LimitNOFILE=65536 in the unit, or ulimit -n 65536"),
        Some(max) => Verdict::ok(who, format!("may open {max} files")),
        None => Verdict::ok(who, "may open any number of files"),
    }]
}

pub(super) fn swap(facts: &Facts) -> Vec<Verdict> {
    let who = &facts.process.who;
    vec![match facts.process.swapped_kib {
        0 => Verdict::ok(who, "is wholly in memory"),
        kib => Verdict::warning(who, format!("{kib} KiB are in swap"))
            .costs("a packet that meets a swapped page waits milliseconds for the disk")
            .fix("MemorySwapMax=0 in the unit, or free memory: swapoff -a && swapon -a"),
    }]
}

pub(super) fn socket_buffers(facts: &Facts) -> Vec<Verdict> {
    /// What the tunnel asks for, in bytes; with CAP_NET_ADMIN it gets it whatever the limit.
    const ASKED: u64 = 8 << 20;
    const KEYS: [&str; 2] = ["net/core/rmem_max", "net/core/wmem_max"];
    KEYS.into_iter()
        .filter_map(|key| {
            let max = facts.settings.number(key)?;
            Some(if max < ASKED && !has(facts, NET_ADMIN) {
                Verdict::warning(key, max.to_string())
                    .costs(
                        "bursts that a worker is late for are lost in the socket: TCP slows down",
                    )
                    .fix_by(Change::setting(key, ASKED.to_string()))
            } else {
                Verdict::ok(key, max.to_string())
            })
        })
        .collect()
}

pub(super) fn tunnel_port(facts: &Facts) -> Vec<Verdict> {
    let port = facts.config.fastpath.tunnel_port;
    let place = format!("fastpath.tunnel_port = {port}");
    let others: Vec<Verdict> = facts
        .port_holders
        .iter()
        .filter(|holder| {
            // Of a running gateway's sockets not every owner may be visible.
            !facts.gateway.running
                || matches!((holder.pid, facts.gateway.pid), (Some(one), Some(ours)) if one != ours)
        })
        .map(|holder| {
            let pid = holder
                .pid
                .map(|pid| format!(" (pid {pid})"))
                .unwrap_or_default();
            Verdict::error(
                &place,
                format!("UDP port {port} is held by {}{pid}", holder.program),
            )
            .costs("the gateway cannot bind it and does not start")
            .fix("stop that program, or give both sides another fastpath.tunnel_port")
        })
        .collect();
    if !others.is_empty() {
        return others;
    }
    vec![Verdict::ok(
        place,
        if facts.port_holders.is_empty() {
            "free"
        } else {
            "held by the gateway"
        },
    )]
}

pub(super) fn names_port(facts: &Facts) -> Vec<Verdict> {
    if !facts.config.names.enabled {
        return Vec::new();
    }
    let place = format!("port {}", crate::dns::PORT);
    let verdict = |holder: &PortHolder| {
        let pid = holder
            .pid
            .map(|pid| format!(" (pid {pid})"))
            .unwrap_or_default();
        Verdict::warning(&place, format!("{}{pid} serves it on every address", holder.program))
            .costs("the gateway cannot answer names on its own address: services are dialled by address")
            .fix(
                "bind that server to single addresses (dnsmasq: bind-interfaces; bind: listen-on), or set \
                 names.enabled = false",
            )
    };
    if facts.name_servers.is_empty() {
        return vec![Verdict::ok(place, "nobody serves it on every address")];
    }
    facts.name_servers.iter().map(verdict).collect()
}

pub(super) fn tunnel_drops(facts: &Facts) -> Vec<Verdict> {
    let port = facts.config.fastpath.tunnel_port;
    let place = format!("UDP port {port}");
    if facts.port_holders.is_empty() {
        return Vec::new();
    }
    vec![
        match facts.port_holders.iter().map(|holder| holder.dropped).sum() {
            0_u64 => Verdict::ok(place, "no datagram dropped"),
            dropped => Verdict::note(
                place,
                format!("{dropped} datagrams dropped since its sockets were opened"),
            )
            .costs("they came faster than the workers read: TCP slows down, the rest is lost")
            .fix("more fastpath.workers, cores that nobody else uses, or fastpath.spin_us = 50"),
        },
    ]
}

pub(super) fn tunnel_port_reserved(facts: &Facts) -> Vec<Verdict> {
    const RANGE: &str = "net/ipv4/ip_local_port_range";
    const RESERVED: &str = "net/ipv4/ip_local_reserved_ports";
    let port = facts.config.fastpath.tunnel_port;
    let range: Vec<u16> = facts
        .settings
        .text(RANGE)
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect();
    let &[first, last] = range.as_slice() else {
        return Vec::new();
    };
    let reserved = facts.settings.text(RESERVED).unwrap_or_default();
    let is_reserved = reserved.split(',').any(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        matches!((first.parse(), last.parse()), (Ok(first), Ok(last)) if (first..=last).contains(&port))
    });
    vec![if (first..=last).contains(&port) && !is_reserved {
        let with_ours = if reserved.is_empty() {
            port.to_string()
        } else {
            format!("{reserved},{port}")
        };
        Verdict::note(
            RANGE,
            format!("{first} to {last} includes the tunnel's port {port}"),
        )
        .costs(
            "while the gateway is down, the kernel may give the port to any \
                 client, and the gateway cannot start",
        )
        .fix_by(Change::setting(RESERVED, with_ours))
    } else {
        Verdict::ok(RANGE, format!("never gives away {port}"))
    }]
}
