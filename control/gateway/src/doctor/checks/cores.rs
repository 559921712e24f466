//! Rules about cores, the card's place beside them, and memory.

use crate::config::LinkKind;
use crate::doctor::facts::Facts;
use crate::doctor::finding::{Change, Verdict};
use std::collections::BTreeSet;
use std::path::Path;

pub(super) fn worker_cores(facts: &Facts) -> Vec<Verdict> {
    let usable = &facts.cores.usable;
    let workers = facts.config.fastpath.workers;
    let configured = &facts.config.fastpath.cores;
    let list = |cores: &mut dyn Iterator<Item = &usize>| -> String {
        cores.map(ToString::to_string).collect::<Vec<_>>().join(",")
    };
    let absent: Vec<&usize> = configured
        .iter()
        .filter(|core| !usable.contains(core))
        .collect();
    vec![if !absent.is_empty() {
        Verdict::error(
            "fastpath.cores",
            format!(
                "core {} cannot be used; {} can",
                list(&mut absent.into_iter()),
                list(&mut usable.iter())
            ),
        )
        .costs("the gateway does not start")
        .fix("name cores of this machine, or [] for the kernel's choice")
    } else if workers > usable.len() && !usable.is_empty() {
        Verdict::warning(
            "fastpath.workers",
            format!("{workers} workers on {} cores", usable.len()),
        )
        .costs("workers take turns on a core: each packet may wait for the other's time slice")
        .fix(format!("set fastpath.workers to at most {}", usable.len()))
    } else {
        Verdict::ok(
            "fastpath.workers",
            format!("{workers} on {} cores", usable.len()),
        )
    }]
}

pub(super) fn siblings(facts: &Facts) -> Vec<Verdict> {
    let pinned = &facts.gateway.pinned;
    let pairs = pinned.iter().enumerate().flat_map(|(index, first)| {
        pinned[index + 1..]
            .iter()
            .map(move |second| (*first, *second))
    });
    let shared: Vec<Verdict> = pairs
        .filter(|(first, second)| {
            first != second
                && facts
                    .cores
                    .siblings
                    .get(first)
                    .is_some_and(|all| all.contains(second))
        })
        .map(|(first, second)| {
            Verdict::note(
                "fastpath.cores",
                format!("{first} and {second} are two threads of one core"),
            )
            .costs(
                "two workers share one core's units and caches: about 1.3 times \
                     one worker's rate, not twice",
            )
            .fix("name one of them only: lscpu -e shows which belong together")
        })
        .collect();
    if shared.is_empty() && !pinned.is_empty() {
        return vec![Verdict::ok(
            "fastpath.cores",
            "a physical core for each worker",
        )];
    }
    shared
}

pub(super) fn frequency(facts: &Facts) -> Vec<Verdict> {
    let slow: Vec<(&usize, &String)> = facts
        .cores
        .governor
        .iter()
        .filter(|(core, governor)| {
            (facts.gateway.pinned.is_empty() || facts.gateway.pinned.contains(core))
                && matches!(
                    governor.as_str(),
                    "powersave" | "conservative" | "ondemand" | "userspace"
                )
        })
        .collect();
    match slow.first() {
        None => vec![Verdict::ok("cores", "not slowed down by a governor")],
        Some((core, governor)) => vec![
            Verdict::note(
                format!("/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor"),
                format!("{governor} on {} cores", slow.len()),
            )
            .costs("a core that sleeps wakes slowly: the first packets of a burst take longest")
            .fix("cpupower frequency-set -g performance (costs power)"),
        ],
    }
}

pub(super) fn numa(facts: &Facts) -> Vec<Verdict> {
    let Some(card) = facts.card.as_ref().and_then(|card| card.numa_node) else {
        return Vec::new();
    };
    let place = device(facts);
    let far: BTreeSet<usize> = facts
        .gateway
        .pinned
        .iter()
        .filter(|core| {
            facts
                .cores
                .numa_node
                .get(core)
                .is_some_and(|&node| node != card)
        })
        .copied()
        .collect();
    vec![if far.is_empty() {
        Verdict::ok(place, format!("on NUMA node {card}, as its workers"))
    } else {
        let near = facts
            .cores
            .numa_node
            .iter()
            .filter(|(_, node)| **node == card);
        Verdict::warning(
            place,
            format!("on NUMA node {card}, workers on core {}", joined(&far)),
        )
        .costs("every packet crosses the link between the sockets: about a third of the rate")
        .fix(format!(
            "fastpath.cores = [{}] has the cores beside it to choose from",
            joined(&near.map(|(core, _)| *core).collect())
        ))
    }]
}

