//! Rows and events in, tables out.

mod formats;
mod probes;

use super::moves::TAKEN_FOR;
use super::*;
use sluice_proto::message::FormerPlace;
use sluice_proto::table_query::ServiceAddress;
use sluice_tables::{SENT_ON_S, Target};
use sluice_wire::AddressPlan;
use std::collections::BTreeSet;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering::Relaxed;

const NODE_ONE: &str = "192.0.2.1";
const NODE_TWO: &str = "192.0.2.2";
const SELF: &str = "192.0.2.9";

fn target(tables: &Tables, address: Ip) -> Option<Target> {
    match tables.semantic(address)? {
        Known::Target(target) => Some(target),
        Known::Unavailable | Known::Absent => None,
    }
}

fn ip(text: &str) -> Ip {
    text.parse().unwrap()
}

fn name() -> ServiceName {
    ServiceName::parse("a.b.c.d").unwrap()
}

fn instance_ips(number: u32) -> Dual<InstanceIp> {
    let at = |first: &str| InstanceIp::new(ip(first).offset(number.into()));
    Dual::both(at("10.30.0.10"), at("fdff::10"))
}

fn ns_ips(number: u32) -> Dual<NsIp> {
    let at = |first: &str| NsIp::new(ip(first).offset(number.into()));
    Dual::both(at("10.18.0.10"), at("fc00::10"))
}

fn row(number: u32, node: &str) -> Row {
    Row {
        number,
        epoch: 1,
        instance_ip: instance_ips(number),
        place: Some(Place {
            ns_ip: ns_ips(number),
            host: ip(node),
            port: 50103,
            node: None,
            key: None,
            answers_probes: false,
        }),
        cluster_id: None,
        reply_only: false,
        former: Vec::new(),
    }
}

fn job(rows: &[Row]) -> JobRoutes {
    let ips = Dual::both(
        ServiceIp::new(ip("10.30.1.1")),
        ServiceIp::new(ip("fdff:2000::1")),
    );
    JobRoutes {
        job: name(),
        service_ips: vec![ServiceAddress {
            policy: table_query::Policy::RoundRobin,
            ip: ips,
        }],
        rules: Vec::new(),
        instances: rows.to_vec(),
        unlisted: BTreeSet::new(),
    }
}

fn routes() -> Routes {
    let mut routes = Routes::new(
        Writer::new(AddressPlan::oakestra(), Dual::default()),
        |_, _, _| 1450,
    );
    routes.set_own((ip(SELF), 50103));
    routes
}

fn candidates(routes: &Routes) -> Vec<u32> {
    let Some(Target::Service { service, .. }) = target(routes.tables(), ip("10.30.1.1")) else {
        return Vec::new();
    };
    let numbers = routes.tables().service(service).unwrap().candidates.iter();
    numbers
        .map(|&slot| routes.tables().instance(slot).unwrap().number)
        .collect()
}

#[test]
fn an_answer_makes_addresses_and_candidates() {
    let mut routes = routes();
    routes.set_job(&job(&[row(1, NODE_TWO), row(0, NODE_ONE)]));
    assert_eq!(candidates(&routes), [0, 1]);
    assert!(matches!(
        target(routes.tables(), ip("fdff::11")),
        Some(Target::Instance(_))
    ));
    assert_eq!(routes.tables().peers_at(ip(NODE_ONE)).len(), 1);
}

#[test]
fn an_unlisted_instance_keeps_its_flows_until_it_is_withdrawn() {
    let mut routes = routes();
    routes.set_job(&job(&[row(0, NODE_ONE), row(1, NODE_TWO)]));
    let Some(Target::Instance(slot)) = target(routes.tables(), ip("10.30.0.11")) else {
        panic!("instance 1")
    };
    let epoch = routes.tables().instance(slot).unwrap().epoch;
    routes.set_job(&job(&[row(0, NODE_ONE)]));
    assert!(routes.tables().instance_at(slot, epoch).is_some());
    assert_eq!(candidates(&routes), [0]);
    routes.withdraw(&name(), 1);
    assert!(routes.tables().instance_at(slot, epoch).is_none());
    assert!(
        routes.tables().peers_at(ip(NODE_TWO)).is_empty(),
        "a peer nobody is placed on is forgotten"
    );
}

