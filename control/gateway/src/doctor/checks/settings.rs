//! Rules about the kernel's network settings.

use crate::doctor::facts::Facts;
use crate::doctor::facts::settings::of_device;
use crate::doctor::finding::{Change, Verdict};

pub(super) fn forwarding(facts: &Facts) -> Vec<Verdict> {
    let plan = &facts.config.plan.semantic;
    let keys = [
        ("net/ipv4/ip_forward", plan.v4.is_some()),
        // Only a gateway that runs decides about IPv6: the host may have lost its own default route by it.
        (
            "net/ipv6/conf/all/forwarding",
            plan.v6.is_some() && facts.gateway.running,
        ),
    ];
    keys.into_iter()
        .filter(|(_, wanted)| *wanted)
        .filter_map(|(key, _)| {
            let value = facts.settings.text(key)?;
            Some(if value != "0" {
                Verdict::ok(key, value)
            } else if facts.gateway.running {
                Verdict::error(key, "0")
                    .costs("instances reach neither services nor the Internet; somebody switched it off after the \
                         gateway's start")
                    .fix_by(Change::setting(key, "1"))
            } else {
                Verdict::note(key, "0")
                    .costs("nothing yet: the gateway switches it on when it starts")
                    // Not for `--fix`: the gateway's firewall rules are not there yet.
                    .fix("start the gateway")
            })
        })
        .collect()
}

/// The switch of the whole host sets those of its devices, but each can be switched off after.
pub(super) fn device_forwarding(facts: &Facts) -> Vec<Verdict> {
    let gateway = &facts.config.gateway;
    if facts.settings.number("net/ipv4/ip_forward") == Some(0) {
        return Vec::new();
    }
    [&gateway.uplink, &gateway.tun]
        .into_iter()
        .filter_map(|device| {
            let key = of_device("ipv4", device, "forwarding");
            Some(match facts.settings.number(&key)? {
                0 => Verdict::error(&key, "0")
                    .costs("what comes in at that device is dropped")
                    .fix_by(Change::setting(&key, "1")),
                value => Verdict::ok(&key, value.to_string()),
            })
        })
        .collect()
}

pub(super) fn router_advertisements(facts: &Facts) -> Vec<Verdict> {
    let forwards = facts.settings.number("net/ipv6/conf/all/forwarding") == Some(1);
    let mut routes = facts.network.routes.iter();
    let Some(device) = routes
        .find(|route| route.advertised && route.destination.length() == 0)
        .and_then(|route| route.device)
        .filter(|_| forwards)
    else {
        return Vec::new();
    };
    let key = of_device("ipv6", &facts.network.name(device), "accept_ra");
    match facts.settings.number(&key) {
        Some(1) => vec![
            Verdict::warning(&key, "1, and the host forwards IPv6")
                .costs(
                    "a router that forwards no longer listens to advertisements: the IPv6 default \
                     route expires within the hour",
                )
                .fix_by(Change::setting(&key, "2")),
        ],
        Some(value) => vec![Verdict::ok(&key, value.to_string())],
        None => Vec::new(),
    }
}

pub(super) fn reverse_path_filter(facts: &Facts) -> Vec<Verdict> {
    const LOOSE: u64 = 2;
    let gateway = &facts.config.gateway;
    let underlay = facts.network.underlay().map(|link| link.name.as_str());
    let all = facts
        .settings
        .number("net/ipv4/conf/all/rp_filter")
        .unwrap_or(0);
    let ours = [
        (gateway.uplink.as_str(), true),
        (gateway.tun.as_str(), true),
    ];
    ours.into_iter()
        .chain(underlay.map(|name| (name, false)))
        .filter_map(|(device, ours)| {
            let key = of_device("ipv4", device, "rp_filter");
            // The kernel takes the greater of the two.
            let value = facts.settings.number(&key)?.max(all);
            Some(if value != 1 {
                Verdict::ok(key, format!("{value} in force"))
            } else if ours {
                Verdict::error(&key, "1 (strict) in force")
                    .costs("packets from instances are dropped when the way back leads \
                         over another device")
                    .fix_by(Change::setting(&key, LOOSE.to_string()))
            } else {
                Verdict::note(&key, "1 (strict) in force")
                    .costs("where nodes are reached over several devices, tunnel datagrams that arrive by another one \
                         than the route back are dropped")
                    // Not for `--fix`: where there is one underlay, strict is right.
                    .fix(format!("sysctl -w {key}={LOOSE}, where nodes are reached over several devices"))
            })
        })
        .collect()
}

pub(super) fn path_mtu_discovery(facts: &Facts) -> Vec<Verdict> {
    const KEY: &str = "net/ipv4/ip_no_pmtu_disc";
    match facts.settings.number(KEY) {
        None => Vec::new(),
        Some(0) => vec![Verdict::ok(KEY, "0")],
        Some(value) => vec![
            Verdict::warning(KEY, value.to_string())
                .costs(
                    "the kernel forgets what routers say about narrow paths: large \
                     packets vanish there, small ones pass",
                )
                .fix_by(Change::setting(KEY, "0")),
        ],
    }
}

pub(super) fn ipv6(facts: &Facts) -> Vec<Verdict> {
    const KEY: &str = "net/ipv6/conf/all/disable_ipv6";
    if facts.config.plan.semantic.v6.is_none() {
        return Vec::new();
    }
    vec![match facts.settings.number(KEY) {
        Some(0) => Verdict::ok(KEY, "0"),
        Some(value) => Verdict::warning(KEY, value.to_string())
            .costs(
                "new devices have no IPv6: instances get an IPv4 address only, and \
                 IPv6 services are not reached",
            )
            .fix(format!(
                "sysctl -w {KEY}=0, or set plan.semantic_v6 = \"none\" everywhere"
            )),
        None => Verdict::note("/proc/sys/net/ipv6", "not there")
            .costs("the kernel has no IPv6: instances get an IPv4 address only")
            .fix("boot without ipv6.disable=1, or set plan.semantic_v6 = \"none\" everywhere"),
    }]
}

pub(super) fn bridge_netfilter(facts: &Facts) -> Vec<Verdict> {
    let keys = [
        "net/bridge/bridge-nf-call-iptables",
        "net/bridge/bridge-nf-call-ip6tables",
    ];
    keys.into_iter()
        .filter_map(|key| {
            let value = facts.settings.text(key)?;
            Some(if value == "0" {
                Verdict::ok(key, "0")
            } else {
                // Not for `--fix`: Kubernetes' and Docker's rules between containers rely on it.
                Verdict::note(key, value)
                    .costs(
                        "every packet of an instance passes the host's firewall \
                         rules twice, once on the bridge",
                    )
                    .fix(format!(
                        "sysctl -w {key}=0, where neither Kubernetes nor Docker swarm needs it"
                    ))
            })
        })
        .collect()
}
