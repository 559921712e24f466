//! Rules about our address ranges beside everybody else's.

use crate::doctor::facts::Facts;
use crate::doctor::finding::Verdict;
use sluice_wire::Subnet;

/// What a range of ours is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Use {
    /// ServiceIPs and InstanceIPs.
    Semantic,
    /// The subnets of all nodes; only this node's own one is a route here.
    Nodes,
}

impl std::fmt::Display for Use {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Semantic => "the service range",
            Self::Nodes => "the node range",
        })
    }
}

fn ranges(facts: &Facts) -> Vec<(Use, Subnet)> {
    let plan = &facts.config.plan;
    let semantic = plan.semantic.iter().map(|range| (Use::Semantic, range));
    let nodes = plan.nodes.iter().map(|range| (Use::Nodes, range));
    semantic.chain(nodes).collect()
}

/// Somebody else has what is ours.
fn clash(of: Use, place: String, found: String) -> Verdict {
    match of {
        Use::Semantic => Verdict::error(place, found)
            .costs("packets for services or instances with such addresses never reach \
                 the gateway"),
        Use::Nodes => Verdict::warning(place, found).costs(
            "instances do not reach it: what goes to node addresses is not masqueraded. A node that is given the same \
             subnet cannot be reached from here",
        ),
    }
    .fix(FIX)
}

/// Devices that the gateway made: what leads over them is ours.
fn is_ours(facts: &Facts, device: u32) -> bool {
    let gateway = &facts.config.gateway;
    let name = facts.network.name(device);
    [&gateway.bridge, &gateway.uplink, &gateway.tun].contains(&&name)
}

const FIX: &str = "give the other one another range, or change [plan] on every node and manager (preset = \"thesis\" or \
                   \"large\", or ranges of your own)";

pub(super) fn addresses(facts: &Facts) -> Vec<Verdict> {
    let found: Vec<Verdict> = facts
        .network
        .addresses
        .iter()
        .filter(|listed| !is_ours(facts, listed.device))
        .filter_map(|listed| {
            let all = ranges(facts);
            let (of, range) = all
                .iter()
                .find(|(_, range)| range.contains(listed.address))?;
            let (address, length) = (listed.address, listed.length);
            let found = format!("has {address}/{length}, inside {of} {range}");
            Some(clash(*of, facts.network.name(listed.device), found))
        })
        .collect();
    or_ok(facts, found, "no address of another device is inside")
}

pub(super) fn routes(facts: &Facts) -> Vec<Verdict> {
    let found: Vec<Verdict> = facts
        .network
        .routes
        .iter()
        .filter(|route| !route.ours && !route.device.is_some_and(|device| is_ours(facts, device)))
        // A wider route than a range loses against ours; only one inside wins.
        .filter_map(|route| {
            let all = ranges(facts);
            let (of, range) = all.iter().find(|(_, range)| {
                range.contains(route.destination.network())
                    && route.destination.length() >= range.length()
            })?;
            let device = route.device.map_or_else(
                || "several devices".to_owned(),
                |device| facts.network.name(device),
            );
            let found = format!("leads over {device} and is inside {of} {range}");
            Some(clash(*of, format!("route {}", route.destination), found))
        })
        .collect();
    or_ok(facts, found, "no route of others leads inside")
}

pub(super) fn docker_pools(facts: &Facts) -> Vec<Verdict> {
    facts
        .docker_pools
        .iter()
        .filter_map(|pool| {
            let all = ranges(facts);
            let (of, range) = all.iter().find(|(_, range)| range.overlaps(pool))?;
            let found = format!("pool {pool} overlaps {of} {range}");
            Some(
                Verdict::warning("Docker's default-address-pools", found)
                    .costs(
                        "the next network that Docker makes may take addresses of \
                         services or instances",
                    )
                    .fix(
                        "set default-address-pools in /etc/docker/daemon.json to \
                         another range and restart Docker",
                    ),
            )
        })
        .collect()
}

fn or_ok(facts: &Facts, found: Vec<Verdict>, well: &str) -> Vec<Verdict> {
    if !found.is_empty() {
        return found;
    }
    let all: Vec<String> = ranges(facts)
        .iter()
        .map(|(_, range)| range.to_string())
        .collect();
    vec![Verdict::ok(all.join(" "), well)]
}