/// Another service in its slot does not.
#[test]
fn a_service_awaits_its_rules_until_they_are_there() {
    let mut routes = routes();
    let awaits = |routes: &Routes| {
        let mut rows = routes.tables().services();
        rows.any(|(_, row)| row.awaits_rules)
    };
    routes.set_awaits_rules(&name(), true);
    assert!(!awaits(&routes), "it is not known");
    routes.add_local(here(0));
    routes.set_awaits_rules(&name(), true);
    routes.set_job(&job(&[row(0, SELF)]));
    assert!(awaits(&routes), "who set it ends it");
    routes.set_awaits_rules(&name(), false);
    assert!(!awaits(&routes));
    routes.set_awaits_rules(&name(), true);
    routes.remove_local(&name(), 0);
    routes.forget(&name());
    routes.add_local(here(0));
    assert!(!awaits(&routes));
}

#[test]
fn what_runs_here_is_known_better_here() {
    let mut routes = routes();
    let local = LocalInstance {
        job: name(),
        number: 0,
        epoch: 1,
        instance_ip: instance_ips(0),
        ns_ip: ns_ips(0),
        veth: None,
    };
    routes.add_local(local);
    routes.set_job(&job(&[row(0, NODE_ONE), row(1, NODE_TWO)]));
    routes.withdraw(&name(), 0);
    let slot = routes.tables().local(NsIp::new(ip("10.18.0.10"))).unwrap();
    assert_eq!(
        routes.tables().instance(slot).unwrap().placement,
        Placement::Local
    );
    assert_eq!(candidates(&routes), [0, 1]);
    routes.forget(&name());
    assert_eq!(
        candidates(&routes),
        [0, 1],
        "a local instance keeps its job"
    );
    assert!(routes.remove_local(&name(), 0).is_some());
    assert_eq!(candidates(&routes), [1]);
    routes.forget(&name());
    assert_eq!(target(routes.tables(), ip("10.30.1.1")), None);
}

/// The row of an instance that ended here a moment ago must not make a tunnel to ourselves.
#[test]
fn a_stale_row_about_this_node_is_nowhere() {
    let mut routes = routes();
    routes.set_job(&job(&[row(0, SELF)]));
    assert!(candidates(&routes).is_empty());
}

#[test]
fn a_migration_keeps_the_slot_and_moves_the_peer() {
    let mut routes = routes();
    routes.set_job(&job(&[row(0, NODE_ONE)]));
    let before = target(routes.tables(), ip("10.30.0.10"));
    routes.set_job(&job(&[row(0, NODE_TWO)]));
    assert_eq!(target(routes.tables(), ip("10.30.0.10")), before);
    assert!(routes.tables().peers_at(ip(NODE_ONE)).is_empty());
    assert_eq!(routes.tables().peers_at(ip(NODE_TWO)).len(), 1);
}

/// The managers name a few of many instances, and may not know that this node hears nothing from just those.
#[test]
fn an_unlisted_instance_takes_new_flows_when_all_listed_are_suspect() {
    let mut routes = routes();
    routes.set_job(&job(&[row(0, NODE_ONE), row(1, NODE_TWO)]));
    routes.set_job(&job(&[row(0, NODE_ONE)]));
    let node = (ip(NODE_ONE), 50103);
    routes.set_lost(node, true);
    assert_eq!(candidates(&routes), [1]);
    routes.set_lost((ip(NODE_TWO), 50103), true);
    assert_eq!(
        candidates(&routes),
        [0],
        "one suspect is as good as another"
    );
    routes.set_lost(node, false);
    assert_eq!(candidates(&routes), [0]);
    routes.set_lost((ip(NODE_TWO), 50103), false);
    routes.withdraw(&name(), 0);
    assert!(candidates(&routes).is_empty(), "none is listed");
}

#[test]
fn a_suspect_takes_new_flows_only_when_nobody_else_is_there() {
    let mut routes = routes();
    routes.set_job(&job(&[row(0, NODE_ONE), row(1, NODE_TWO)]));
    let slots: Vec<(InstanceSlot, u32)> = routes
        .tables()
        .instances()
        .map(|(slot, row)| (slot, row.epoch))
        .collect();
    assert_eq!(routes.suspect(slots[0].0, slots[0].1), Some(name()));
    assert_eq!(candidates(&routes), [1]);
    routes.suspect(slots[1].0, slots[1].1);
    assert_eq!(candidates(&routes), [0, 1]);
    routes.trust(slots[1].0);
    assert_eq!(candidates(&routes), [1]);
    assert_eq!(
        routes.suspect(slots[0].0, slots[0].1 + 1),
        None,
        "that was another instance"
    );
}

