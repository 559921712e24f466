//! A node in a network namespace, between an instance and another node.
//!
//! ```text
//!   NODE-i                               NODE                            NODE-f
//!   eth0 10.18.0.2 ===== uplink 10.18.0.1    nic 192.0.2.9 ===== wire 192.0.2.7
//!        fc00::2                fc00::1          2001:db8::9          2001:db8::7
//! ```

use sluice_link::af_xdp::{Device, Mac};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

pub(crate) const UPLINK_MAC: Mac = [0x52, 1, 10, 18, 0, 1];
pub(crate) const INSTANCE_MAC: Mac = [0x52, 0, 10, 18, 0, 2];
pub(crate) const NIC_MAC: Mac = [2, 0, 0, 0, 0, 9];
pub(crate) const WIRE_MAC: Mac = [2, 0, 0, 0, 0, 7];

/// Runs a command and fails with what it says.
pub(crate) fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Three namespaces, removed at the end.
pub(crate) struct Lab {
    node: String,
}

/// Which namespace.
#[derive(Clone, Copy)]
pub(crate) enum At {
    Node,
    Instance,
    Far,
}

impl Lab {
    /// With `queues` on both of the node's devices, whose MTU is `mtu`.
    pub(crate) fn new(queues: u32, mtu: u32) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let node = format!("sluice-x{}-{number}", std::process::id());
        let lab = Self { node };
        let [node, instance, far] = [At::Node, At::Instance, At::Far].map(|at| lab.name(at));
        for name in [&node, &instance, &far] {
            run(&format!("ip netns add {name}"));
            run(&format!("ip -n {name} link set lo up"));
        }
        let mac = |mac: Mac| mac.map(|octet| format!("{octet:02x}")).join(":");
        for (own, own_mac, own_ips, other, name, other_mac, other_ips) in [
            (
                "uplink",
                UPLINK_MAC,
                ["10.18.0.1/26", "fc00::1/120"],
                &instance,
                "eth0",
                INSTANCE_MAC,
                ["10.18.0.2/26", "fc00::2/120"],
            ),
            (
                "nic",
                NIC_MAC,
                ["192.0.2.9/24", "2001:db8::9/64"],
                &far,
                "wire",
                WIRE_MAC,
                ["192.0.2.7/24", "2001:db8::7/64"],
            ),
        ] {
            run(&format!(
                "ip link add {own} mtu {mtu} address {} numrxqueues {queues} numtxqueues {queues} netns {node} type veth peer name {name} mtu {mtu} address {} numrxqueues {queues} numtxqueues {queues} netns {other}",
                mac(own_mac),
                mac(other_mac)
            ));
            for (space, device, ips) in [(&node, own, own_ips), (other, name, other_ips)] {
                for ip in ips {
                    let nodad = if ip.contains(':') { "nodad" } else { "" };
                    run(&format!("ip -n {space} addr add {ip} dev {device} {nodad}"));
                }
                run(&format!("ip -n {space} link set {device} up"));
            }
            // The stack on the other side finishes its checksums, as it does for a NIC.
            run(&format!("ip netns exec {other} ethtool -K {name} tx off"));
        }
        run(&format!("ip -n {instance} route add default via 10.18.0.1"));
        run(&format!("ip -n {instance} route add fdff::/16 via fc00::1"));
        run(&format!("ip -n {node} route add unreachable 10.30.0.0/16"));
        lab
    }

    pub(crate) fn name(&self, at: At) -> String {
        let node = &self.node;
        match at {
            At::Node => node.clone(),
            At::Instance => format!("{node}-i"),
            At::Far => format!("{node}-f"),
        }
    }

    /// Runs a command in a namespace.
    pub(crate) fn run(&self, at: At, command: &str) -> String {
        run(&format!("ip netns exec {} {command}", self.name(at)))
    }

    /// Calls `inside` on a thread in a namespace.
    pub(crate) fn inside<T: Send + 'static>(
        &self,
        at: At,
        inside: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let path = format!("/run/netns/{}", self.name(at));
        std::thread::spawn(move || {
            let file = std::fs::File::open(path).unwrap();
            rustix::thread::move_into_link_name_space(
                file.as_fd(),
                Some(rustix::thread::LinkNameSpaceType::Network),
            )
            .unwrap();
            inside()
        })
    }

    /// A device of the node, as control would describe it.
    pub(crate) fn device(&self, name: &str, mac: Mac) -> Device {
        let shown = self.run(At::Node, &format!("ip -o link show dev {name}"));
        let (index, rest) = shown.split_once(':').unwrap();
        let (_, mtu) = rest.split_once("mtu ").unwrap();
        Device {
            name: name.to_owned(),
            index: index.trim().parse().unwrap(),
            mac,
            mtu: mtu.split_whitespace().next().unwrap().parse().unwrap(),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for at in [At::Node, At::Instance, At::Far] {
            let _ = Command::new("ip")
                .args(["netns", "del", &self.name(at)])
                .status();
        }
    }
}
