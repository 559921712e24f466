//! Cores, memory and the underlay's card, as `/proc` and `/sys` show them.

use super::root::{Root, core_list, field};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The machine's cores.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cores {
    /// Those the gateway may run on.
    pub(crate) usable: BTreeSet<usize>,
    /// The NUMA node of each.
    pub(crate) numa_node: BTreeMap<usize, i32>,
    /// Hardware threads that share a core with each, itself included.
    pub(crate) siblings: BTreeMap<usize, BTreeSet<usize>>,
    /// The frequency governor of each, where there is one.
    pub(crate) governor: BTreeMap<usize, String>,
    /// Packets dropped because a core's backlog was full, since boot.
    pub(crate) backlog_dropped: u64,
}

/// Memory settings of the whole machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    /// Pages of the default huge size that exist.
    pub(crate) huge_pages: Option<u64>,
    /// `always`, `madvise` or `never`.
    pub(crate) transparent: Option<String>,
}

/// What sysfs says about the underlay's device.
#[derive(Clone, Debug, Default)]
pub(crate) struct Card {
    /// The kernel module; none for virtual devices.
    pub(crate) driver: Option<String>,
    /// None where the platform has no such thing (-1 in sysfs).
    pub(crate) numa_node: Option<i32>,
    /// Interrupts by which it has reported packets: number, and the cores that may take it.
    pub(crate) interrupts: Vec<(u32, BTreeSet<usize>)>,
    /// Of each receive queue, in order: whether RPS spreads it over cores.
    pub(crate) spread: Vec<bool>,
}

impl Cores {
    /// `status` is the text of `/proc/PID/status`.
    pub(crate) fn read(root: &Root, status: &str) -> Self {
        let usable = field(status, "Cpus_allowed_list")
            .map(core_list)
            .unwrap_or_default();
        let of = |core: usize, file: &str| {
            root.text(Path::new(&format!("sys/devices/system/cpu/cpu{core}")).join(file))
        };
        let mut numa_node = BTreeMap::new();
        for name in root.names("sys/devices/system/node") {
            if let Some(node) = name.strip_prefix("node").and_then(|node| node.parse().ok()) {
                let cores = root.text(format!("sys/devices/system/node/{name}/cpulist"));
                for core in cores.as_deref().map(core_list).unwrap_or_default() {
                    numa_node.insert(core, node);
                }
            }
        }
        Self {
            siblings: usable
                .iter()
                .filter_map(|&core| {
                    let list = of(core, "topology/thread_siblings_list")?;
                    Some((core, core_list(&list)))
                })
                .collect(),
            governor: usable
                .iter()
                .filter_map(|&core| Some((core, of(core, "cpufreq/scaling_governor")?)))
                .collect(),
            numa_node,
            backlog_dropped: root
                .text("proc/net/softnet_stat")
                .map(|text| text.lines().filter_map(dropped).sum())
                .unwrap_or_default(),
            usable,
        }
    }
}

/// The second column, hexadecimal, of one core's line.
fn dropped(line: &str) -> Option<u64> {
    u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok()
}

impl Memory {
    pub(crate) fn read(root: &Root) -> Self {
        let memory = root.text("proc/meminfo").unwrap_or_default();
        let transparent = root.text("sys/kernel/mm/transparent_hugepage/enabled");
        Self {
            huge_pages: field(&memory, "HugePages_Total").and_then(|pages| pages.parse().ok()),
            transparent: transparent.and_then(|text| {
                let (_, rest) = text.split_once('[')?;
                Some(rest.split_once(']')?.0.to_owned())
            }),
        }
    }
}

impl Card {
    /// `None` when sysfs shows another device of that name: it belongs to the namespace in which it was mounted.
    pub(crate) fn read(root: &Root, device: &str, index: u32) -> Option<Self> {
        let at = Path::new("sys/class/net").join(device);
        if root.number::<u32>(at.join("ifindex")) != Some(index) {
            return None;
        }
        // The card itself, or the bus device above a virtio device.
        let places = [at.join("device"), at.join("device/..")];
        let numa_node: Option<i32> = places
            .iter()
            .find_map(|place| root.number(place.join("numa_node")));
        let interrupts = places
            .iter()
            .map(|place| root.names(place.join("msi_irqs")))
            .find(|numbers| !numbers.is_empty())
            .unwrap_or_default();
        let counted = root.text("proc/interrupts").unwrap_or_default();
        let mut queues: Vec<u32> = root
            .names(at.join("queues"))
            .iter()
            .filter_map(|name| name.strip_prefix("rx-")?.parse().ok())
            .collect();
        queues.sort_unstable();
        Some(Self {
            driver: root.link_name(at.join("device/driver")),
            numa_node: numa_node.filter(|&node| node >= 0),
            interrupts: interrupts
                .iter()
                .filter_map(|number| number.parse().ok())
                .filter(|&number| reports_packets(&counted, number))
                .filter_map(|number: u32| Some((number, cores_of_interrupt(root, number)?)))
                .collect(),
            spread: queues
                .iter()
                .map(|queue| {
                    root.text(at.join(format!("queues/rx-{queue}/rps_cpus")))
                        .is_some_and(|mask| mask.contains(|c: char| c != '0' && c != ','))
                })
                .collect(),
        })
    }
}

/// Whether this line of `/proc/interrupts` has counted anything, and is not virtio's for sent packets.
fn reports_packets(interrupts: &str, number: u32) -> bool {
    let Some(counts) = field(interrupts, &number.to_string()) else {
        return false;
    };
    let mut words = counts.split_whitespace();
    let mut by_core = words.by_ref().map_while(|count| count.parse::<u64>().ok());
    by_core.any(|count| count > 0) && !counts.contains("-output")
}

fn cores_of_interrupt(root: &Root, number: u32) -> Option<BTreeSet<usize>> {
    let at = Path::new("proc/irq").join(number.to_string());
    let list = root
        .text(at.join("effective_affinity_list"))
        .filter(|list| !list.is_empty())
        .or_else(|| root.text(at.join("smp_affinity_list")))?;
    Some(core_list(&list))
}