/// The MTU of every path in [`a_path_that_changes_is_noticed_without_news_about_the_peer`].
static PATH_MTU: AtomicU16 = AtomicU16::new(1450);

#[test]
fn a_path_that_changes_is_noticed_without_news_about_the_peer() {
    let mut routes = Routes::new(
        Writer::new(AddressPlan::oakestra(), Dual::default()),
        |_, _, _| PATH_MTU.load(Relaxed),
    );
    let count = u32::try_from(PATHS_PER_LOOK).unwrap() + 1;
    let rows: Vec<Row> = (0..count)
        .map(|number| row(number, &format!("192.0.2.{number}")))
        .collect();
    routes.set_job(&job(&rows));
    assert!(!routes.look_at_paths() && !routes.look_at_paths());
    PATH_MTU.store(1372, Relaxed);
    let narrow = |routes: &Routes| {
        let peers = routes.peers.keys();
        peers
            .filter(|slot| routes.tables().peer(**slot).unwrap().mtu == 1372)
            .count()
    };
    assert!(routes.look_at_paths());
    assert_eq!(narrow(&routes), PATHS_PER_LOOK, "a part at a time");
    assert!(routes.look_at_paths());
    assert_eq!(narrow(&routes), PATHS_PER_LOOK + 1);
    assert!(!routes.look_at_paths(), "published only when changed");
}

#[test]
fn a_negative_answer_never_hides_a_target() {
    let mut routes = routes();
    routes.set_negative(ip("10.30.9.9"), Known::Absent);
    assert_eq!(
        routes.tables().semantic(ip("10.30.9.9")),
        Some(Known::Absent)
    );
    routes.set_job(&job(&[row(0, NODE_ONE)]));
    routes.set_negative(ip("10.30.1.1"), Known::Absent);
    assert_eq!(candidates(&routes), [0]);
    routes.clear_negative(ip("10.30.9.9"));
    assert_eq!(routes.tables().semantic(ip("10.30.9.9")), None);
}

/// What the asker says is written; an instance that runs here is not withdrawn from under its owner.
#[test]
fn events_are_written_and_a_withdrawn_local_instance_is_handed_over() {
    let mut routes = routes();
    let local = LocalInstance {
        job: name(),
        number: 0,
        epoch: 7,
        instance_ip: instance_ips(0),
        ns_ip: ns_ips(0),
        veth: None,
    };
    routes.add_local(local);
    let known = Event::Routes(job(&[row(0, NODE_ONE), row(1, NODE_TWO)]));
    assert_eq!(routes.handle_event(&known), None);
    assert_eq!(candidates(&routes), [0, 1]);
    let withdrawn = |number, epoch| Event::Withdrawn {
        job: name(),
        number,
        epoch,
    };
    for other in [0, 6] {
        assert_eq!(routes.handle_event(&withdrawn(0, other)), None, "{other}");
    }
    assert_eq!(routes.handle_event(&withdrawn(0, 7)), Some((name(), 0)));
    assert_eq!(routes.handle_event(&withdrawn(1, 1)), None);
    assert_eq!(candidates(&routes), [0], "it goes on until it is removed");
    let nothing = ip("10.30.9.9");
    let key = Key::Address(nothing);
    routes.handle_event(&Event::Unresolved { key: key.clone() });
    assert_eq!(routes.tables().semantic(nothing), Some(Known::Unavailable));
    routes.handle_event(&Event::Unknown { key });
    assert_eq!(routes.tables().semantic(nothing), None);
}

fn node(ip: &str) -> sluice_proto::liveness::NodeAddress {
    (self::ip(ip), 50103)
}

#[test]
fn a_lost_node_takes_no_new_flow_until_it_is_found() {
    let mut routes = routes();
    routes.set_job(&job(&[row(0, NODE_ONE), row(1, NODE_TWO)]));
    assert!(routes.set_lost(node(NODE_ONE), true).contains(&name()));
    assert!(routes.set_lost(node(NODE_ONE), true).is_empty(), "known");
    assert_eq!(candidates(&routes), [1]);
    // An answer that says what was known changes nothing, nor does one that brings another instance there.
    routes.set_job(&job(&[row(0, NODE_ONE), row(1, NODE_TWO)]));
    assert_eq!(candidates(&routes), [1]);
    routes.set_job(&job(&[
        row(0, NODE_ONE),
        row(1, NODE_TWO),
        row(2, NODE_ONE),
    ]));
    assert_eq!(candidates(&routes), [1]);
    // What moved away is not lost.
    routes.set_job(&job(&[
        row(0, NODE_TWO),
        row(1, NODE_TWO),
        row(2, NODE_ONE),
    ]));
    assert_eq!(candidates(&routes), [0, 1]);
    assert!(routes.set_lost(node(NODE_ONE), false).contains(&name()));
    assert_eq!(candidates(&routes), [0, 1, 2]);
}

