//! Rules about the underlay's device and our own ones.

use crate::doctor::facts::Facts;
use crate::doctor::finding::{Change, Severity, Verdict};
use crate::node::devices::LinkState;
use crate::node::nic::XdpModes;

/// UDP and IP headers around an inner packet, in bytes.
const OUTER_V4: u32 = 28;
const OUTER_V6: u32 = 48;

pub(super) fn underlay(facts: &Facts) -> Vec<Verdict> {
    vec![match facts.network.underlay() {
        None => match &facts.network.chosen {
            Some(name) => Verdict::error("hardware.interface", format!("no device {name}"))
                .fix("name a device of this host (ip link), or \"\" for the one with its address"),
            None => Verdict::error(
                "gateway.node_address",
                "no device has it, and there is no default route",
            )
            .fix(
                "ip route add default via ROUTER, or set gateway.node_address to an address of \
                 this host",
            ),
        }
        .costs("no other node can be reached"),
        Some(link) if !link.up => Verdict::error(&link.name, "is down")
            .costs("no other node can be reached")
            .fix(format!("ip link set dev {} up", link.name)),
        Some(link) if !link.carrier => Verdict::error(&link.name, "has no carrier")
            .costs("no other node can be reached")
            .fix("plug the cable in, or look at the switch's port"),
        Some(link) => Verdict::ok(
            &link.name,
            facts.network.own_address.map_or_else(
                || "has the default route".to_owned(),
                |own| format!("has {own}"),
            ),
        ),
    }]
}

pub(super) fn driver(facts: &Facts) -> Vec<Verdict> {
    let Some(link) = facts.network.underlay() else {
        return Vec::new();
    };
    let driver = facts.card.as_ref().and_then(|card| card.driver.as_deref());
    vec![xdp_of(facts, link, driver, facts.network.xdp)]
}

/// What the driver of a device offers to XDP.
pub(super) fn xdp_of(
    facts: &Facts,
    link: &LinkState,
    driver: Option<&str>,
    modes: Option<XdpModes>,
) -> Verdict {
    let driver = driver.unwrap_or(if link.kind.is_empty() {
        "unknown"
    } else {
        &link.kind
    });
    let found = |modes: &str| format!("driver {driver}, {modes}");
    match modes {
        Some(modes) if modes.native => {
            let copies = if modes.zero_copy {
                "without copying"
            } else {
                "with one copy"
            };
            let checksums = if modes.tx_checksum {
                "by the card if asked, which is not done"
            } else {
                "not by the card"
            };
            Verdict::ok(
                &link.name,
                found(&format!(
                    "native XDP, AF_XDP {copies}, its checksums {checksums}"
                )),
            )
        }
        Some(_) => Verdict::new(
            // The generic mode works; whoever insists on AF_XDP wants to know that it is this one.
            facts.without_af_xdp().min(Severity::Warning),
            &link.name,
            found("no native XDP"),
        )
        .costs(
            "AF_XDP runs in generic mode, behind the kernel's own receive path; TUN is as fast \
             there",
        )
        .fix("stay with TUN, or use a card of hw-profiles with native XDP"),
        None => Verdict::note(
            &link.name,
            found("XDP modes unknown (the kernel tells since 6.3)"),
        )
        .costs("whether AF_XDP copies shows only when it is tried")
        .fix("compare with the table of cards in hw-profiles"),
    }
}

pub(super) fn foreign_xdp(facts: &Facts) -> Vec<Verdict> {
    let lan = facts.lan();
    let devices = facts.network.underlay().into_iter().chain(lan);
    devices.map(|link| xdp_program_of(facts, link)).collect()
}

fn xdp_program_of(facts: &Facts, link: &LinkState) -> Verdict {
    match link.xdp_program {
        Some(id) if id != 0 && !facts.gateway.running => Verdict::warning(
            &link.name,
            format!("XDP program {id} is attached, and no gateway runs"),
        )
        .costs(
            "another program sees every packet first and may keep tunnel \
                     datagrams; AF_XDP cannot attach beside it",
        )
        .fix(format!(
            "bpftool prog show id {id}; ip link set dev {} xdp off, if nobody needs it",
            link.name
        )),
        _ => Verdict::ok(&link.name, "no XDP program of others"),
    }
}

pub(super) fn underlay_mtu(facts: &Facts) -> Vec<Verdict> {
    let Some(link) = facts.network.underlay() else {
        return Vec::new();
    };
    let inner = u32::from(facts.config.fastpath.inner_mtu);
    let overhead = if facts.network.own_address.is_none_or(|own| own.is_v4()) {
        OUTER_V4
    } else {
        OUTER_V6
    };
    let room = link.mtu.saturating_sub(overhead);
    vec![if room < inner {
        Verdict::warning(
            &link.name,
            format!(
                "MTU {}, room for inner packets of {room} bytes, not {inner}",
                link.mtu
            ),
        )
        .costs(
            "every connection's first large packets are refused with `too big` \
                 before it sends smaller ones",
        )
        .fix(format!(
            "ip link set dev {} mtu {}, or fastpath.inner_mtu = {} on every node",
            link.name,
            inner + overhead,
            room.max(1280)
        ))
    } else {
        Verdict::ok(
            &link.name,
            format!("MTU {}, room for inner packets of {inner} bytes", link.mtu),
        )
    }]
}

