//! Subnets that come back: who may return them, how long they rest, and what late and repeated words do.

use super::*;
use crate::alloc::Rests;

/// Two subnets of nodes.
fn small() -> Root {
    let plan = AddressPlan {
        nodes: Dual::both(
            "10.18.0.0/25".parse().unwrap(),
            "fc00::/119".parse().unwrap(),
        ),
        ..AddressPlan::oakestra()
    };
    let mut small = Root::new(&plan);
    small.clusters = root().clusters;
    small.set_rests(Rests {
        subnets_s: 200,
        ..Rests::default()
    });
    small
}

fn take(root: &mut Root, address: &str, now_s: u64) -> (u16, String) {
    let command = Command::Subnet {
        caller: caller(address),
        request_id: Some(format!("{address}-{now_s}")),
    };
    text(root.apply(&command, now_s))
}

fn give_back(root: &mut Root, address: &str, grant_id: Option<u64>, now_s: u64) -> (u16, String) {
    let command = Command::SubnetReturn {
        network: Ip::v4([10, 18, 0, 0]),
        grant_id,
        caller: caller(address),
    };
    text(root.apply(&command, now_s))
}

fn text(applied: Applied) -> (u16, String) {
    let text = String::from_utf8(applied.reply.bytes()).unwrap();
    (applied.reply.status, text)
}

#[test]
fn a_returned_subnet_rests_and_is_given_again_under_another_number() {
    let mut root = small();
    assert!(
        take(&mut root, "192.0.2.1", 1000)
            .1
            .contains("\"grant_id\":1")
    );
    assert_eq!(give_back(&mut root, "192.0.2.1", Some(1), 1000).0, 200);
    let resting = root.subnets().next().unwrap();
    assert_eq!(
        (resting.cluster, resting.rests_until_s),
        (Some("c1"), Some(1200))
    );
    assert!(
        take(&mut root, "192.0.2.2", 1100).1.contains("10.18.0.64"),
        "a fresh one"
    );
    let (status, why) = take(&mut root, "192.0.2.2", 1150);
    assert_eq!(status, 500);
    assert!(
        why.contains("1 rest after use; the next is free in 50 s"),
        "{why}"
    );
    let again = take(&mut root, "192.0.2.2", 1200).1;
    assert!(
        again.contains("10.18.0.0") && again.contains("\"grant_id\":3"),
        "{again}"
    );
    // The first cluster did not hear the answer, and repeats itself for days.
    assert_eq!(give_back(&mut root, "192.0.2.1", Some(1), 90_000).0, 200);
    assert!(root.subnets().all(|subnet| subnet.rests_until_s.is_none()));
}

#[test]
fn only_who_has_a_subnet_can_return_it_and_twice_is_as_once() {
    let mut root = small();
    assert_eq!(give_back(&mut root, "192.0.2.1", None, 0).0, 404);
    take(&mut root, "192.0.2.1", 0);
    let (status, why) = give_back(&mut root, "192.0.2.2", None, 0);
    assert_eq!(
        (status, why.contains("given to cluster c1")),
        (409, true),
        "{why}"
    );
    assert_eq!(give_back(&mut root, "192.0.2.1", None, 10).0, 200);
    let command = Command::SubnetReturn {
        network: Ip::v4([10, 18, 0, 0]),
        grant_id: Some(1),
        caller: caller("192.0.2.1"),
    };
    assert!(
        root.apply(&command, 100).changes.is_empty(),
        "its rest does not begin anew"
    );
}

#[test]
fn a_repeated_request_does_not_get_a_subnet_that_was_returned() {
    let mut root = small();
    let command = Command::Subnet {
        caller: caller("192.0.2.1"),
        request_id: Some("c1-1".to_owned()),
    };
    root.apply(&command, 0);
    give_back(&mut root, "192.0.2.1", Some(1), 0);
    assert_eq!(root.apply(&command, 0).reply.status, 409);
}