/// Instance 0 on the first node is suspect, instance 1 on the second is not.
fn with_a_suspect() -> (Routes, InstanceSlot) {
    let mut routes = routes();
    routes.set_job(&job(&[row(0, NODE_ONE), row(1, NODE_TWO)]));
    let Some(Target::Instance(slot)) = target(routes.tables(), ip("10.30.0.10")) else {
        panic!("instance 0")
    };
    let epoch = routes.tables().instance(slot).unwrap().epoch;
    routes.suspect(slot, epoch);
    (routes, slot)
}

#[test]
fn suspicion_outlives_an_answer_that_says_the_same_and_ends_where_the_instance_moves() {
    let (mut routes, _) = with_a_suspect();
    routes.set_job(&job(&[row(0, NODE_ONE), row(1, NODE_TWO)]));
    assert_eq!(candidates(&routes), [1]);
    routes.set_job(&job(&[row(0, NODE_TWO), row(1, NODE_TWO)]));
    assert_eq!(candidates(&routes), [0, 1]);
}

#[test]
fn trust_in_an_instance_does_not_outweigh_that_its_node_is_lost() {
    let (mut routes, slot) = with_a_suspect();
    routes.set_lost(node(NODE_ONE), true);
    routes.trust(slot);
    assert_eq!(candidates(&routes), [1]);
    routes.set_lost(node(NODE_ONE), false);
    assert_eq!(candidates(&routes), [0, 1]);
}

/// Where answers leave instances out, the managers hear which of all can not be reached: each change once.
#[test]
fn which_instances_are_suspect_is_told_when_it_changes() {
    let (mut routes, slot) = with_a_suspect();
    let told = |numbers: &[u32]| vec![(name(), numbers.iter().copied().collect())];
    assert_eq!(routes.take_doubted(), told(&[0]));
    routes.set_job(&job(&[row(1, NODE_TWO)]));
    assert_eq!(
        routes.take_doubted(),
        [],
        "not listed, and suspect as before"
    );
    routes.set_lost(node(NODE_TWO), true);
    assert_eq!(routes.take_doubted(), told(&[0, 1]));
    routes.set_job(&job(&[row(1, NODE_TWO), row(2, NODE_TWO)]));
    assert_eq!(
        routes.take_doubted(),
        told(&[0, 1, 2]),
        "a new one on a lost node"
    );
    routes.set_lost(node(NODE_TWO), false);
    routes.trust(slot);
    assert_eq!(routes.take_doubted(), told(&[]));
    routes.trust(slot);
    assert_eq!(routes.take_doubted(), []);
}

/// The instance ran on node one before it came here.
fn came_here(mut row: Row) -> Row {
    row.place = None;
    row.former = vec![former(NODE_ONE)];
    row
}

fn former(node: &str) -> FormerPlace {
    FormerPlace {
        host_ip: node.parse().unwrap(),
        host_port: 50103,
        left_s: 0,
        public_key: None,
    }
}

fn here(number: u32) -> LocalInstance {
    LocalInstance {
        job: name(),
        number,
        epoch: 1,
        instance_ip: instance_ips(number),
        ns_ip: ns_ips(number),
        veth: None,
    }
}