pub(super) fn interrupts(facts: &Facts) -> Vec<Verdict> {
    let Some(card) = facts
        .card
        .as_ref()
        .filter(|card| !card.interrupts.is_empty())
    else {
        return Vec::new();
    };
    let place = format!("{}, interrupts {}", device(facts), {
        let numbers: Vec<String> = card
            .interrupts
            .iter()
            .map(|(number, _)| number.to_string())
            .collect();
        numbers.join(",")
    });
    let taken: BTreeSet<usize> = card
        .interrupts
        .iter()
        .flat_map(|(_, cores)| cores.clone())
        .collect();
    let busy: BTreeSet<usize> = facts
        .gateway
        .pinned
        .iter()
        .filter(|core| facts.config.fastpath.spin_us > 0 && taken.contains(core))
        .copied()
        .collect();
    let command = |cores: &str| {
        format!("systemctl stop irqbalance; echo {cores} > /proc/irq/NUMBER/smp_affinity_list")
    };
    vec![
        if card.interrupts.len() > 1 && taken.len() == 1 && facts.cores.usable.len() > 1 {
            Verdict::warning(place, format!("all on core {}", joined(&taken)))
                .costs("one core takes every packet of every queue; the others wait for it")
                .fix(command("CORE"))
        } else if !busy.is_empty() {
            let free = facts
                .cores
                .usable
                .iter()
                .filter(|core| !facts.gateway.pinned.contains(core));
            Verdict::note(
                place,
                format!("on core {}, where a worker spins", joined(&busy)),
            )
            .costs("the kernel's receive work and the worker push each other aside on that core")
            .fix(command(&joined(&free.copied().collect())))
        } else {
            Verdict::ok(place, format!("on cores {}", joined(&taken)))
        },
    ]
}

pub(super) fn queues(facts: &Facts) -> Vec<Verdict> {
    let Some(underlay) = facts.network.underlay() else {
        return Vec::new();
    };
    let Some(card) = facts.card.as_ref().filter(|card| !card.spread.is_empty()) else {
        return Vec::new();
    };
    let (queues, workers) = (card.spread.len(), facts.config.fastpath.workers);
    let place = format!("{}, {queues} receive queues", underlay.name);
    let spread = card.spread.iter().all(|&spread| spread);
    let enough = Verdict::ok(&place, format!("for {workers} workers"));
    if queues >= workers {
        return vec![enough];
    }
    let more = format!("ethtool -L {} combined {workers}", underlay.name);
    if facts.config.fastpath.link != LinkKind::Tun {
        return vec![
            Verdict::new(
                facts.without_af_xdp(),
                place,
                format!("for {workers} workers"),
            )
            .costs("AF_XDP needs a queue for each worker and does not start")
            .fix(format!("{more}, or set fastpath.workers = {queues}")),
        ];
    }
    if spread {
        return vec![enough];
    }
    let mut mask = 0_u64;
    for core in facts.cores.usable.iter().filter(|core| **core < 64) {
        mask |= 1 << core;
    }
    let verdict = Verdict::warning(place, format!("for {workers} workers, and RPS is off"))
        .costs("one core unpacks for all workers: more of them make nothing faster");
    // A mask of more than 32 cores is written in groups of 32, which the kernel then shows otherwise.
    if facts.cores.usable.last().is_none_or(|&last| last >= 32) {
        return vec![verdict.fix(format!(
            "ethtool -L {} combined {workers}, or echo MASK > \
                 /sys/class/net/{}/queues/rx-0/rps_cpus",
            underlay.name, underlay.name
        ))];
    }
    card.spread
        .iter()
        .enumerate()
        .filter(|(_, spread)| !**spread)
        .map(|(queue, _)| {
            verdict.clone().fix_by(Change::Write {
                file: Path::new("/sys/class/net")
                    .join(&underlay.name)
                    .join(format!("queues/rx-{queue}/rps_cpus")),
                value: format!("{mask:x}"),
            })
        })
        .collect()
}

pub(super) fn backlog(facts: &Facts) -> Vec<Verdict> {
    const KEY: &str = "net/core/netdev_max_backlog";
    /// Packets; a second of a busy core's work is far more, so that only bursts count.
    const MORE: u64 = 4096;
    let Some(length) = facts.settings.number(KEY) else {
        return Vec::new();
    };
    vec![match facts.cores.backlog_dropped {
        dropped if dropped > 0 && length < MORE => Verdict::warning(
            "/proc/net/softnet_stat",
            format!("{dropped} packets dropped since boot, {KEY} is {length}"),
        )
        .costs("bursts between devices of this host are lost before any program sees them")
        .fix_by(Change::setting(KEY, MORE.to_string())),
        dropped => Verdict::ok(
            KEY,
            format!("{length}, {dropped} packets dropped since boot"),
        ),
    }]
}

pub(super) fn huge_pages(facts: &Facts) -> Vec<Verdict> {
    const KEY: &str = "vm/nr_hugepages";
    let fastpath = &facts.config.fastpath;
    let fix = "sysctl -w vm.nr_hugepages=64 (takes 128 MiB for good)";
    match facts.memory.huge_pages {
        Some(0) if fastpath.link != LinkKind::Tun => vec![
            Verdict::note(KEY, "0")
                .costs(
                    "frames are spread over thousands of small pages: more TLB misses per packet",
                )
                .fix(format!("{fix}, and hardware.set.xsk_hugepages = true")),
        ],
        Some(pages) => vec![Verdict::ok(KEY, pages.to_string())],
        None => Vec::new(),
    }
}

pub(super) fn transparent_huge_pages(facts: &Facts) -> Vec<Verdict> {
    const FILE: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
    match facts.memory.transparent.as_deref() {
        Some("always") => vec![
            Verdict::note(FILE, "always")
                .costs(
                    "every program's memory comes in pieces of 2 MiB, which a small \
                     edge machine has little of",
                )
                .fix(format!("echo madvise > {FILE}")),
        ],
        Some(other) => vec![Verdict::ok(FILE, other)],
        None => Vec::new(),
    }
}

fn device(facts: &Facts) -> String {
    facts
        .network
        .underlay()
        .map(|link| link.name.clone())
        .unwrap_or_default()
}

fn joined(cores: &BTreeSet<usize>) -> String {
    cores
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}