pub(super) fn path_mtu(facts: &Facts) -> Vec<Verdict> {
    let inner = u32::from(facts.config.fastpath.inner_mtu);
    let narrow: Vec<Verdict> = facts
        .peers
        .iter()
        .filter(|path| path.mtu.saturating_sub(path.overhead) < inner)
        .map(|path| {
            let room = path.mtu.saturating_sub(path.overhead);
            Verdict::warning(
                format!("node {}", path.peer),
                format!(
                    "path MTU {}, room for inner packets of {room} bytes, not {inner}",
                    path.mtu
                ),
            )
            .costs("every connection's first large packets to that node are refused with `too big`")
            .fix(format!(
                "raise the MTU on the way (tracepath {}), or fastpath.inner_mtu = {} on \
                     every node",
                path.peer.ip(),
                room.max(1280)
            ))
        })
        .collect();
    if narrow.is_empty() && !facts.peers.is_empty() {
        return vec![Verdict::ok(
            "known nodes",
            format!(
                "all {} take inner packets of {inner} bytes",
                facts.peers.len()
            ),
        )];
    }
    narrow
}

/// Switches that make one packet of many, or many of one late.
const OFFLOADS: [(&str, &str); 5] = [
    (
        "rx-gro",
        "received segments are not merged: one lookup and one system call for each \
             instead of one for forty",
    ),
    (
        "tx-generic-segmentation",
        "segments are cut early: every layer below works on each of them",
    ),
    (
        "tx-tcp-segmentation",
        "the kernel cuts TCP segments instead of the card",
    ),
    (
        "tx-tcp6-segmentation",
        "the kernel cuts TCP segments over IPv6 instead of the card",
    ),
    (
        "tx-udp-segmentation",
        "tunnel datagrams are cut by the kernel instead of the card",
    ),
];

pub(super) fn offloads(facts: &Facts) -> Vec<Verdict> {
    let Some(link) = facts
        .network
        .underlay()
        .filter(|_| !facts.network.offloads.is_empty())
    else {
        return Vec::new();
    };
    let offload = |name: &str| {
        let mut all = facts.network.offloads.iter();
        all.find(|offload| offload.name == name && offload.changeable && !offload.on)
    };
    let found: Vec<Verdict> = OFFLOADS
        .iter()
        .filter_map(|(name, cost)| {
            let offload = offload(name)?;
            let verdict = Verdict::warning(&link.name, format!("{name} is off")).costs(*cost);
            Some(if offload.wanted {
                // Asking again changes nothing: another one that it needs is off.
                verdict.fix(format!(
                    "ethtool -K {} tx on sg on, which it needs",
                    link.name
                ))
            } else {
                verdict.fix_by(Change::Offloads {
                    device: link.name.clone(),
                    switches: vec![((*name).to_owned(), true)],
                })
            })
        })
        .collect();
    if found.is_empty() {
        return vec![Verdict::ok(
            &link.name,
            "merging and cutting are on as far as the driver can",
        )];
    }
    found
}

pub(super) fn tun_queue(facts: &Facts) -> Vec<Verdict> {
    /// Packets; what the gateway sets.
    const ENOUGH: u32 = 1000;
    let Some(tun) = facts
        .network
        .link(&facts.config.gateway.tun)
        .filter(|tun| tun.kind == "tun")
    else {
        return Vec::new();
    };
    vec![if tun.queue < ENOUGH {
        Verdict::warning(&tun.name, format!("queue of {} packets", tun.queue))
            .costs("bursts of instances are dropped before a worker reads them")
            .fix_by(Change::Queue {
                device: tun.name.clone(),
                packets: ENOUGH,
            })
    } else {
        Verdict::ok(&tun.name, format!("queue of {} packets", tun.queue))
    }]
}

pub(super) fn names(facts: &Facts) -> Vec<Verdict> {
    let gateway = &facts.config.gateway;
    let wanted = [
        ("gateway.bridge", &gateway.bridge, "bridge"),
        ("gateway.uplink", &gateway.uplink, "veth"),
        ("gateway.tun", &gateway.tun, "tun"),
    ];
    wanted
        .into_iter()
        .map(|(key, name, kind)| {
            let place = format!("{key} = \"{name}\"");
            match facts.network.link(name) {
                Some(link) if link.kind != kind => {
                    let is = if link.kind.is_empty() {
                        "hardware"
                    } else {
                        &link.kind
                    };
                    Verdict::error(
                        place,
                        format!("{name} exists and is of kind {is}, not {kind}"),
                    )
                    .costs("the gateway touches no device that is not its own, and does not start")
                    .fix(format!(
                        "ip link delete {name}, or set {key} to another name"
                    ))
                }
                Some(_) => Verdict::ok(place, "exists"),
                None => Verdict::ok(place, "free"),
            }
        })
        .collect()
}