/// Both orders: the old node hears of the move before the instance ends there, or after.
#[test]
fn what_moved_away_is_sent_on_for_the_time_that_is_set() {
    let mut moved = row(0, NODE_TWO);
    moved.former = vec![former(SELF)];
    let old = NsIp::new(ip("10.18.0.10"));
    for (heard_before, seconds) in [(true, SENT_ON_S), (false, 2 * SENT_ON_S)] {
        let time = Duration::from_secs(seconds.into());
        let mut routes = routes();
        if seconds != SENT_ON_S {
            routes.set_sent_on_s(seconds);
        }
        routes.add_local(here(0));
        if heard_before {
            routes.set_job(&job(&[moved.clone()]));
            routes.move_local(&name(), &moved);
        } else {
            routes.remove_local(&name(), 0);
            assert_eq!(routes.tables().left(old), None);
            routes.set_job(&job(&[moved.clone()]));
        }
        let slot = routes.tables().left(old).unwrap();
        let place = routes.tables().instance(slot).unwrap().placement;
        assert!(matches!(place, Placement::Peer(_)));
        let at = Duration::from_secs(100);
        routes.handle_timeout(at);
        assert_eq!(routes.poll_timeout(), Some(at + time));
        assert!(!routes.handle_timeout(at + time / 2));
        assert_eq!(routes.tables().left(old), Some(slot));
        assert!(routes.handle_timeout(at + time));
        assert_eq!(routes.tables().left(old), None);
        assert_eq!(routes.poll_timeout(), None);
        // What is heard later changes nothing.
        routes.set_job(&job(&[moved.clone()]));
        assert_eq!(routes.tables().left(old), None);
    }
}

/// Managers that do not name former nodes tell the new one nothing, which would then refuse what is sent on; and what ended
/// for good, or is another instance by now, did not move.
#[test]
fn only_what_the_managers_say_was_here_is_sent_on() {
    let mut named = row(0, NODE_TWO);
    named.former = vec![former(SELF)];
    let mut other = named.clone();
    other.epoch = 2;
    for row in [row(0, NODE_TWO), other] {
        let mut routes = routes();
        routes.add_local(here(0));
        routes.remove_local(&name(), 0);
        routes.set_job(&job(&[row]));
        assert!(!routes.tables().knows_moves());
    }
    let mut routes = routes();
    routes.add_local(here(0));
    routes.move_local(&name(), &named);
    assert!(routes.tables().knows_moves());
    routes.withdraw(&name(), 0);
    assert!(!routes.tables().knows_moves());
}

/// The address of a former node may be a stranger's long since.
#[test]
fn what_came_before_this_gateway_started_is_taken_from_nobody() {
    let mut routes = routes();
    routes.settle(&name(), 0);
    routes.add_local(here(0));
    routes.set_job(&job(&[came_here(row(0, SELF))]));
    assert!(!routes.tables().knows_moves());
    assert!(routes.tables().peers_at(ip(NODE_ONE)).is_empty());
    // It ends; the next instance of the number comes now.
    routes.remove_local(&name(), 0);
    routes.add_local(here(0));
    routes.set_job(&job(&[came_here(row(0, SELF))]));
    assert!(routes.tables().knows_moves());
}

#[test]
fn what_came_here_is_taken_from_where_it_was_for_a_while() {
    let mut routes = routes();
    routes.add_local(here(0));
    routes.set_job(&job(&[came_here(row(0, SELF))]));
    let slot = routes.tables().local(NsIp::new(ip("10.18.0.10"))).unwrap();
    assert!(routes.tables().came_from(slot, ip(NODE_ONE)).is_some());
    assert_eq!(routes.tables().came_from(slot, ip(NODE_TWO)), None);
    let at = Duration::from_secs(100);
    routes.handle_timeout(at);
    // Another answer, and a longer history, do not make it last longer.
    let mut longer = came_here(row(0, SELF));
    longer.former.insert(0, former(NODE_TWO));
    for row in [came_here(row(0, SELF)), longer] {
        routes.set_job(&job(&[row]));
        assert_eq!(routes.poll_timeout(), Some(at + TAKEN_FOR));
    }
    assert!(routes.tables().came_from(slot, ip(NODE_TWO)).is_some());
    assert!(routes.handle_timeout(at + TAKEN_FOR));
    assert!(!routes.tables().knows_moves());
    assert!(
        routes.tables().peers_at(ip(NODE_ONE)).is_empty(),
        "nobody is there any more"
    );
    assert_eq!(routes.poll_timeout(), None);
    // It went to node two and is back: another move, with its own time.
    let mut again = came_here(row(0, SELF));
    again.former.push(former(NODE_TWO));
    routes.set_job(&job(&[again]));
    let back = at + TAKEN_FOR * 2;
    assert!(!routes.handle_timeout(back));
    assert!(routes.tables().came_from(slot, ip(NODE_TWO)).is_some());
    assert_eq!(routes.poll_timeout(), Some(back + TAKEN_FOR));
    // Once it ended here, its peers are not kept either.
    let mut routes = self::routes();
    routes.add_local(here(0));
    routes.set_job(&job(&[came_here(row(0, SELF))]));
    routes.remove_local(&name(), 0);
    assert!(!routes.tables().knows_moves());
    assert!(routes.tables().peers_at(ip(NODE_ONE)).is_empty());
}

