//! Keys of rows, as the formats of peers.

use super::*;
use sluice_proto::message::NodeKey;

/// The formats of the peers, by node address.
fn formats(routes: &Routes) -> Vec<(Ip, TunnelFormat)> {
    let tables = routes.tables();
    let known = tables.peers().filter(|(slot, peer)| {
        let here = tables.peers_at(peer.ip);
        here.contains(slot)
    });
    let mut formats: Vec<_> = known.map(|(_, peer)| (peer.node, peer.format)).collect();
    formats.sort_by_key(|(node, _)| *node);
    formats
}

/// Keys where rows say them, plain text else.
fn encrypted_and_plain() -> Formats {
    Formats::Encrypted {
        plain: vec!["0.0.0.0/0".parse().unwrap()],
    }
}

#[test]
fn a_node_without_a_key_is_not_spoken_to_unless_plain_is_allowed_there() {
    let mut routes = routes();
    let plain = |subnet: &str| Formats::Encrypted {
        plain: vec![subnet.parse().unwrap()],
    };
    routes.set_formats(plain("198.51.100.0/24"));
    let known = job(&[row(0, NODE_ONE), row(1, NODE_TWO)]);
    routes.set_job(&known);
    assert_eq!(formats(&routes), []);
    let nodes = |routes: &Routes| -> Vec<Ip> {
        let unspoken = routes.unspoken();
        unspoken.into_iter().map(|(node, _)| node).collect()
    };
    assert_eq!(nodes(&routes), [ip(NODE_ONE), ip(NODE_TWO)]);
    let candidates = |routes: &Routes| {
        let mut services = routes.tables().services();
        services.next().unwrap().1.candidates.len()
    };
    assert_eq!(candidates(&routes), 0, "calls are refused, not sent");
    routes.set_formats(plain(&format!("{NODE_ONE}/32")));
    routes.set_job(&known);
    assert_eq!(formats(&routes), [(ip(NODE_ONE), TunnelFormat::Plain)]);
    assert_eq!(nodes(&routes), [ip(NODE_TWO)]);
    assert_eq!(candidates(&routes), 1);
    routes.withdraw(&known.job, 1);
    assert_eq!(nodes(&routes), []);
}

#[test]
fn a_guest_is_a_peer_until_its_time_is_over_or_its_instances_say_so() {
    let key = NodeKey::from_bytes([1; 32]);
    let encrypted = TunnelFormat::WireGuard { key: [1; 32] };
    let start = Duration::from_secs(100);
    let mut routes = routes();
    assert!(
        !routes.introduce(key, ip(NODE_ONE), 50103, start),
        "all in plain"
    );
    routes.set_formats(Formats::Encrypted { plain: Vec::new() });
    assert!(routes.introduce(key, ip(NODE_ONE), 50103, start));
    assert_eq!(formats(&routes), [(ip(NODE_ONE), encrypted)]);
    let over = routes.poll_timeout().unwrap();
    assert!(over > start + Duration::from_secs(10));
    assert!(!routes.handle_timeout(over - Duration::from_millis(1)));
    assert!(routes.handle_timeout(over));
    assert_eq!(formats(&routes), []);
    assert_eq!(routes.poll_timeout(), None);

    assert!(routes.introduce(key, ip(NODE_ONE), 50103, over));
    let mut row = row(0, NODE_ONE);
    row.place.as_mut().unwrap().key = Some(key);
    row.place.as_mut().unwrap().port = 50103;
    routes.set_job(&job(&[row]));
    let over = routes.poll_timeout().unwrap();
    routes.handle_timeout(over);
    assert_eq!(
        formats(&routes),
        [(ip(NODE_ONE), encrypted)],
        "it lives there"
    );
}

#[test]
fn nodes_are_spoken_to_with_the_keys_of_their_rows() {
    let encrypted = |last: u8| TunnelFormat::WireGuard { key: [last; 32] };
    let with = |mut row: Row, last: u8| {
        row.place.as_mut().unwrap().key = Some(NodeKey::from_bytes([last; 32]));
        row
    };
    let mut routes = routes();
    routes.set_job(&job(&[with(row(0, NODE_ONE), 1)]));
    assert_eq!(
        formats(&routes),
        [(ip(NODE_ONE), TunnelFormat::Plain)],
        "not at first"
    );
    routes.set_formats(encrypted_and_plain());
    routes.set_job(&job(&[with(row(0, NODE_ONE), 1), row(1, NODE_TWO)]));
    let both = |one: TunnelFormat| [(ip(NODE_ONE), one), (ip(NODE_TWO), TunnelFormat::Plain)];
    assert_eq!(formats(&routes), both(encrypted(1)));
    // Another key, and then a row from before there was one.
    routes.set_job(&job(&[with(row(0, NODE_ONE), 2), row(1, NODE_TWO)]));
    assert_eq!(formats(&routes), both(encrypted(2)));
    routes.set_job(&job(&[row(0, NODE_ONE), row(1, NODE_TWO)]));
    assert_eq!(formats(&routes), both(encrypted(2)), "it is not made plain");
    // Nobody is placed there any more: the next who is says everything anew.
    routes.set_job(&job(&[row(0, NODE_TWO), row(1, NODE_TWO)]));
    assert_eq!(formats(&routes), both(encrypted(2))[1..]);
    routes.set_job(&job(&[row(0, NODE_ONE), row(1, NODE_TWO)]));
    assert_eq!(formats(&routes), both(TunnelFormat::Plain));
}

#[test]
fn a_former_node_is_spoken_to_with_its_key_unless_it_has_a_newer_one() {
    let key = |last: u8| NodeKey::from_bytes([last; 32]);
    let encrypted = |last: u8| TunnelFormat::WireGuard { key: [last; 32] };
    for newer in [None, Some(2)] {
        let mut routes = routes();
        routes.set_formats(encrypted_and_plain());
        let mut rows = vec![came_here(row(0, SELF))];
        rows[0].former[0].public_key = Some(key(1));
        if let Some(newer) = newer {
            let mut beside = row(1, NODE_ONE);
            beside.place.as_mut().unwrap().key = Some(key(newer));
            rows.push(beside);
            routes.set_job(&job(&rows[1..]));
        }
        routes.add_local(here(0));
        routes.set_job(&job(&rows));
        let expected = encrypted(newer.unwrap_or(1));
        assert_eq!(formats(&routes), [(ip(NODE_ONE), expected)]);
    }
}
