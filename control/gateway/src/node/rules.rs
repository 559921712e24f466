//! The node's firewall: masquerading, port mappings, what may be forwarded, and the source guard of each service port.
//!
//! One table `sluice` in two families. `netdev` has one chain per service port that drops every frame whose MAC,
//! NsIP or NsIPv6 is not the instance's own ([`guard`]); it runs before the bridge and before any other table, and costs only the
//! ports of this node. `inet` has the rest. Foreign tables are touched in one way, see [`super::foreign`].

use sluice_wire::{Dual, Family, Ip, Subnet};

use super::Wiring;
use super::devices::Mac;
use super::guard::{self, Foreign};
use super::netlink::{NetlinkError, tolerate};
use super::nft::{BaseChain, Batch, Header, Hook, Rule, TableFamily};
use super::port_mapping::{PortMapping, Transport};
use rustix::io::Errno;

pub(super) const TABLE: &str = "sluice";

const RAW: &str = "raw";
const PREROUTING: &str = "prerouting";
const OUTPUT: &str = "output";
const POSTROUTING: &str = "postrouting";
const FORWARD: &str = "forward";
const INPUT: &str = "input";

const TCP: u8 = 6;
const UDP: u8 = 17;

/// One instance's port, as the rules see it.
#[derive(Clone, Debug)]
pub(crate) struct Port<'a> {
    pub(crate) device: &'a str,
    pub(crate) mac: Mac,
    pub(crate) address: Dual<Ip>,
    /// The address that the instance itself has in place of `address`, where it is another.
    pub(crate) kept: Dual<Ip>,
    pub(crate) mappings: &'a [PortMapping],
}

