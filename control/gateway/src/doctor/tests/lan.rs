//! Faults of a machine in front of a rack: its hosts are instances, behind `eth1`.

use super::Fault;
use super::machine::{healthy, link};
use crate::config::{LinkKind, ServiceSide};
use crate::doctor::facts::Facts;
use crate::doctor::facts::host::Card;
use crate::doctor::finding::Severity::{Error, Warning};
use crate::node::devices::{LinkState, ListedAddress};
use crate::node::nic::XdpModes;

pub(super) const FAULTS: &[Fault] = &[
    ("lan-device", Error, |facts| {
        in_front_of_a_rack(facts);
        facts.network.links.retain(|link| link.name != "eth1");
    }),
    ("lan-device", Error, |facts| lan(facts).up = false),
    ("lan-device", Error, |facts| lan(facts).carrier = false),
    ("lan-device", Error, |facts| lan(facts).mac = None),
    ("lan-device", Error, |facts| lan(facts).controller = Some(4)),
    ("lan-driver", Warning, |facts| {
        in_front_of_a_rack(facts);
        facts.network.lan_xdp = Some(XdpModes {
            native: false,
            zero_copy: false,
            tx_checksum: false,
        });
    }),
    ("foreign-xdp", Warning, |facts| {
        lan(facts).xdp_program = Some(42)
    }),
    ("lan-queues", Error, |facts| {
        in_front_of_a_rack(facts);
        facts.config.fastpath.workers = 2;
    }),
    ("lan-addresses", Warning, |facts| {
        in_front_of_a_rack(facts);
        facts
            .network
            .addresses
            .retain(|row| row.device != 6 || row.address.is_v4());
    }),
    ("lan-mtu", Warning, |facts| lan(facts).mtu = 1419),
];

fn in_front_of_a_rack(facts: &mut Facts) {
    facts.config.fastpath.link = LinkKind::AfXdp;
    facts.config.fastpath.service = ServiceSide::Lan("eth1".to_owned());
    facts.network.links.push(LinkState {
        mac: Some([2, 0, 0, 0, 0, 6]),
        mtu: 1420,
        ..link(6, "eth1", "")
    });
    for (address, length) in [("10.50.0.1", 24), ("fd50::1", 64)] {
        facts.network.addresses.push(ListedAddress {
            device: 6,
            address: address.parse().unwrap(),
            length,
        });
    }
    facts.network.lan_xdp = facts.network.xdp;
    facts.lan_card = facts.card.clone().map(|card| Card {
        spread: vec![false],
        ..card
    });
}

fn lan(facts: &mut Facts) -> &mut LinkState {
    in_front_of_a_rack(facts);
    let mut links = facts.network.links.iter_mut();
    links.find(|link| link.name == "eth1").unwrap()
}

#[test]
fn a_healthy_machine_in_front_of_a_rack_has_only_oks() {
    let mut facts = healthy();
    in_front_of_a_rack(&mut facts);
    assert_eq!(super::complaints(&facts), []);
}

/// One NIC cannot be both.
#[test]
fn the_underlay_is_no_lan() {
    let mut facts = healthy();
    in_front_of_a_rack(&mut facts);
    facts.config.fastpath.service = ServiceSide::Lan("eth0".to_owned());
    let found = super::complaints(&facts);
    assert!(found.contains(&("lan-device", Error)), "{found:?}");
}
