//! A rule that is revoked while the way to a manager is cut, for moments and for long: what it allowed ends within a second
//! of healing.
//!
//! ```text
//!  root ── cluster a ── gateway 1 ── bank, guest (shop)
//! ```
//!
//! Both ends are on one node, so that nobody else refuses what it goes on to allow.

use super::wide::{FROM, TO, serving, talks, wait_until_cut};
use super::{BANK, laid, rule};
use crate::world::{ECHO, World, cut, join};
use sluice_perf::lab::NetNs;
use sluice_perf::lab::clock::{now, pause};
use sluice_perf::lab::sites::Layout;
use std::time::Duration;

/// How long the ways are cut: within TCP's first repetitions, after them, and when it has all but given up.
const CUTS: [Duration; 4] = [
    Duration::from_millis(700),
    Duration::from_secs(2),
    Duration::from_secs(10),
    Duration::from_secs(40),
];
/// After the way is cut, before the rule is revoked.
const SOON: Duration = Duration::from_millis(300);

/// For each length in turn: a guest talks with the bank beside it, the namespace of one role is cut from the managers'
/// network, the rule is revoked, and it is joined again. Says how long after that everything was over.
fn check(name: &str, part: impl Fn(&World) -> &NetNs) -> Vec<(Duration, Duration)> {
    let layout = Layout {
        clusters: 1,
        gateways: vec![0],
        ..Layout::two_sites()
    };
    let world = laid(name, "enforce", layout);
    let guest = world.attach(0, ECHO, "guest");
    let bank = serving(&world, 0, BANK, "bank");
    let mut ended = Vec::new();
    for cut_for in CUTS {
        rule(&world, "add", FROM, TO);
        let mut talks = talks(&guest, std::slice::from_ref(&bank));
        assert_eq!(talks.len(), 4);
        cut(part(&world), &["mgmt0"]);
        let begin = now();
        pause(SOON);
        rule(&world, "delete", FROM, TO);
        pause(cut_for.saturating_sub(begin.elapsed()));
        for talk in &mut talks {
            talk.ask()
                .unwrap_or_else(|error| panic!("it has not heard: {}: {error}", talk.name));
        }
        join(part(&world));
        let healed = now();
        wait_until_cut(talks, healed);
        ended.push((cut_for, healed.elapsed()));
    }
    world.check();
    ended
}

#[test]
#[ignore = "needs root"]
fn what_was_revoked_ends_within_a_second_of_a_gateways_return() {
    let ended = check("healed-gateway", |world| {
        world.sites.gateways[0].namespace()
    });
    println!("cut for, over after: {ended:?}");
}

#[test]
#[ignore = "needs root"]
fn what_was_revoked_ends_within_a_second_of_the_roots_return() {
    let ended = check("healed-root", |world| &world.sites.root.namespace);
    println!("cut for, over after: {ended:?}");
}
