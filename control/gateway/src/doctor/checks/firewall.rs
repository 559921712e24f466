//! Rules about other people's firewall rules and connection tracking.

use crate::doctor::facts::Facts;
use crate::doctor::finding::Verdict;
use sluice_wire::Family;

pub(super) fn forward_policy(facts: &Facts) -> Vec<Verdict> {
    const COST: &str = "instances reach neither services nor the Internet";
    let uplink = &facts.config.gateway.uplink;
    let mut found = Vec::new();
    for chain in facts
        .network
        .forward
        .iter()
        .filter(|chain| !chain.accepts_ours)
    {
        let place = format!("nftables chain {}", chain.name);
        let verdict = if facts.gateway.running {
            Verdict::error(&place, "policy drop, and no rule accepts our devices").costs(COST)
        } else {
            Verdict::note(&place, "policy drop, and no rule accepts our devices")
                .costs("nothing yet: the gateway adds its rules when it starts")
        };
        found.push(verdict.fix(format!(
            "start the gateway, which adds them within seconds, or: nft insert rule {0} iifname {uplink} accept; nft \
             insert rule {0} oifname {uplink} accept",
            chain.name
        )));
    }
    for family in [Family::V4, Family::V6] {
        let Some(chain) = facts.network.legacy_forward.of(family) else {
            continue;
        };
        if chain.is_in_the_way() {
            let tool = match family {
                Family::V4 => "iptables-legacy",
                Family::V6 => "ip6tables-legacy",
            };
            found.push(
                Verdict::error(
                    format!("{tool} chain FORWARD"),
                    "policy DROP, and no rule accepts our devices",
                )
                .costs(COST)
                .fix(format!(
                    "{tool} -I FORWARD -i {uplink} -j ACCEPT; {tool} -I \
                         FORWARD -o {uplink} -j ACCEPT"
                )),
            );
        }
    }
    if found.is_empty() {
        found.push(Verdict::ok("FORWARD chains", "none drops ours"));
    }
    found
}

pub(super) fn input_policy(facts: &Facts) -> Vec<Verdict> {
    let port = facts.config.fastpath.tunnel_port;
    let found: Vec<Verdict> = facts
        .network
        .input
        .iter()
        .filter(|chain| !chain.names_port)
        .map(|chain| {
            Verdict::warning(
                format!("nftables chain {}", chain.name),
                format!("policy drop, and no rule of its table names UDP port {port}"),
            )
            .costs(
                "datagrams of other nodes are dropped, unless a rule accepts them \
                 without naming the port",
            )
            .fix(format!(
                "nft insert rule {} udp dport {port} accept",
                chain.name
            ))
        })
        .collect();
    if found.is_empty() {
        return vec![Verdict::ok(
            format!("UDP port {port}"),
            "no firewall chain seems to drop it",
        )];
    }
    found
}

pub(super) fn conntrack_table(facts: &Facts) -> Vec<Verdict> {
    let count = facts.settings.number("net/netfilter/nf_conntrack_count");
    let max = facts.settings.number("net/netfilter/nf_conntrack_max");
    let (Some(count), Some(max)) = (count, max) else {
        return Vec::new();
    };
    let place = "net/netfilter/nf_conntrack_count";
    let found = format!("{count} of {max}");
    vec![if max > 0 && count >= max {
        Verdict::error(place, found)
            .costs(
                "new connections of this host and out of the site are dropped \
                 (`nf_conntrack: table full`)",
            )
            .fix(format!(
                "sysctl -w net.netfilter.nf_conntrack_max={}",
                max * 2
            ))
    } else if count * 5 >= max * 4 {
        Verdict::warning(place, found)
            .costs(
                "nearly full: when it is, new connections of this host and out of \
                 the site are dropped",
            )
            .fix(format!(
                "sysctl -w net.netfilter.nf_conntrack_max={}",
                max * 2
            ))
    } else {
        Verdict::ok(place, found)
    }]
}

pub(super) fn conntrack_tunnel(facts: &Facts) -> Vec<Verdict> {
    let port = facts.config.fastpath.tunnel_port;
    match facts.tracked_tunnels {
        None => Vec::new(),
        Some(0) => vec![Verdict::ok(format!("UDP port {port}"), "not tracked")],
        Some(count) => vec![
            Verdict::note(format!("UDP port {port}"), format!("{count} tunnels are \
                 tracked as connections"))
                .costs("each datagram is looked up in the kernel's table too, and a \
                     full table drops tunnels")
                .fix(format!(
                    "nft 'table inet tunnel {{ chain in {{ type filter hook prerouting priority raw; udp dport {port} \
                     notrack; }}; chain out {{ type filter hook output priority raw; udp dport {port} notrack; }}; }}'"
                )),
        ],
    }
}