/// Replaces both tables in one transaction: packets meet the old rules or the new ones, never none.
pub(crate) fn install(
    wiring: &Wiring,
    subnet: &Dual<Subnet>,
    ports: &[Port<'_>],
) -> Result<(), NetlinkError> {
    guarding("installing the nf_tables tables `sluice`", |foreign| {
        let mut batch = Batch::new();
        batch.fresh_table(TableFamily::Inet, TABLE);
        batch.fresh_table(TableFamily::Netdev, TABLE);
        for chain in base_chains() {
            batch.chain(TableFamily::Inet, TABLE, &chain);
        }
        for (chain, rule) in fixed_rules(wiring, subnet) {
            batch.append(TableFamily::Inet, TABLE, chain, &rule);
        }
        map_ports(&mut batch, wiring, ports);
        for port in ports {
            guard::add(&mut batch, port, foreign);
        }
        batch
    })
}

/// With answers to foreign sources, if the kernel can.
fn guarding(what: &str, batch: impl Fn(Foreign) -> Batch) -> Result<(), NetlinkError> {
    match batch(Foreign::Told).commit(what) {
        // The kernel does not know an expression.
        Err(error) if error.errno() == Some(Errno::NOENT) => {
            tracing::warn!(
                "this kernel answers nothing from a netdev chain (CONFIG_NFT_REJECT_NETDEV is off): who sends from an \
                 address that is not its instance's waits for its own timeout"
            );
            batch(Foreign::Dropped).commit(what)
        }
        other => other,
    }
}

/// Adds one port's guard and refreshes the port mappings of all `ports` (which include it).
pub(crate) fn add_port(
    wiring: &Wiring,
    port: &Port<'_>,
    ports: &[Port<'_>],
) -> Result<(), NetlinkError> {
    guarding("guarding a service port", |foreign| {
        let mut batch = Batch::new();
        guard::add(&mut batch, port, foreign);
        map_ports(&mut batch, wiring, ports);
        batch
    })
}

/// Removes one port's guard (the kernel may have, with the device) and the mappings of all but `ports`.
pub(crate) fn remove_port(
    wiring: &Wiring,
    device: &str,
    ports: &[Port<'_>],
) -> Result<(), NetlinkError> {
    let mut batch = Batch::new();
    map_ports(&mut batch, wiring, ports);
    batch.commit("removing port mappings")?;
    for chain in guard::names(device) {
        let mut batch = Batch::new();
        batch.delete_chain(TableFamily::Netdev, TABLE, &chain);
        tolerate(
            batch.commit("removing the guard of a service port"),
            &[Errno::NOENT],
        )?;
    }
    Ok(())
}

/// Removes both tables.
pub(crate) fn remove() -> Result<(), NetlinkError> {
    let mut batch = Batch::new();
    for family in [TableFamily::Inet, TableFamily::Netdev] {
        batch.table(family, TABLE);
        batch.delete_table(family, TABLE);
    }
    batch.commit("removing the nf_tables tables `sluice`")
}

const fn base_chains() -> [BaseChain<'static>; 6] {
    const fn chain(
        name: &'static str,
        kind: &'static str,
        hook: Hook<'static>,
        priority: i32,
    ) -> BaseChain<'static> {
        BaseChain {
            name,
            kind,
            hook,
            priority,
            policy_drop: false,
        }
    }
    // The priorities are netfilter's own: raw before defragmentation, dstnat, filter, srcnat.
    [
        chain(RAW, "filter", Hook::Prerouting, -450),
        chain(PREROUTING, "nat", Hook::Prerouting, -100),
        chain(OUTPUT, "nat", Hook::Output, -100),
        chain(INPUT, "filter", Hook::Input, 0),
        chain(FORWARD, "filter", Hook::Forward, 0),
        chain(POSTROUTING, "nat", Hook::Postrouting, 100),
    ]
}

fn fixed_rules(wiring: &Wiring, subnet: &Dual<Subnet>) -> Vec<(&'static str, Rule)> {
    let (bridge, uplink, tun) = (&*wiring.bridge, &*wiring.uplink, &*wiring.tun);
    let mut rules = vec![
        // With br_netfilter (Docker loads it) bridged frames pass the IP hooks too. Tracked there, a connection
        // would count as already translated when it is routed, and would leave without masquerading.
        (RAW, Rule::new().in_device(bridge).no_track()),
        // What the workers translate needs neither tracking nor reassembly by the kernel.
        (RAW, Rule::new().in_device(tun).no_track()),
        // The bridge has no address: frames sent to its own MAC would go around the gateway's address.
        (INPUT, Rule::new().in_device(bridge).count().drop()),
        (
            FORWARD,
            Rule::new().in_device(bridge).out_device(bridge).accept(),
        ),
        (FORWARD, Rule::new().in_device(bridge).count().drop()),
        // Two local instances meet through the gateway only, never by the kernel's routing.
        (
            FORWARD,
            Rule::new()
                .in_device(uplink)
                .out_device(uplink)
                .count()
                .drop(),
        ),
        (
            FORWARD,
            Rule::new().in_device(tun).out_device(uplink).accept(),
        ),
        // What came through the tunnel is for an instance of this node or for nobody.
        (FORWARD, Rule::new().in_device(tun).count().drop()),
        (
            FORWARD,
            Rule::new()
                .out_device(uplink)
                .established_or_related()
                .accept(),
        ),
        (
            FORWARD,
            Rule::new()
                .out_device(uplink)
                .destination_translated()
                .accept(),
        ),
        (FORWARD, Rule::new().out_device(uplink).count().drop()),
    ];
    for range in wiring.plan.semantic.iter() {
        let rule = Rule::new().family(range.family()).in_device(uplink);
        rules.push((RAW, rule.destination_in(range).no_track()));
    }
    for family in [Family::V4, Family::V6] {
        let Some(subnet) = subnet.of(family) else {
            continue;
        };
        let mut rule = Rule::new()
            .family(family)
            .not_out_device(uplink)
            .not_out_device(tun)
            .not_out_device(bridge)
            .not_out_device("lo")
            .source_in(subnet);
        for range in [
            wiring.plan.semantic.of(family),
            wiring.plan.nodes.of(family),
        ]
        .into_iter()
        .flatten()
        {
            rule = rule.not_destination_in(range);
        }
        rules.push((POSTROUTING, rule.masquerade()));
    }
    rules
}

/// Only for addresses of this host, so that a mapping does not hijack what is merely passing through.
fn map_ports(batch: &mut Batch, wiring: &Wiring, ports: &[Port<'_>]) {
    for chain in [PREROUTING, OUTPUT] {
        batch.flush_chain(TableFamily::Inet, TABLE, chain);
    }
    for port in ports {
        for (mapping, ip) in port
            .mappings
            .iter()
            .flat_map(|mapping| port.address.iter().map(move |ip| (mapping, ip)))
        {
            let common = |rule: Rule| {
                rule.destination_is_local()
                    .l4(match mapping.transport {
                        Transport::Tcp => TCP,
                        Transport::Udp => UDP,
                    })
                    .bytes(Header::Transport, 2, &mapping.host_port.to_be_bytes())
                    .translate_destination(ip, mapping.instance_port)
            };
            let outside = Rule::new()
                .family(ip.family())
                .not_in_device(&wiring.bridge)
                .not_in_device(&wiring.uplink)
                .not_in_device(&wiring.tun);
            batch.append(TableFamily::Inet, TABLE, PREROUTING, &common(outside));
            // A loopback source address could not be routed to the instance.
            let own = Rule::new()
                .family(ip.family())
                .not_destination_in(loopback(ip.family()));
            batch.append(TableFamily::Inet, TABLE, OUTPUT, &common(own));
        }
    }
}

fn loopback(family: Family) -> Subnet {
    let (network, length) = match family {
        Family::V4 => (Ip::v4([127, 0, 0, 0]), 8),
        Family::V6 => (Ip::from_bits(1), 128),
    };
    Subnet::new(network, length).unwrap_or_else(|_| unreachable!("the loopback range is valid"))
}
