//! The rules, in the order they are shown. Each looks at facts and says what it found; none asks the machine itself.

mod setup;
mod kernel;
mod process;
mod cores;
mod settings;
mod devices;
mod lan;
mod ranges;
mod firewall;

use super::facts::Facts;
use super::finding::Verdict;

/// A rule and its name.
pub(crate) struct Check {
    /// Lower case, words joined by `-`; part of the JSON output.
    pub(crate) id: &'static str,
    /// What it looks at, in a few words.
    pub(crate) about: &'static str,
    pub(crate) rule: fn(&Facts) -> Vec<Verdict>,
}

macro_rules! checks {
    ($($id:literal $rule:path, $about:literal;)*) => {
        /// Every rule.
        pub(crate) const ALL: &[Check] = &[$(Check { id: $id, about: $about, rule: $rule }),*];
    };
}

checks! {
    "config"                setup::config,                "the configuration file is valid";
    "tokens"                setup::tokens,                "token files can be read, and by their owner only";
    "state-dir"             setup::state_dir,             "the state directory can be written, has space and survives a boot";
    "cluster-reachable"     setup::managers,              "the managers answer";
    "clock"                 setup::clock,                 "the clock follows a time server";
    "local-resolver"        setup::local_resolver,        "who answers names that end in .local";
    "unseen"                setup::unseen,                "what could not be looked at";
    "kernel-version"        kernel::version,              "the kernel is new enough";
    "kernel-options"        kernel::options,              "the kernel has what the gateway needs";
    "tun-device"            kernel::tun_device,           "/dev/net/tun can be opened";
    "bpf-jit"               kernel::bpf_jit,              "BPF programs are compiled";
    "bpf-file-system"       kernel::bpf_file_system,      "BPF objects can outlive a process";
    "capabilities"          process::capabilities,        "the process may do what it must";
    "locked-memory"         process::locked_memory,       "packet memory may be locked";
    "open-files"            process::open_files,          "enough descriptors";
    "swap"                  process::swap,                "the gateway is not swapped out";
    "socket-buffers"        process::socket_buffers,      "the tunnel's sockets get their buffers";
    "tunnel-port"           process::tunnel_port,         "nobody else holds the tunnel's port";
    "names-port"            process::names_port,          "nobody else holds the port of the name server";
    "tunnel-drops"          process::tunnel_drops,        "the tunnel's sockets have room";
    "tunnel-port-reserved"  process::tunnel_port_reserved, "nobody else can be given the tunnel's port";
    "worker-cores"          cores::worker_cores,          "the workers' cores exist and are enough";
    "core-siblings"         cores::siblings,              "no two workers share a physical core";
    "core-frequency"        cores::frequency,             "the workers' cores run at full speed";
    "numa"                  cores::numa,                  "workers are beside their card";
    "interrupts"            cores::interrupts,            "the card's interrupts are spread, and beside the workers";
    "queues"                cores::queues,                "received packets are spread over cores";
    "backlog"               cores::backlog,               "no core's backlog overflowed";
    "huge-pages"            cores::huge_pages,            "packet memory can have huge pages";
    "transparent-huge-pages" cores::transparent_huge_pages, "memory stays as small as it is used";
    "forwarding"            settings::forwarding,         "the host forwards packets";
    "device-forwarding"     settings::device_forwarding,  "our devices forward packets";
    "router-advertisements" settings::router_advertisements, "the IPv6 default route stays";
    "reverse-path-filter"   settings::reverse_path_filter, "answers may come over another device";
    "path-mtu-discovery"    settings::path_mtu_discovery, "the kernel learns path MTUs";
    "ipv6"                  settings::ipv6,               "IPv6 is switched on where the plan has it";
    "bridge-netfilter"      settings::bridge_netfilter,   "bridged frames do not pass the firewall";
    "underlay"              devices::underlay,            "a device leads to other nodes, and is up";
    "underlay-driver"       devices::driver,              "the underlay's driver and what it offers to XDP";
    "foreign-xdp"           devices::foreign_xdp,         "no other XDP program is in the way";
    "underlay-mtu"          devices::underlay_mtu,        "a full inner packet fits the underlay";
    "path-mtu"              devices::path_mtu,            "a full inner packet fits the path to each known node";
    "offloads"              devices::offloads,            "segments are merged and cut by card and kernel";
    "lan-device"            lan::device,                  "the NIC towards hosts is there, up, and its own";
    "lan-driver"            lan::driver,                  "its driver and what it offers to XDP";
    "lan-queues"            lan::queues,                  "it has a queue for each worker";
    "lan-addresses"         lan::addresses,               "hosts can name this machine as their router";
    "lan-mtu"               lan::mtu,                     "what tunnels bring fits the hosts' network";
    "tun-queue"             devices::tun_queue,           "the TUN device's queue is long enough";
    "device-names"          devices::names,               "the names of our devices are free or ours";
    "address-clash"         ranges::addresses,            "no address of this host is in our ranges";
    "route-clash"           ranges::routes,               "no other route leads into our ranges";
    "docker-pools"          ranges::docker_pools,         "Docker will not take networks from our ranges";
    "forward-policy"        firewall::forward_policy,     "forwarded packets of ours are accepted";
    "input-policy"          firewall::input_policy,       "tunnel datagrams are accepted";
    "conntrack-table"       firewall::conntrack_table,    "the connection tracking table has room";
    "conntrack-tunnel"      firewall::conntrack_tunnel,   "tunnel datagrams are not tracked";
}
