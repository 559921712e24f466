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
    routes.set_encrypts(true);
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
        routes.set_encrypts(true);
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
