//! Kernel settings below `/proc/sys` that some rule looks at, and the connection tracking table.

use super::root::Root;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};

/// Settings of the whole namespace.
const KEYS: [&str; 16] = [
    "net/core/bpf_jit_enable",
    "net/core/netdev_max_backlog",
    "net/core/rmem_max",
    "net/core/wmem_max",
    "net/ipv4/ip_forward",
    "net/ipv4/ip_no_pmtu_disc",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/ip_local_reserved_ports",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv6/conf/all/disable_ipv6",
    "net/ipv6/conf/all/forwarding",
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
    "net/netfilter/nf_conntrack_count",
    "net/netfilter/nf_conntrack_max",
    "vm/swappiness",
];

/// Settings of one device.
const DEVICE_KEYS: [(&str, &str); 3] = [
    ("ipv4", "rp_filter"),
    ("ipv4", "forwarding"),
    ("ipv6", "accept_ra"),
];

/// The key of a setting of one device.
pub(crate) fn of_device(family: &str, device: &str, key: &str) -> String {
    format!("net/{family}/conf/{device}/{key}")
}

/// Text by key, like `net/ipv4/ip_forward`; one that the kernel does not have is absent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings(BTreeMap<String, String>);

impl Settings {
    /// Also what rules look at of each of `devices`.
    pub(crate) fn read<'a>(root: &Root, devices: impl IntoIterator<Item = &'a str>) -> Self {
        let of_devices = devices
            .into_iter()
            .flat_map(|device| DEVICE_KEYS.map(|(family, key)| of_device(family, device, key)));
        let keys = KEYS.into_iter().map(str::to_owned).chain(of_devices);
        Self(
            keys.filter_map(|key| Some((key.clone(), root.text(format!("proc/sys/{key}"))?)))
                .collect(),
        )
    }

    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        self.text(key)?.parse().ok()
    }

    #[cfg(test)]
    pub(crate) fn set(&mut self, key: &str, value: &str) {
        self.0.insert(key.to_owned(), value.to_owned());
    }
}

/// How many tracked connections are datagrams of the tunnel; `None` when the kernel does not list them.
pub(crate) fn tracked_tunnels(root: &Root, port: u16) -> Option<usize> {
    let file = std::fs::File::open(root.path("proc/net/nf_conntrack")).ok()?;
    let port = format!("dport={port}");
    let tunnels = BufReader::new(file)
        .lines()
        .map_while(Result::ok)
        .filter(|line| {
            let mut words = line.split_whitespace();
            words.any(|word| word == "udp") && words.any(|word| word == port)
        });
    Some(tunnels.count())
}