/// Only from where this node believed it, and as long as no address of that node may be another's.
#[test]
fn answers_are_taken_for_that_time_from_where_an_instance_was_elsewhere() {
    const SENT_ON_FOR: Duration = Duration::from_secs(SENT_ON_S as u64);
    const NODE_THREE: &str = "192.0.2.3";
    let moved = |to: &str, from: &[&str]| Row {
        former: from.iter().map(|from| former(from)).collect(),
        ..row(0, to)
    };
    let first = || {
        let mut routes = routes();
        routes.set_job(&job(&[moved(NODE_ONE, &[NODE_THREE])]));
        assert!(!routes.tables().knows_moves(), "it moved before");
        let Some(Target::Instance(slot)) = target(routes.tables(), ip("10.30.0.10")) else {
            panic!("instance 0")
        };
        (routes, slot)
    };
    let (mut routes, slot) = first();
    routes.set_job(&job(&[moved(NODE_TWO, &[NODE_THREE])]));
    assert!(
        !routes.tables().knows_moves(),
        "its node has another address"
    );

    let (mut routes, _) = first();
    let came = |routes: &Routes| {
        [NODE_ONE, NODE_TWO, NODE_THREE]
            .map(|node| routes.tables().came_from(slot, ip(node)).is_some())
    };
    routes.set_job(&job(&[moved(NODE_TWO, &[NODE_THREE, NODE_ONE])]));
    assert_eq!(came(&routes), [true, false, false]);
    let at = Duration::from_secs(100);
    assert!(!routes.handle_timeout(at));
    assert_eq!(routes.poll_timeout(), Some(at + SENT_ON_FOR));
    // The next move has its own time.
    routes.set_job(&job(&[moved(NODE_THREE, &[NODE_ONE, NODE_TWO])]));
    assert!(!routes.handle_timeout(at * 2));
    assert_eq!(came(&routes), [true, true, false]);
    assert!(routes.handle_timeout(at * 2 + SENT_ON_FOR));
    assert_eq!(came(&routes), [false; 3]);
    assert!(!routes.tables().knows_moves());
    assert_eq!(routes.poll_timeout(), None);
    for node in [NODE_ONE, NODE_TWO] {
        assert!(routes.tables().peers_at(ip(node)).is_empty(), "{node}");
    }

    for withdrawn in [false, true] {
        let (mut routes, _) = first();
        routes.set_job(&job(&[moved(NODE_TWO, &[NODE_ONE])]));
        if withdrawn {
            routes.withdraw(&name(), 0);
        } else {
            // It comes here, and what is taken then is not ended by the move before.
            routes.add_local(here(0));
            routes.set_job(&job(&[moved(SELF, &[NODE_ONE, NODE_TWO])]));
            assert_eq!(came(&routes), [true, true, false]);
            assert_eq!(routes.poll_timeout(), Some(Duration::ZERO));
            routes.handle_timeout(at);
            assert_eq!(routes.poll_timeout(), Some(at + TAKEN_FOR));
            routes.remove_local(&name(), 0);
            routes.handle_timeout(at);
            routes.handle_timeout(at + SENT_ON_FOR);
        }
        assert!(!routes.tables().knows_moves());
        assert!(routes.tables().peers_at(ip(NODE_ONE)).is_empty());
        assert_eq!(routes.poll_timeout(), None);
    }
}

#[test]
fn what_is_used_and_not_listed_is_named() {
    let mut routes = routes();
    routes.set_job(&job(&[
        row(0, NODE_ONE),
        row(1, NODE_TWO),
        row(2, NODE_TWO),
    ]));
    let slots: Vec<_> = routes.tables().instances().map(|(slot, _)| slot).collect();
    for slot in &slots[..2] {
        routes.tables().instance(*slot).unwrap().used.touch(50);
    }
    assert_eq!(routes.used_unlisted(50), []);
    routes.set_job(&job(&[row(0, NODE_ONE)]));
    assert_eq!(routes.used_unlisted(50), [(name(), 1)]);
    assert_eq!(routes.used_unlisted(51), []);
}
