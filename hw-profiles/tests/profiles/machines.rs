//! Machines as trees of files: which profile fits, and which link.

use sluice_hw_profiles::{Catalog, Facts, FactsError, Kernel, Link, PciId, link_for};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

/// What sysfs and procfs say of one machine with one interface `eth0`.
#[derive(Clone, Copy, Default)]
struct Machine {
    /// `None` for a virtual device.
    driver: Option<&'static str>,
    /// Vendor and device, as in the files.
    pci: Option<(&'static str, &'static str)>,
    model: Option<&'static str>,
    machine: &'static str,
    memory_kib: u64,
}

/// A directory that is removed at the end.
struct Tree(PathBuf);

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn tree(name: &str, machine: &Machine) -> Tree {
    let root = std::env::temp_dir().join(format!("sluice-machine-{name}-{}", std::process::id()));
    let write = |path: PathBuf, text: &str| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let device = root.join("sys/devices/bus/card");
    let net = device.join("net/eth0");
    fs::create_dir_all(&net).unwrap();
    fs::create_dir_all(root.join("sys/class/net")).unwrap();
    symlink(&net, root.join("sys/class/net/eth0")).unwrap();
    if let Some(driver) = machine.driver {
        symlink(&device, net.join("device")).unwrap();
        let drivers = root.join("sys/bus/drivers").join(driver);
        fs::create_dir_all(&drivers).unwrap();
        symlink(drivers, device.join("driver")).unwrap();
        // virtio has ids of its own beside the driver.
        write(device.join("vendor"), "0x0001\n");
        write(device.join("device"), "0x0001\n");
    }
    if let Some((vendor, id)) = machine.pci {
        write(device.join("vendor"), vendor);
        write(device.join("device"), id);
        write(device.join("class"), "0x020000\n");
    }
    if let Some(model) = machine.model {
        write(root.join("proc/device-tree/model"), &format!("{model}\0"));
    }
    write(root.join("proc/sys/kernel/arch"), machine.machine);
    write(
        root.join("proc/meminfo"),
        &format!("MemTotal:  {} kB\nMemFree: 1 kB\n", machine.memory_kib),
    );
    Tree(root)
}

fn read(tree: &Tree, interface: &str) -> Result<Facts, FactsError> {
    Facts::read(&tree.0.join("sys"), &tree.0.join("proc"), interface)
}

const SERVER: Machine = Machine {
    driver: None,
    pci: None,
    model: None,
    machine: "x86_64",
    memory_kib: 64 << 20,
};

fn with(driver: &'static str, pci: Option<(&'static str, &'static str)>) -> Machine {
    Machine {
        driver: Some(driver),
        pci,
        ..SERVER
    }
}

#[test]
fn each_machine_gets_its_profile_and_the_reason() {
    let board = |driver, model, memory_kib| Machine {
        driver: Some(driver),
        model: Some(model),
        machine: "aarch64",
        memory_kib,
        ..SERVER
    };
    let catalog = Catalog::shipped();
    for (machine, profile, why) in [
        (
            with("ice", Some(("0x8086\n", "0x1592\n"))),
            "intel-e810",
            "driver ice, PCI id 8086:1592",
        ),
        (
            with("ice", Some(("0x8086\n", "0xffff\n"))),
            "intel-e810",
            "driver ice, PCI id 8086:ffff is not in its list: perhaps a newer one of the family",
        ),
        (
            with("i40e", Some(("0x8086", "0x1572"))),
            "intel-x710",
            "driver i40e, PCI id 8086:1572",
        ),
        (
            with("ixgbe", Some(("0x8086", "0x1563"))),
            "intel-82599",
            "driver ixgbe, PCI id 8086:1563",
        ),
        (
            with("igc", Some(("0x8086", "0x125c"))),
            "intel-i225",
            "driver igc, PCI id 8086:125c",
        ),
        (
            with("mlx5_core", Some(("0x15b3", "0x101d"))),
            "connectx",
            "driver mlx5_core, PCI id 15b3:101d",
        ),
        (
            with("ena", Some(("0x1d0f", "0xec20"))),
            "amazon-ena",
            "driver ena, PCI id 1d0f:ec20",
        ),
        (
            with("gve", Some(("0x1ae0", "0x0042"))),
            "google-gvnic",
            "driver gve, PCI id 1ae0:0042",
        ),
        (
            with("bnxt_en", Some(("0x14e4", "0x16d7"))),
            "broadcom-bnxt",
            "driver bnxt_en, PCI vendor of 14e4:16d7",
        ),
        (with("virtio_net", None), "virtio-net", "driver virtio_net"),
        (with("hv_netvsc", None), "azure", "driver hv_netvsc"),
        (
            with("mana", Some(("0x1414", "0x00ba"))),
            "azure",
            "driver mana, PCI id 1414:00ba",
        ),
        (
            with("dwmac-intel", Some(("0x8086", "0x4b32"))),
            "stmmac",
            "driver dwmac-intel",
        ),
        (
            board("bcmgenet", "Raspberry Pi 4 Model B Rev 1.4", 4 << 20),
            "raspberry-pi-4",
            "driver bcmgenet, model Raspberry Pi 4 Model B Rev 1.4",
        ),
        // The board says more than that it is small.
        (
            board("bcmgenet", "Raspberry Pi 4 Model B Rev 1.1", 1 << 20),
            "raspberry-pi-4",
            "driver bcmgenet, model Raspberry Pi 4 Model B Rev 1.1",
        ),
        (
            board("macb", "Raspberry Pi 5 Model B Rev 1.0", 8 << 20),
            "raspberry-pi-5",
            "driver macb, model Raspberry Pi 5 Model B Rev 1.0",
        ),
        // The same MAC on another board is not a Raspberry Pi.
        (
            board("macb", "SiFive HiFive", 8 << 20),
            "generic",
            "no profile knows driver macb; the safe values",
        ),
        (
            board("sun8i-emac", "Pine64", 1 << 20),
            "constrained-arm",
            "machine aarch64, 1024 MiB of memory, at most 2048",
        ),
        // A small machine's NIC says more than its size.
        (
            Machine {
                machine: "aarch64",
                memory_kib: 1 << 20,
                ..with("ena", Some(("0x1d0f", "0xec20")))
            },
            "amazon-ena",
            "driver ena, PCI id 1d0f:ec20",
        ),
        (
            with("e1000e", Some(("0x8086", "0x10d3"))),
            "generic",
            "no profile knows driver e1000e; the safe values",
        ),
        (
            SERVER,
            "generic",
            "no profile knows driver none that sysfs names; the safe values",
        ),
    ] {
        let tree = tree("table", &machine);
        let facts = read(&tree, "eth0").unwrap();
        let detected = catalog.detect(&facts);
        assert_eq!(
            (detected.profile.name.as_str(), detected.why.as_str()),
            (profile, why),
            "{facts:?}"
        );
    }
}

