//! Rules about what was set up around the gateway: files, managers, clock, names.

use crate::doctor::facts::Facts;
use crate::doctor::finding::Verdict;

pub(super) fn config(facts: &Facts) -> Vec<Verdict> {
    vec![match &facts.config_error {
        None => Verdict::ok("configuration", "valid"),
        Some(error) => Verdict::error("configuration", error)
            .costs("no role starts; everything below was looked at with the defaults")
            .fix("correct the file, then `sluice config check FILE`"),
    }]
}

pub(super) fn tokens(facts: &Facts) -> Vec<Verdict> {
    let token = |file: &crate::doctor::facts::files::TokenFile| {
        let path = file.path.display();
        let place = format!("{} = \"{path}\"", file.key);
        match &file.mode {
            Err(why) => Verdict::error(place, why)
                .costs("the role that needs it does not start")
                .fix(format!("install -m 600 /dev/null {path} && head -c 32 /dev/urandom | base64 > {path}, or copy \
                     the other side's file")),
            Ok(mode) if mode & 0o077 != 0 => Verdict::warning(place, format!("mode {mode:03o}"))
                .costs("other users of this machine can read the token and speak as this node")
                .fix(format!("chmod 600 {path}")),
            Ok(mode) => Verdict::ok(place, format!("mode {mode:03o}")),
        }
    };
    facts.tokens.iter().map(token).collect()
}

pub(super) fn state_dir(facts: &Facts) -> Vec<Verdict> {
    /// The gateway's own files stay far below; logs and others share the file system.
    const ENOUGH: u64 = 64 << 20;
    let directory = &facts.state_dir;
    let path = directory.path.display().to_string();
    let place = format!("gateway.state_dir = \"{path}\"");
    let free_mib = directory.free_bytes >> 20;
    vec![if let Some(why) = &directory.refused {
        Verdict::error(place, why)
            .costs("the gateway does not start")
            .fix(format!(
                "install -d -m 700 -o sluice {path}, or name another directory"
            ))
    } else if directory.free_bytes < ENOUGH {
        Verdict::warning(place, format!("{free_mib} MiB free"))
            .costs("leases and routes cannot be written down; a restart would have forgotten them")
            .fix(format!("make room: df -h {path}"))
    } else if directory.in_memory {
        Verdict::warning(place, "a file system in memory")
            .costs(
                "after a boot without managers, no route is known and every instance \
                 loses its address",
            )
            .fix("set gateway.state_dir to a directory on a disk")
    } else {
        Verdict::ok(place, format!("{free_mib} MiB free"))
    }]
}

pub(super) fn managers(facts: &Facts) -> Vec<Verdict> {
    if facts.gateway.cluster.is_none() {
        return vec![
            Verdict::note(
                "gateway.cluster",
                "not set, and nobody has registered this node",
            )
            .costs(
                "the gateway waits for POST /register on its node socket; until \
                     then nothing is served",
            )
            .fix(
                "set gateway.cluster to HOST:PORT of the cluster's broker, unless \
                     a node engine registers it",
            ),
        ];
    }
    facts
        .managers
        .iter()
        .map(|manager| {
            let place = format!("{} = \"{}\"", manager.key, manager.address);
            match &manager.failure {
                None => Verdict::ok(place, format!("{} answers", manager.role)),
                Some(why) => Verdict::error(place, format!("{}: {why}", manager.role))
                    .costs(
                        "known services still talk; nothing new is resolved, attached \
                             or withdrawn",
                    )
                    .fix(format!(
                        "start it, correct {}, or open the firewall on the way: nc -vz {}",
                        manager.key,
                        manager.address.replace(':', " ")
                    )),
            }
        })
        .collect()
}

pub(super) fn clock(facts: &Facts) -> Vec<Verdict> {
    vec![match facts.clock_synchronised {
        Some(true) => Verdict::ok("clock", "follows a time server"),
        Some(false) => Verdict::warning("clock", "follows no time server (adjtimex: STA_UNSYNC)")
            .costs(
                "logs of different nodes cannot be laid side by side, and \
                 certificates may seem expired",
            )
            .fix("timedatectl set-ntp true, or install chrony"),
        None => Verdict::note(
            "clock",
            "the kernel does not tell whether it is synchronised",
        )
        .costs("nobody knows whether logs of different nodes can be compared")
        .fix("timedatectl status"),
    }]
}

pub(super) fn local_resolver(facts: &Facts) -> Vec<Verdict> {
    let sources = &facts.resolver.sources;
    let place = "/etc/nsswitch.conf";
    let found = format!("hosts: {}", sources.join(" "));
    let position = |wanted: &str| {
        sources
            .iter()
            .position(|source| source.trim_end_matches(['4', '6']) == wanted)
    };
    let dns = sources.iter().position(|source| source == "dns");
    let minimal = sources
        .iter()
        .position(|source| source.starts_with("mdns") && source.ends_with("_minimal"));
    // `[NOTFOUND=return]` right behind the minimal module keeps every .local name from DNS.
    let kept_from_dns = minimal.is_some_and(|at| {
        sources
            .get(at + 1)
            .is_some_and(|action| action.eq_ignore_ascii_case("[NOTFOUND=return]"))
            && dns.is_none_or(|dns| dns > at)
    });
    let mdns_first = position("mdns").is_some_and(|at| dns.is_none_or(|dns| dns > at));
    let resolved = facts
        .resolver
        .name_servers
        .iter()
        .any(|server| server == "127.0.0.53");
    let second = facts.config.names.suffix.as_ref();
    vec![
        if let Some(second) = second.filter(|_| kept_from_dns || mdns_first || resolved) {
            Verdict::ok(
                place,
                format!("{found}; services have names under {second}, too"),
            )
        } else if kept_from_dns || mdns_first {
            Verdict::note(place, found)
            .costs("names that end in .local go to multicast DNS and never to a name server: service names will only \
                 resolve where mDNS reaches")
            .fix("put `dns` before the mdns entry of the hosts line where instances use this file, or give services \
                 a second suffix with names.suffix")
        } else if resolved {
            Verdict::note(
            "/etc/resolv.conf",
            "nameserver 127.0.0.53 (systemd-resolved)",
        )
        .costs(
            "systemd-resolved answers .local by multicast DNS or not at all, \
                 never from a name server",
        )
        .fix(
            "give instances a resolv.conf with the gateway's address, which `sluice attach` prints, or services a \
             second suffix with names.suffix",
        )
        } else {
            Verdict::ok(
                place,
                if sources.is_empty() {
                    "no hosts line".to_owned()
                } else {
                    found
                },
            )
        },
    ]
}

pub(super) fn unseen(facts: &Facts) -> Vec<Verdict> {
    let verdict = |what: &String| {
        Verdict::note("this command", what)
            .costs("the rules that need it saw nothing")
            .fix("run it as root: sudo sluice doctor")
    };
    facts.network.unseen.iter().map(verdict).collect()
}
