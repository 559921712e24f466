//! A machine as a temporary directory and as values: what `/proc` and `/sys` of a healthy edge server say.
//!
//! Two sockets with four threads each (0 and 4 are one core), a card with two queues on NUMA node 0.

use crate::config::Config;
use crate::doctor::examine;
use crate::doctor::facts::gateway::Gateway;
use crate::doctor::facts::managers::Manager;
use crate::doctor::facts::network::Network;
use crate::doctor::facts::process::PortHolder;
use crate::doctor::facts::root::Root;
use crate::doctor::facts::{Asked, Facts};
use crate::doctor::finding::Severity;
use crate::node::devices::{LinkState, ListedAddress};
use crate::node::nic::{Offload, XdpModes};
use sluice_perf::lab::scratch::Scratch;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

const OPTIONS: &str = "# CONFIG_FOO is not set\nCONFIG_TUN=m\nCONFIG_VETH=m\nCONFIG_BRIDGE=m\nCONFIG_NF_TABLES=m\nCONFIG_NFT_CT=m\n\
         CONFIG_NFT_MASQ=m\nCONFIG_NFT_NAT=m\nCONFIG_BPF_SYSCALL=y\nCONFIG_XDP_SOCKETS=y\nCONFIG_NET_CLS_BPF=m\n\
         CONFIG_NET_SCH_INGRESS=m\n";

/// Files of a healthy machine below its root.
const FILES: &[(&str, &str)] = &[
    ("proc/sys/kernel/osrelease", "6.18.2\n"),
    ("proc/self/mounts", "none /sys/fs/bpf bpf rw,nosuid 0 0\n"),
    (
        "proc/self/status",
        "Name:\tsluice\nVmSwap:\t       0 kB\nCapEff:\t000001ffffffffff\nCpus_allowed_list:\t0-7\n",
    ),
    (
        "proc/self/limits",
        "Limit                     Soft Limit           Hard Limit           Units     \n\
         Max open files            65536                65536                files     \n\
         Max locked memory         unlimited            unlimited            bytes     \n",
    ),
    (
        "proc/meminfo",
        "MemTotal: 16000000 kB\nHugePages_Total:      64\n",
    ),
    ("proc/net/udp", "  sl  local_address rem_address\n"),
    ("proc/net/udp6", "  sl  local_address rem_address\n"),
    (
        "proc/net/softnet_stat",
        "01c06c94 00000000 000003ad\n01c06c94 00000000 00000000\n",
    ),
    (
        "proc/net/nf_conntrack",
        "ipv4     2 tcp      6 300 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=1 dport=22\n",
    ),
    (
        "proc/interrupts",
        "           CPU0       CPU1\n 39:  0  7  PCI-MSIX-0  0-edge  ice-misc\n 40:  9  0  PCI-MSIX-0  1-edge  ice-rx-0\n \
         41:  0  9  PCI-MSIX-0  2-edge  ice-rx-1\n 42:  0  9  PCI-MSIX-0  2-edge  virtio0-output.0\n \
         43:  0  0  PCI-MSIX-0  2-edge  ice-rx-2\nNMI: 0 0\n",
    ),
    ("proc/irq/42/effective_affinity_list", "1\n"),
    ("proc/irq/43/effective_affinity_list", "1\n"),
    ("proc/irq/40/effective_affinity_list", "0\n"),
    ("proc/irq/41/effective_affinity_list", "\n"),
    ("proc/irq/41/smp_affinity_list", "1\n"),
    (
        "sys/kernel/mm/transparent_hugepage/enabled",
        "always [madvise] never\n",
    ),
    ("sys/devices/system/node/node0/cpulist", "0-1,4-5\n"),
    ("sys/devices/system/node/node1/cpulist", "2-3,6-7\n"),
    ("sys/class/net/eth0/ifindex", "2\n"),
    ("sys/class/net/eth0/device/numa_node", "0\n"),
    ("sys/class/net/eth0/device/msi_irqs/40", "msix\n"),
    ("sys/class/net/eth0/device/msi_irqs/41", "msix\n"),
    (
        "sys/class/net/eth0/queues/rx-0/rps_cpus",
        "00000000,00000000\n",
    ),
    ("sys/class/net/eth0/queues/rx-1/rps_cpus", "00\n"),
    (
        "etc/nsswitch.conf",
        "passwd: files\nhosts: files dns # comment\n",
    ),
    ("etc/resolv.conf", "nameserver 192.0.2.53\n"),
    (
        "etc/docker/daemon.json",
        r#"{"default-address-pools": [{"base": "172.20.0.0/14", "size": 24}]}"#,
    ),
    ("dev/net/tun", ""),
    ("boot/config-6.18.2", OPTIONS),
];

