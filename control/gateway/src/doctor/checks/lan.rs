//! Rules about the NIC towards hosts that are instances (`fastpath.service`).

use super::devices::xdp_of;
use crate::doctor::facts::Facts;
use crate::doctor::finding::Verdict;
use sluice_wire::Family;

pub(super) fn device(facts: &Facts) -> Vec<Verdict> {
    const KEY: &str = "fastpath.service";
    const COST: &str = "no host behind it is an instance";
    let Some(name) = facts.config.fastpath.service.lan() else {
        return Vec::new();
    };
    vec![match facts.lan() {
        None => Verdict::error(KEY, format!("no device {name}"))
            .costs("the gateway does not start")
            .fix("name a device of this host (ip link), or \"bridge\" for instances of this machine"),
        Some(lan) if facts.network.underlay().is_some_and(|it| it.index == lan.index) => {
            Verdict::error(KEY, format!("{name} is the underlay, too"))
                .costs("AF_XDP takes one program for each device: the gateway does not start")
                .fix("a NIC of its own towards the hosts, or hardware.interface for the other")
        }
        Some(lan) if lan.mac.is_none() => Verdict::error(name, "is no Ethernet device")
            .costs(COST)
            .fix("name the NIC towards the hosts"),
        Some(lan) if !lan.up => Verdict::error(name, "is down")
            .costs(COST)
            .fix(format!("ip link set dev {name} up")),
        Some(lan) if !lan.carrier => Verdict::error(name, "has no carrier")
            .costs(COST)
            .fix("plug the cable in, or look at the switch's port"),
        Some(lan) if lan.controller.is_some() => Verdict::error(name, "is a port of a bridge or bond")
            .costs("frames are taken before the bridge sees them, and neighbours are known by the bridge alone")
            .fix(format!("ip link set dev {name} nomaster, or name the bridge's own NIC")),
        Some(_) => Verdict::ok(name, "is up"),
    }]
}

pub(super) fn driver(facts: &Facts) -> Vec<Verdict> {
    let Some(lan) = facts.lan() else {
        return Vec::new();
    };
    let driver = facts
        .lan_card
        .as_ref()
        .and_then(|card| card.driver.as_deref());
    vec![xdp_of(facts, lan, driver, facts.network.lan_xdp)]
}

pub(super) fn queues(facts: &Facts) -> Vec<Verdict> {
    let Some(lan) = facts.lan() else {
        return Vec::new();
    };
    let Some(card) = facts
        .lan_card
        .as_ref()
        .filter(|card| !card.spread.is_empty())
    else {
        return Vec::new();
    };
    let (queues, workers) = (card.spread.len(), facts.config.fastpath.workers);
    let place = format!("{}, {queues} receive queues", lan.name);
    let found = format!("for {workers} workers");
    vec![if queues >= workers {
        Verdict::ok(place, found)
    } else {
        Verdict::new(facts.without_af_xdp(), place, found)
            .costs("AF_XDP needs a queue for each worker and does not start")
            .fix(format!(
                "ethtool -L {} combined {workers}, or set fastpath.workers = {queues}",
                lan.name
            ))
    }]
}

/// Hosts have this machine as their router: it needs an address that they can name, in each family of the plan.
pub(super) fn addresses(facts: &Facts) -> Vec<Verdict> {
    let Some(lan) = facts.lan() else {
        return Vec::new();
    };
    let plan = &facts.config.plan.semantic;
    [(Family::V4, plan.v4, "IPv4"), (Family::V6, plan.v6, "IPv6")]
        .into_iter()
        .filter_map(|(family, range, name)| Some((family, range?, name)))
        .map(|(family, range, name)| {
            let mut own = facts.network.addresses.iter();
            let found = own.find(|row| row.device == lan.index && row.address.family() == family);
            match found {
                Some(row) => Verdict::ok(
                    &lan.name,
                    format!("hosts can have {range} via {}", row.address),
                ),
                None => Verdict::warning(&lan.name, format!("no {name} address"))
                    .costs(format!(
                        "no host can have {range} via this machine: its {name} calls go elsewhere"
                    ))
                    .fix(format!(
                        "ip addr add ADDRESS/LENGTH dev {}, of the hosts' network",
                        lan.name
                    )),
            }
        })
        .collect()
}

pub(super) fn mtu(facts: &Facts) -> Vec<Verdict> {
    let Some(lan) = facts.lan() else {
        return Vec::new();
    };
    let inner = u32::from(facts.config.fastpath.inner_mtu);
    vec![if lan.mtu < inner {
        Verdict::warning(
            &lan.name,
            format!("MTU {}, and tunnels bring packets of {inner} bytes", lan.mtu),
        )
        .costs(
            "datagrams for hosts that do not fit are dropped as `too-big`, without an answer; connections that begin \
             after the gateway's start are told by their MSS",
        )
        .fix(format!(
            "ip link set dev {} mtu {inner}, or fastpath.inner_mtu = {} on every node",
            lan.name,
            lan.mtu.max(1280)
        ))
    } else {
        Verdict::ok(
            &lan.name,
            format!(
                "MTU {}, and tunnels bring packets of {inner} bytes",
                lan.mtu
            ),
        )
    }]
}
