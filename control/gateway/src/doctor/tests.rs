//! Every rule both ways: a healthy machine has nothing to say, and each fault is found by its rule and by no other.

mod machine;
mod lan;

use super::checks;
use super::examine;
use super::facts::Facts;
use super::facts::files::TokenFile;
use super::facts::managers::{Manager, PeerPath};
use super::facts::network::InputChain;
use super::facts::process::PortHolder;
use super::finding::Severity::{self, Error, Note, Warning};
use crate::config::LinkKind;
use crate::node::devices::{LinkState, ListedAddress, ListedRoute};
use crate::node::foreign::DroppingChain;
use crate::node::legacy_iptables::LegacyForward;
use crate::node::nic::XdpModes;
use machine::{gateway_runs, healthy, link, offload};
use std::collections::BTreeSet;

/// The rule that must find it, how bad it is, and what is wrong.
type Fault = (&'static str, Severity, fn(&mut Facts));

/// All faults, of any machine and in front of a rack.
fn faults() -> impl Iterator<Item = &'static Fault> {
    FAULTS.iter().chain(lan::FAULTS)
}

/// What it is, and how it comes.
type Harmless = (&'static str, fn(&mut Facts));

const IP_FORWARD: &str = "net/ipv4/ip_forward";
const NO_PMTU: &str = "net/ipv4/ip_no_pmtu_disc";
const BACKLOG: &str = "net/core/netdev_max_backlog";
const TRACKED: &str = "net/netfilter/nf_conntrack_count";

const FAULTS: &[Fault] = &[
    ("config", Error, |facts| {
        facts.config_error = Some("sluice.toml:3: `x` is not a known key".to_owned());
    }),
    ("tokens", Error, |facts| {
        facts.tokens = vec![token(Err("No such file".to_owned()))];
    }),
    ("tokens", Warning, |facts| {
        facts.tokens = vec![token(Ok(0o644))]
    }),
    ("tokens", Warning, |facts| {
        facts.tokens = vec![token(Ok(0o620))]
    }),
    ("state-dir", Error, |facts| {
        facts.state_dir.refused = Some("Permission denied".to_owned());
    }),
    ("state-dir", Warning, |facts| {
        facts.state_dir.free_bytes = 1 << 20
    }),
    ("state-dir", Warning, |facts| {
        facts.state_dir.in_memory = true
    }),
    ("cluster-reachable", Note, |facts| {
        facts.gateway.cluster = None;
        facts.managers.clear();
    }),
    ("cluster-reachable", Error, |facts| {
        facts.managers[0].failure = Some("Connection refused".to_owned());
    }),
    ("cluster-reachable", Error, |facts| {
        facts.managers.push(Manager {
            role: "the root manager",
            address: "10.0.0.1:10099".to_owned(),
            key: "cluster.root",
            failure: Some("timed out".to_owned()),
        });
    }),
    ("clock", Warning, |facts| {
        facts.clock_synchronised = Some(false)
    }),
    ("clock", Note, |facts| facts.clock_synchronised = None),
    ("local-resolver", Note, |facts| {
        facts.resolver.sources = words("files mdns4_minimal [NOTFOUND=return] dns");
    }),
    ("local-resolver", Note, |facts| {
        facts.resolver.sources = words("files mdns dns")
    }),
    ("local-resolver", Note, |facts| {
        facts.resolver.name_servers = words("127.0.0.53");
    }),
    ("names-port", Warning, |facts| {
        facts.name_servers = vec![holder(Some(77), "dnsmasq")]
    }),
    ("unseen", Note, |facts| {
        facts.network.unseen = vec!["listing nf_tables: EPERM".to_owned()];
    }),
    ("kernel-version", Error, |facts| {
        facts.kernel.release = "4.19.0-27-amd64".to_owned()
    }),
    ("kernel-version", Note, |facts| {
        facts.kernel.release = "5.10.0".to_owned();
    }),
    ("kernel-version", Warning, |facts| {
        facts.kernel.release = "5.15.0".to_owned();
        facts.config.fastpath.link = LinkKind::Auto;
    }),
    ("kernel-version", Error, |facts| {
        facts.kernel.release = "5.15.0".to_owned();
        facts.config.fastpath.link = LinkKind::AfXdp;
    }),
    ("kernel-version", Note, |facts| {
        facts.kernel.release = "6.1.0-18-arm64".to_owned()
    }),
    ("kernel-version", Note, |facts| {
        facts.kernel.release = "strange".to_owned()
    }),
    ("kernel-options", Error, |facts| unset(facts, "CONFIG_TUN")),
    ("kernel-options", Error, |facts| {
        unset(facts, "CONFIG_NFT_MASQ")
    }),
    ("kernel-options", Note, |facts| {
        unset(facts, "CONFIG_XDP_SOCKETS")
    }),
    ("kernel-options", Error, |facts| {
        facts.config.fastpath.link = LinkKind::AfXdp;
        unset(facts, "CONFIG_XDP_SOCKETS");
    }),
    ("kernel-options", Warning, |facts| {
        facts.config.fastpath.link = LinkKind::Auto;
        unset(facts, "CONFIG_NET_CLS_BPF")
    }),
    ("kernel-options", Note, |facts| facts.kernel.options = None),
    ("tun-device", Error, |facts| {
        facts.kernel.tun_refused = Some("No such file or directory".to_owned());
    }),
    ("bpf-jit", Warning, |facts| {
        facts.settings.set("net/core/bpf_jit_enable", "0")
    }),
    ("bpf-file-system", Note, |facts| {
        facts.kernel.bpf_file_system = false
    }),
    ("capabilities", Error, |facts| drop_capability(facts, 12)),
    ("capabilities", Error, |facts| drop_capability(facts, 21)),
    ("capabilities", Warning, |facts| drop_capability(facts, 13)),
    ("capabilities", Warning, |facts| drop_capability(facts, 19)),
    ("capabilities", Warning, |facts| drop_capability(facts, 10)),
    ("capabilities", Error, |facts| {
        facts.config.fastpath.link = LinkKind::AfXdp;
        drop_capability(facts, 13);
    }),
    ("locked-memory", Error, |facts| {
        facts.config.fastpath.link = LinkKind::AfXdp;
        facts.process.locked_bytes_max = Some(8 << 20);
        drop_capability(facts, 14);
    }),
    ("locked-memory", Warning, |facts| {
        facts.config.fastpath.link = LinkKind::Auto;
        facts.process.locked_bytes_max = Some(64 << 10);
        drop_capability(facts, 14);
    }),
    ("open-files", Error, |facts| {
        facts.process.files_max = Some(256)
    }),
    ("open-files", Note, |facts| {
        facts.process.files_max = Some(1024)
    }),
    ("swap", Warning, |facts| facts.process.swapped_kib = 2048),
    ("socket-buffers", Warning, |facts| {
        facts.settings.set("net/core/rmem_max", "212992");
        // Only where it must have it anyway; see `what_was_asked_for_by_privilege_needs_no_limit`.
        drop_capability(facts, 12);
    }),
    ("tunnel-port", Error, |facts| {
        facts.port_holders = vec![holder(Some(77), "other")]
    }),
    ("tunnel-port", Error, |facts| {
        facts.port_holders = vec![holder(None, "an unknown process")]
    }),
    ("tunnel-port", Error, |facts| {
        gateway_runs(facts);
        facts.port_holders.push(holder(Some(77), "other"));
    }),
    ("tunnel-drops", Note, |facts| {
        gateway_runs(facts);
        facts.port_holders[0].dropped = 3;
    }),
    ("tunnel-port-reserved", Note, |facts| {
        facts
            .settings
            .set("net/ipv4/ip_local_reserved_ports", "8080,50104-50200");
    }),
    ("worker-cores", Error, |facts| {
        facts.config.fastpath.cores = vec![0, 64]
    }),
    ("worker-cores", Warning, |facts| {
        facts.config.fastpath.workers = 9;
        facts.card.as_mut().unwrap().spread = vec![true, true];
    }),
    ("core-siblings", Note, |facts| {
        facts.gateway.pinned = vec![0, 4]
    }),
    ("core-frequency", Note, |facts| {
        facts.cores.governor.insert(1, "powersave".to_owned());
    }),
    ("numa", Warning, |facts| facts.gateway.pinned = vec![6]),
    ("interrupts", Warning, |facts| {
        for (_, cores) in &mut facts.card.as_mut().unwrap().interrupts {
            *cores = BTreeSet::from([3]);
        }
    }),
    ("interrupts", Note, |facts| {
        facts.config.fastpath.spin_us = 50;
    }),
    ("queues", Warning, |facts| facts.config.fastpath.workers = 4),
    ("queues", Error, |facts| {
        // AF_XDP takes queues, not what RPS makes of them.
        facts.config.fastpath.link = LinkKind::AfXdp;
        facts.config.fastpath.workers = 4;
        facts.card.as_mut().unwrap().spread = vec![true, true];
    }),
    ("backlog", Warning, |facts| facts.cores.backlog_dropped = 17),
    ("huge-pages", Note, |facts| {
        facts.config.fastpath.link = LinkKind::Auto;
        facts.memory.huge_pages = Some(0);
    }),
    ("transparent-huge-pages", Note, |facts| {
        facts.memory.transparent = Some("always".to_owned());
    }),
    ("forwarding", Note, |facts| {
        facts.settings.set(IP_FORWARD, "0")
    }),
    ("forwarding", Error, |facts| {
        gateway_runs(facts);
        facts.settings.set(IP_FORWARD, "0");
    }),
    ("forwarding", Error, |facts| {
        gateway_runs(facts);
        facts.settings.set("net/ipv6/conf/all/forwarding", "0");
    }),
    ("device-forwarding", Error, |facts| {
        facts
            .settings
            .set("net/ipv4/conf/sluicetun0/forwarding", "0");
    }),
    ("router-advertisements", Warning, |facts| {
        route(facts, "::/0");
        let default = facts.network.routes.last_mut().unwrap();
        (default.device, default.advertised) = (Some(2), true);
        facts.settings.set("net/ipv6/conf/eth0/accept_ra", "1");
    }),
    ("reverse-path-filter", Error, |facts| {
        facts.settings.set("net/ipv4/conf/sluice0/rp_filter", "1");
    }),
    ("reverse-path-filter", Error, |facts| {
        facts
            .settings
            .set("net/ipv4/conf/sluicetun0/rp_filter", "0");
        facts.settings.set("net/ipv4/conf/eth0/rp_filter", "2");
        facts.settings.set("net/ipv4/conf/all/rp_filter", "1");
    }),
    ("reverse-path-filter", Note, |facts| {
        facts.settings.set("net/ipv4/conf/eth0/rp_filter", "1");
    }),
    ("path-mtu-discovery", Warning, |facts| {
        facts.settings.set(NO_PMTU, "1")
    }),
    ("ipv6", Warning, |facts| {
        facts.settings.set("net/ipv6/conf/all/disable_ipv6", "1")
    }),
    ("bridge-netfilter", Note, |facts| {
        facts
            .settings
            .set("net/bridge/bridge-nf-call-iptables", "1");
    }),
    ("underlay", Error, |facts| {
        facts.network.links.retain(|link| link.name != "eth0");
        facts.card = None;
    }),
    ("underlay", Error, |facts| underlay(facts).up = false),
    ("underlay", Error, |facts| {
        facts.network.chosen = Some("eth7".to_owned());
        facts.card = None;
    }),
    ("underlay", Error, |facts| underlay(facts).carrier = false),
    ("underlay-driver", Note, |facts| {
        facts.network.xdp = Some(XdpModes {
            native: false,
            zero_copy: false,
            tx_checksum: false,
        });
    }),
    ("underlay-driver", Warning, |facts| {
        facts.config.fastpath.link = LinkKind::AfXdp;
        facts.network.xdp = Some(XdpModes {
            native: false,
            zero_copy: false,
            tx_checksum: false,
        });
    }),
    ("underlay-driver", Note, |facts| facts.network.xdp = None),
    ("foreign-xdp", Warning, |facts| {
        underlay(facts).xdp_program = Some(42)
    }),
    ("underlay-mtu", Warning, |facts| underlay(facts).mtu = 1447),
    ("underlay-mtu", Warning, |facts| {
        // Room enough over IPv4, not over IPv6.
        facts.network.own_address = Some("2001:db8::1".parse().unwrap());
        facts.network.addresses[0].address = "2001:db8::1".parse().unwrap();
        underlay(facts).mtu = 1448;
    }),
    ("path-mtu", Warning, |facts| {
        facts.peers.push(PeerPath {
            peer: "10.0.0.9:50103".parse().unwrap(),
            mtu: 1400,
            overhead: 28,
        });
    }),
    ("offloads", Warning, |facts| {
        facts.network.offloads[0].on = false
    }),
    ("offloads", Warning, |facts| {
        let mut tso = offload("tx-tcp-segmentation");
        (tso.on, tso.wanted) = (false, true);
        facts.network.offloads.push(tso);
    }),
    ("tun-queue", Warning, |facts| {
        let tun = facts
            .network
            .links
            .iter_mut()
            .find(|link| link.kind == "tun");
        tun.unwrap().queue = 500;
    }),
    ("device-names", Error, |facts| {
        let bridge = facts
            .network
            .links
            .iter_mut()
            .find(|link| link.kind == "bridge");
        bridge.unwrap().kind = "dummy".to_owned();
    }),
    ("address-clash", Error, |facts| {
        address(facts, "10.30.1.1", 24)
    }),
    ("address-clash", Error, |facts| {
        address(facts, "fdff::5", 64)
    }),
    ("address-clash", Warning, |facts| {
        address(facts, "10.18.0.1", 26)
    }),
    ("route-clash", Error, |facts| route(facts, "10.30.0.0/16")),
    ("route-clash", Error, |facts| route(facts, "10.30.4.0/24")),
    ("route-clash", Warning, |facts| route(facts, "10.20.0.0/16")),
    ("docker-pools", Warning, |facts| {
        facts.docker_pools = vec!["10.0.0.0/8".parse().unwrap()];
    }),
    ("forward-policy", Note, |facts| dropping(facts, false)),
    ("forward-policy", Error, |facts| {
        gateway_runs(facts);
        dropping(facts, false);
    }),
    ("forward-policy", Error, |facts| {
        facts.network.legacy_forward.v6 = Some(LegacyForward {
            policy_drop: true,
            accepts_uplink: false,
        });
    }),
    ("input-policy", Warning, |facts| {
        facts.network.input = vec![InputChain {
            name: "inet filter input".to_owned(),
            names_port: false,
        }];
    }),
    ("conntrack-table", Warning, |facts| {
        facts.settings.set(TRACKED, "210000")
    }),
    ("conntrack-table", Error, |facts| {
        facts.settings.set(TRACKED, "262144")
    }),
    ("conntrack-tunnel", Note, |facts| {
        facts.tracked_tunnels = Some(2)
    }),
];

/// What looks near a fault, and is none.
const HARMLESS: &[Harmless] = &[
    ("the gateway holds its own port", |facts| {
        gateway_runs(facts);
        facts.port_holders = vec![holder(facts.gateway.pid, "sluice")];
    }),
    ("mDNS after DNS", |facts| {
        facts.resolver.sources = words("files dns mdns4");
    }),
    ("mDNS before DNS, and a second suffix", |facts| {
        facts.resolver.sources = words("files mdns dns");
        facts.config.names.suffix = Some("svc.example".to_owned());
    }),
    (
        "a name server on every address, and none of ours",
        |facts| {
            facts.name_servers = vec![holder(Some(77), "dnsmasq")];
            facts.config.names.enabled = false;
        },
    ),
    ("mDNS that goes on when it finds nothing", |facts| {
        facts.resolver.sources = words("files mdns4_minimal dns");
    }),
    ("a default route and a wide one", |facts| {
        route(facts, "0.0.0.0/0");
        route(facts, "10.0.0.0/8");
    }),
    ("our own route into our range", |facts| {
        route(facts, "10.30.0.0/16");
        facts.network.routes.last_mut().unwrap().ours = true;
    }),
    ("our uplink's address in the node range", |facts| {
        address(facts, "10.18.0.1", 26);
        facts.network.addresses.last_mut().unwrap().device = 3;
    }),
    ("a dropping chain that accepts ours", |facts| {
        dropping(facts, true)
    }),
    ("a legacy chain that accepts ours", |facts| {
        facts.network.legacy_forward.v4 = Some(LegacyForward {
            policy_drop: true,
            accepts_uplink: true,
        });
    }),
    ("an input chain that names the port", |facts| {
        facts.network.input = vec![InputChain {
            name: "inet filter input".to_owned(),
            names_port: true,
        }];
    }),
    ("an offload that the driver does not have", |facts| {
        let mut tso = offload("tx-tcp-segmentation");
        (tso.on, tso.changeable) = (false, false);
        facts.network.offloads.push(tso);
    }),
    ("strict everywhere, but ours are loose", |facts| {
        facts.settings.set("net/ipv4/conf/all/rp_filter", "1");
        for device in ["sluice0", "sluicetun0", "eth0"] {
            facts
                .settings
                .set(&format!("net/ipv4/conf/{device}/rp_filter"), "2");
        }
    }),
    ("the port in a reserved range", |facts| {
        facts
            .settings
            .set("net/ipv4/ip_local_reserved_ports", "50000-50200");
    }),
    ("more workers than queues, spread by RPS", |facts| {
        facts.config.fastpath.workers = 4;
        facts.card.as_mut().unwrap().spread = vec![true, true];
    }),
    (
        "a namespace that does not show the machine's settings",
        |facts| {
            facts.settings = super::facts::settings::Settings::default();
            facts.settings.set("net/ipv6/conf/all/disable_ipv6", "0");
            facts.card = None;
        },
    ),
    ("no TUN device where it is not used", |facts| {
        facts.config.fastpath.link = LinkKind::AfXdp;
        facts.kernel.tun_refused = Some("No such file or directory".to_owned());
    }),
    (
        "no large pages and no locked memory where TUN is used",
        |facts| {
            facts.memory.huge_pages = Some(0);
            facts.process.locked_bytes_max = Some(0);
            drop_capability(facts, 14);
        },
    ),
    ("modules instead of built-in options", |facts| {
        for value in facts.kernel.options.as_mut().unwrap().values_mut() {
            *value = "m".to_owned();
        }
    }),
    ("an XDP program of the running gateway", |facts| {
        gateway_runs(facts);
        underlay(facts).xdp_program = Some(42);
    }),
    (
        "backlogs that overflowed before they were made longer",
        |facts| {
            facts.cores.backlog_dropped = 17;
            facts.settings.set(BACKLOG, "4096");
        },
    ),
    (
        "a static IPv6 route where advertisements are heard",
        |facts| {
            route(facts, "::/0");
            facts.settings.set("net/ipv6/conf/docker0/accept_ra", "1");
        },
    ),
    ("a plan without IPv6", |facts| {
        facts.config.plan.semantic.v6 = None;
        facts.settings.set("net/ipv6/conf/all/disable_ipv6", "1");
    }),
];

/// The rules that have more to say than `ok`.
fn complaints(facts: &Facts) -> Vec<(&'static str, Severity)> {
    examine(facts)
        .into_iter()
        .filter(|finding| finding.verdict.severity > Severity::Ok)
        .map(|finding| (finding.check, finding.verdict.severity))
        .collect()
}

#[test]
fn a_healthy_machine_has_only_oks() {
    assert_eq!(complaints(&healthy()), []);
    let mut running = healthy();
    gateway_runs(&mut running);
    assert_eq!(complaints(&running), []);
}

#[test]
fn each_fault_is_found_by_its_rule_and_by_no_other() {
    for (row, (check, severity, seed)) in faults().enumerate() {
        let mut facts = healthy();
        seed(&mut facts);
        let mut found = complaints(&facts);
        found.dedup();
        // Without CAP_NET_ADMIN little works; that is a complaint of its own.
        if *check == "socket-buffers" {
            found.retain(|(check, _)| *check != "capabilities");
        }
        assert_eq!(
            found,
            [(*check, *severity)],
            "row {row}: {:#?}",
            examine(&facts)
        );
    }
}

#[test]
fn what_looks_near_a_fault_is_none() {
    for (what, seed) in HARMLESS {
        let mut facts = healthy();
        seed(&mut facts);
        assert_eq!(complaints(&facts), [], "{what}");
    }
}

#[test]
fn every_rule_has_a_fault_and_a_name_of_its_own() {
    let rules: Vec<&str> = checks::ALL.iter().map(|check| check.id).collect();
    let faulty: BTreeSet<&str> = faults().map(|(check, ..)| *check).collect();
    assert_eq!(rules.iter().copied().collect::<BTreeSet<_>>(), faulty);
    assert_eq!(
        rules.len(),
        faulty.len(),
        "two rules of one name: {rules:?}"
    );
}

#[test]
fn every_complaint_says_where_what_it_costs_and_the_fix() {
    for (check, _, seed) in faults() {
        let mut facts = healthy();
        seed(&mut facts);
        for finding in examine(&facts) {
            let verdict = finding.verdict;
            assert!(
                !verdict.place.is_empty() && !verdict.found.is_empty(),
                "{check}: {verdict:?}"
            );
            assert_eq!(
                verdict.severity == Severity::Ok,
                verdict.cost.is_empty() && verdict.fix.is_empty(),
                "{check}: {verdict:?}"
            );
        }
    }
}

#[test]
fn the_worst_comes_first() {
    let mut facts = healthy();
    facts.clock_synchronised = Some(false);
    facts.memory.transparent = Some("always".to_owned());
    facts.settings.set(TRACKED, "262144");
    assert_eq!(
        complaints(&facts),
        [
            ("conntrack-table", Error),
            ("clock", Warning),
            ("transparent-huge-pages", Note)
        ]
    );
}

/// SO_RCVBUFFORCE is not held to `rmem_max`.
#[test]
fn what_was_asked_for_by_privilege_needs_no_limit() {
    let mut facts = healthy();
    facts.settings.set("net/core/rmem_max", "212992");
    assert_eq!(complaints(&facts), []);
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn token(mode: Result<u32, String>) -> TokenFile {
    TokenFile {
        key: "gateway.cluster_token_file",
        path: "/etc/sluice/token".into(),
        mode,
    }
}

fn unset(facts: &mut Facts, option: &str) {
    let options = facts.kernel.options.as_mut().unwrap();
    assert!(options.remove(option).is_some());
}

fn drop_capability(facts: &mut Facts, bit: u32) {
    facts.process.capabilities &= !(1 << bit);
}

fn holder(pid: Option<u32>, program: &str) -> PortHolder {
    PortHolder {
        pid,
        program: program.to_owned(),
        dropped: 0,
    }
}

fn underlay(facts: &mut Facts) -> &mut LinkState {
    let mut links = facts.network.links.iter_mut();
    links.find(|link| link.name == "eth0").unwrap()
}

/// On a bridge of somebody else.
fn address(facts: &mut Facts, address: &str, length: u8) {
    facts.network.links.push(link(9, "docker0", "bridge"));
    facts.network.addresses.push(ListedAddress {
        device: 9,
        address: address.parse().unwrap(),
        length,
    });
}

fn route(facts: &mut Facts, destination: &str) {
    facts.network.links.push(link(9, "docker0", "bridge"));
    facts.network.routes.push(ListedRoute {
        destination: destination.parse().unwrap(),
        device: Some(9),
        ours: false,
        advertised: false,
    });
}

fn dropping(facts: &mut Facts, accepts_ours: bool) {
    facts.network.forward = vec![DroppingChain {
        name: "ip filter FORWARD".to_owned(),
        accepts_ours,
    }];
}