const SETTINGS: &[(&str, &str)] = &[
    ("net/core/bpf_jit_enable", "1"),
    ("net/core/netdev_max_backlog", "1000"),
    ("net/core/rmem_max", "8388608"),
    ("net/core/wmem_max", "8388608"),
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/ip_no_pmtu_disc", "0"),
    ("net/ipv4/ip_local_port_range", "32768\t60999"),
    ("net/ipv4/ip_local_reserved_ports", "50103"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/eth0/rp_filter", "0"),
    ("net/ipv4/conf/sluice0/rp_filter", "2"),
    ("net/ipv4/conf/sluice0/forwarding", "1"),
    ("net/ipv4/conf/sluicetun0/forwarding", "1"),
    ("net/ipv6/conf/eth0/accept_ra", "2"),
    ("net/ipv4/conf/sluicetun0/rp_filter", "2"),
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/netfilter/nf_conntrack_count", "100"),
    ("net/netfilter/nf_conntrack_max", "262144"),
];

/// A machine in a directory of its own.
pub(super) struct Machine {
    scratch: Scratch,
}

impl Machine {
    fn new() -> Self {
        // Tests of one process run side by side, each with directories of its own.
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let machine = Self {
            scratch: Scratch::new(&format!("sluice-doctor-{number}")).unwrap(),
        };
        for (file, text) in FILES {
            machine.write(file, text);
        }
        for (key, value) in SETTINGS {
            machine.write(&format!("proc/sys/{key}"), value);
        }
        for core in 0..8 {
            let first = core % 4;
            let at = format!("sys/devices/system/cpu/cpu{core}");
            let siblings = format!("{first},{}", first + 4);
            machine.write(&format!("{at}/topology/thread_siblings_list"), &siblings);
            machine.write(&format!("{at}/cpufreq/scaling_governor"), "performance");
        }
        machine.link(
            "sys/class/net/eth0/device/driver",
            "../../bus/pci/drivers/ice",
        );
        machine
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.scratch.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn link(&self, file: &str, target: &str) {
        let path = self.scratch.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, path).unwrap();
    }

    fn remove(&self, file: &str) {
        fs::remove_file(self.scratch.path().join(file)).unwrap();
    }

    fn facts(&self, asked: Asked) -> Facts {
        let mut facts = Facts::read(
            &Root::new(self.scratch.path()),
            Config::default(),
            None,
            asked,
        );
        // It looks at a real directory, whose file system is this test's machine's.
        facts.state_dir.refused = None;
        facts.state_dir.in_memory = false;
        facts.state_dir.free_bytes = 1 << 40;
        facts
    }
}

/// What a healthy machine answers.
fn asked() -> Asked {
    Asked {
        gateway: Gateway {
            pinned: vec![0, 1],
            cluster: Some("10.0.0.2:10003".to_owned()),
            ..Gateway::default()
        },
        managers: vec![Manager {
            role: "the cluster's broker",
            address: "10.0.0.2:10003".to_owned(),
            key: "gateway.cluster",
            failure: None,
        }],
        peers: Vec::new(),
        clock_synchronised: Some(true),
        network: Network {
            links: vec![
                link(1, "lo", ""),
                link(2, "eth0", ""),
                link(3, "sluice0", "veth"),
                link(4, "sluicebr0", "bridge"),
                link(5, "sluicetun0", "tun"),
            ],
            addresses: vec![ListedAddress {
                device: 2,
                address: "192.0.2.7".parse().unwrap(),
                length: 24,
            }],
            own_address: Some("192.0.2.7".parse().unwrap()),
            offloads: vec![offload("rx-gro"), offload("tx-generic-segmentation")],
            xdp: Some(XdpModes {
                native: true,
                zero_copy: true,
                tx_checksum: false,
            }),
            ..Network::default()
        },
    }
}

pub(super) fn link(index: u32, name: &str, kind: &str) -> LinkState {
    LinkState {
        index,
        name: name.to_owned(),
        alias: String::new(),
        kind: kind.to_owned(),
        controller: None,
        mac: None,
        up: true,
        carrier: true,
        mtu: 1500,
        queue: 1000,
        xdp_program: None,
    }
}

pub(super) fn offload(name: &str) -> Offload {
    Offload {
        name: name.to_owned(),
        on: true,
        wanted: true,
        changeable: true,
    }
}

/// Facts of a healthy machine whose gateway is stopped.
pub(super) fn healthy() -> Facts {
    static READ: OnceLock<Facts> = OnceLock::new();
    READ.get_or_init(|| Machine::new().facts(asked())).clone()
}

/// The gateway of `facts` runs and holds its port.
pub(super) fn gateway_runs(facts: &mut Facts) {
    facts.gateway.running = true;
    facts.gateway.pid = Some(500);
    facts.port_holders = vec![PortHolder {
        pid: Some(500),
        program: "sluice".to_owned(),
        dropped: 0,
    }];
}

/// A change of files, the rule that must find it, and words its finding must have.
type Seeded = (&'static str, fn(&Machine), &'static [&'static str]);

/// What no namespace can have of its own, seeded in files and read by the same code that reads the real ones.
const SEEDED: &[Seeded] = &[
    (
        "kernel-version",
        |m| {
            m.write("proc/sys/kernel/osrelease", "5.10.0-8-amd64");
            m.write("boot/config-5.10.0-8-amd64", OPTIONS);
        },
        &["5.10.0-8-amd64"],
    ),
    (
        "kernel-options",
        |m| m.write("boot/config-6.18.2", "CONFIG_TUN=y\n"),
        &["CONFIG_XDP_SOCKETS"],
    ),
    (
        "kernel-options",
        |m| m.remove("boot/config-6.18.2"),
        &["/proc/config.gz"],
    ),
    ("tun-device", |m| m.remove("dev/net/tun"), &["No such file"]),
    (
        "bpf-jit",
        |m| m.write("proc/sys/net/core/bpf_jit_enable", "0\n"),
        &["sysctl -w net/core/bpf_jit_enable"],
    ),
    (
        "bpf-file-system",
        |m| m.write("proc/self/mounts", "none /sys/fs/bpf2 bpf rw 0 0\n"),
        &["mount -t bpf"],
    ),
    (
        "numa",
        |m| m.write("sys/class/net/eth0/device/numa_node", "1"),
        &["node 1", "core 0,1", "[2,3,6,7]"],
    ),
    (
        "interrupts",
        |m| m.write("proc/irq/41/smp_affinity_list", "0"),
        &["40,41", "all on core 0"],
    ),
    (
        "core-siblings",
        |m| {
            m.write(
                "sys/devices/system/cpu/cpu0/topology/thread_siblings_list",
                "0-1",
            );
        },
        &["0 and 1"],
    ),
    (
        "core-frequency",
        |m| {
            m.write(
                "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor",
                "powersave\n",
            );
        },
        &["cpu1", "powersave"],
    ),
    (
        "transparent-huge-pages",
        |m| {
            m.write(
                "sys/kernel/mm/transparent_hugepage/enabled",
                "[always] madvise never\n",
            );
        },
        &["always"],
    ),
    (
        "swap",
        |m| {
            m.write(
                "proc/self/status",
                "VmSwap:\t  12 kB\nCapEff:\t000001ffffffffff\nCpus_allowed_list:\t0-7\n",
            );
        },
        &["12 KiB"],
    ),
    (
        "backlog",
        |m| m.write("proc/net/softnet_stat", "0 0000000a 0\n0 00000001 0\n"),
        &["11 packets"],
    ),
    (
        "conntrack-table",
        |m| {
            m.write("proc/sys/net/netfilter/nf_conntrack_max", "120");
        },
        &["100 of 120"],
    ),
    (
        "conntrack-tunnel",
        |m| {
            m.write(
                "proc/net/nf_conntrack",
                "ipv4 2 udp 17 29 src=10.0.0.1 dst=10.0.0.2 sport=50103 dport=50103 src=1\n",
            );
        },
        &["1 tunnels", "notrack"],
    ),
    (
        "docker-pools",
        |m| {
            m.write(
                "etc/docker/daemon.json",
                r#"{"default-address-pools": [{"base": "10.30.0.0/20", "size": 24}]}"#,
            );
        },
        &["10.30.0.0/20"],
    ),
    (
        "local-resolver",
        |m| m.write("etc/resolv.conf", "# x\nnameserver 127.0.0.53\n"),
        &["systemd-resolved"],
    ),
    (
        "tunnel-port",
        |m| {
            // 0xC3B7 is 50103.
            m.write(
                "proc/net/udp6",
                "head\n 7: 00:C3B7 00:0000 07 0:0 00:0 0 0 0 4711 2 0\n",
            );
            m.write("proc/77/comm", "NetManager\n");
            m.link("proc/77/fd/5", "socket:[4711]");
        },
        &["NetManager (pid 77)"],
    ),
    (
        "names-port",
        |m| {
            // On loopback it is in nobody's way; on every address, and listening, it is.
            m.write(
                "proc/net/tcp",
                "head\n 1: 3500007F:0035 0:0 0A 0:0 00:0 0 0 0 4712 1 0\n\
                 \n 2: 00000000:0035 0:0 0A 0:0 00:0 0 0 0 4713 1 0\n",
            );
            m.write("proc/77/comm", "dnsmasq\n");
            m.link("proc/77/fd/5", "socket:[4713]");
        },
        &["dnsmasq (pid 77)"],
    ),
];

#[test]
fn what_a_namespace_cannot_seed_is_found_in_files() {
    for (check, seed, words) in SEEDED {
        let machine = Machine::new();
        seed(&machine);
        let findings = examine(&machine.facts(asked()));
        let bad: Vec<_> = findings
            .iter()
            .filter(|finding| finding.verdict.severity > Severity::Ok)
            .collect();
        assert!(!bad.is_empty(), "{check}: nothing found");
        assert!(
            bad.iter().all(|finding| finding.check == *check),
            "{check}: {bad:#?}"
        );
        let said = format!("{bad:?}");
        for word in *words {
            assert!(said.contains(word), "{check}: no `{word}` in {said}");
        }
    }
}

/// sysfs shows the devices of the namespace in which it was mounted, not of the one that looks.
#[test]
fn a_device_of_another_namespace_is_not_taken_for_the_underlay() {
    let machine = Machine::new();
    machine.write("sys/class/net/eth0/ifindex", "3\n");
    assert!(machine.facts(asked()).card.is_none());
}

#[test]
fn the_card_is_read_from_sysfs() {
    let card = healthy().card.unwrap();
    assert_eq!(card.driver.as_deref(), Some("ice"));
    assert_eq!(card.numa_node, Some(0));
    assert_eq!(card.interrupts.len(), 2);
    assert_eq!(card.spread, [false, false]);
    let machine = Machine::new();
    machine.write(
        "sys/class/net/eth0/queues/rx-1/rps_cpus",
        "00000000,00000003\n",
    );
    machine.write("sys/class/net/eth0/device/numa_node", "-1\n");
    let card = machine.facts(asked()).card.unwrap();
    assert_eq!((card.spread, card.numa_node), (vec![false, true], None));
}

/// A virtio device is below the bus device that has the interrupts.
#[test]
fn the_bus_device_above_the_card_is_looked_at() {
    let machine = Machine::new();
    let bus = machine.scratch.path().join("sys/devices/pci0/virtio0");
    fs::create_dir_all(&bus).unwrap();
    machine.write("sys/devices/pci0/numa_node", "1\n");
    machine.write("sys/devices/pci0/msi_irqs/41", "msix\n");
    fs::remove_dir_all(machine.scratch.path().join("sys/class/net/eth0/device")).unwrap();
    machine.link("sys/class/net/eth0/device", bus.to_str().unwrap());
    let card = machine.facts(asked()).card.unwrap();
    assert_eq!(card.numa_node, Some(1));
    assert_eq!(card.interrupts.len(), 1);
}

/// Docker's own pools lie across the thesis plan, and beside Oakestra's.
#[test]
fn docker_without_settings_takes_its_own_pools() {
    let machine = Machine::new();
    machine.remove("etc/docker/daemon.json");
    assert!(machine.facts(asked()).docker_pools.is_empty(), "no Docker");
    machine.write("run/docker.sock", "");
    let mut facts = machine.facts(asked());
    assert!(!facts.docker_pools.is_empty());
    let clashes = |facts: &Facts| {
        let findings = examine(facts).into_iter();
        findings
            .filter(|finding| finding.check == "docker-pools")
            .count()
    };
    assert_eq!(clashes(&facts), 0);
    facts.config.plan = sluice_wire::AddressPlan::thesis();
    assert!(clashes(&facts) > 0);
}

#[test]
fn a_compressed_configuration_of_the_kernel_is_read() {
    use std::io::Write;
    let machine = Machine::new();
    let path = machine.scratch.path().join("proc/config.gz");
    let file = fs::File::create(&path).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::default());
    gzip.write_all(b"CONFIG_TUN=y\n").unwrap();
    gzip.finish().unwrap();
    let options = machine.facts(asked()).kernel.options.unwrap();
    assert_eq!(options.len(), 1, "it wins against /boot: {options:?}");
    // Half a file is as good as none: the other place is looked at.
    fs::write(Path::new(&path), [0x1f, 0x8b, 8, 0]).unwrap();
    assert!(machine.facts(asked()).kernel.options.unwrap().len() > 1);
}