/// A virtio device's own `vendor` and `device` are numbers of another bus.
#[test]
fn ids_of_other_buses_are_not_taken_for_pci() {
    let machine = tree("virtio", &with("virtio_net", None));
    assert_eq!(read(&machine, "eth0").unwrap().pci, None);
    let machine = tree("pci", &with("ice", Some(("0x8086", "0x1592"))));
    assert_eq!(
        read(&machine, "eth0").unwrap().pci,
        Some(PciId {
            vendor: 0x8086,
            device: 0x1592
        })
    );
}

#[test]
fn a_missing_interface_is_named() {
    let tree = tree("missing", &SERVER);
    let error = read(&tree, "eth9").unwrap_err().to_string();
    assert!(
        error.starts_with("no interface `eth9` in ")
            && error.ends_with("`ip link` lists those there are"),
        "{error}"
    );
}

#[test]
fn af_xdp_falls_back_to_tun_with_the_reason() {
    let catalog = Catalog::shipped();
    let able = Kernel {
        xdp_sockets: Some(true),
        may_load: Some(true),
        xdp_features: None,
    };
    let features = |bits| Kernel {
        xdp_features: Some(bits),
        ..able
    };
    for (profile, kernel, link, zero_copy, why) in [
        (
            "intel-e810",
            able,
            Link::AfXdp,
            true,
            "zero copy, says the profile: this kernel cannot be asked",
        ),
        (
            "intel-e810",
            Kernel::default(),
            Link::AfXdp,
            true,
            "zero copy, says the profile",
        ),
        (
            "intel-e810",
            features(0b1011),
            Link::AfXdp,
            true,
            "zero copy, says the kernel",
        ),
        // Safe mode, an old driver: the kernel knows better than the profile.
        (
            "intel-e810",
            features(0b0011),
            Link::AfXdp,
            false,
            "the driver has no zero copy, says the kernel",
        ),
        (
            "intel-e810",
            features(0),
            Link::Tun,
            false,
            "driver x has no native XDP with redirect, says the kernel (xdp-features 0x0)",
        ),
        (
            "azure",
            features(0b0001),
            Link::Tun,
            false,
            "no native XDP with redirect, says the kernel (xdp-features 0x1)",
        ),
        (
            "amazon-ena",
            able,
            Link::AfXdp,
            false,
            "zero copy depends on the driver's version",
        ),
        (
            "veth",
            able,
            Link::AfXdp,
            false,
            "copy mode, says the profile",
        ),
        (
            "generic",
            able,
            Link::Tun,
            false,
            "no native XDP, says profile generic",
        ),
        (
            "generic",
            features(0b0011),
            Link::AfXdp,
            false,
            "driver x has native XDP",
        ),
        (
            "raspberry-pi-4",
            features(0b1111),
            Link::Tun,
            false,
            "profile raspberry-pi-4 recommends it",
        ),
        (
            "connectx",
            Kernel {
                xdp_sockets: Some(false),
                ..able
            },
            Link::Tun,
            false,
            "the kernel has no AF_XDP sockets; one built with CONFIG_XDP_SOCKETS=y has",
        ),
        (
            "connectx",
            Kernel {
                may_load: Some(false),
                ..able
            },
            Link::Tun,
            false,
            "it needs CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF (or CAP_SYS_ADMIN)",
        ),
    ] {
        let facts = Facts {
            driver: Some("x".to_owned()),
            kernel,
            ..Facts::default()
        };
        let choice = link_for(catalog.named(profile).unwrap(), &facts);
        assert_eq!(
            (choice.link, choice.zero_copy),
            (link, zero_copy),
            "{profile} {kernel:?}"
        );
        assert!(
            choice.why.contains(why),
            "{profile} {kernel:?}: {}",
            choice.why
        );
    }
}
