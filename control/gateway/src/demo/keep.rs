//! `--keep`: how to enter the sites and what to try there.

use super::sites::Demo;
use super::{Family, say};
use sluice_perf::lab::NetNs;
use std::net::SocketAddr;

/// Prints how to enter and what to try, and waits: Ctrl-C ends the process and everything with it.
pub(super) fn until_interrupted(demo: &Demo, user_namespace: bool) {
    let enter = |namespace: &NetNs| {
        let into = if user_namespace {
            format!("-t {} -U --preserve-credentials ", std::process::id())
        } else {
            String::new()
        };
        format!("nsenter {into}--net={}", namespace.path().display())
    };
    say("The sites are up. Each of these opens a shell in one of them:");
    for (what, namespace) in [
        ("the client (site b)", &demo.client.namespace),
        ("the client beside web 0", &demo.neighbour.namespace),
        ("web 0", &demo.webs[0].place.namespace),
        ("gateway 1", demo.sites.gateways[0].namespace()),
        ("gateway 4", demo.sites.gateways[3].namespace()),
        ("the root", &demo.sites.root.namespace),
    ] {
        say(format_args!("  {what:<26}{}", enter(namespace)));
    }
    let client = enter(&demo.client.namespace);
    let admin = demo.sites.gateways[3].role.admin.display();
    say("\nWhat to try:");
    say(format_args!(
        "  {client} unshare --mount sh -c 'mount --bind {} /etc/resolv.conf && curl http://{}/'",
        demo.client.resolv_conf.display(),
        Demo::web_name()
    ));
    for family in Family::BOTH {
        let to = SocketAddr::new(demo.web_service(family), 80);
        say(format_args!("  {client} curl http://{to}/"));
    }
    say(format_args!(
        "  {client} ping {}",
        demo.web_service(Family::V4)
    ));
    for command in ["status --at gateway", "get flows", "get peers", "get drops"] {
        say(format_args!("  sluice {command} --socket {admin}"));
    }
    say(format_args!(
        "  sluice get services --socket {}",
        demo.sites.root.admin.display()
    ));
    say(format_args!(
        "\nConfigurations and logs are in {}. Ctrl-C removes everything.",
        demo.sites.scratch.path().display()
    ));
    loop {
        std::thread::park();
    }
}
