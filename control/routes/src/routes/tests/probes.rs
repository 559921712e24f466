//! Which nodes are probed, and where.

use super::*;

/// Who is probed: the nodes of services that are used, at the first address of their subnets.
#[test]
fn nodes_in_use_are_those_of_services_that_packets_go_to() {
    let mut routes = routes();
    routes.set_job(&job(&[row(0, NODE_ONE), row(1, NODE_TWO)]));
    assert_eq!(routes.nodes_in_use(100), []);
    let (slot, _) = routes.tables().instances().next().unwrap();
    let instance = routes.tables().instance(slot).unwrap();
    instance.used.touch(100);
    assert_eq!(routes.nodes_in_use(100), [], "a flow lives, but rests");
    instance.busy.touch(100);
    let gateway = Dual::both(ip("10.18.0.1"), ip("fc00::1"));
    let used = [NODE_ONE, NODE_TWO].map(|at| NodeInUse {
        address: node(at),
        gateway,
        answers_probes: false,
    });
    assert_eq!(routes.nodes_in_use(100), used);
    assert_eq!(routes.nodes_in_use(101), []);
}

/// A row of instance `number` whose node's gateway says that it answers probes.
fn answering(number: u32, node: &str) -> Row {
    let mut row = row(number, node);
    if let Some(place) = &mut row.place {
        place.answers_probes = true;
    }
    row
}

/// A gateway is asked where it says that it answers, if it can be asked at all from here; a legacy one says nothing.
#[test]
fn nodes_answer_probes_where_they_say_so() {
    let mut routes = routes();
    // On node one, instance 80 is in another subnet than instance 0, and instance 2 is on a legacy node.
    let rows = [row(0, NODE_ONE), answering(80, NODE_ONE), row(2, NODE_TWO)];
    routes.set_job(&job(&rows));
    for (_, instance) in routes.tables().instances() {
        instance.busy.touch(100);
    }
    let said = |routes: &Routes| {
        let nodes = routes.nodes_in_use(100).into_iter();
        let said = nodes.map(|node| (node.gateway.v4, node.answers_probes));
        said.collect::<Vec<_>>()
    };
    let [first, second] = [ip("10.18.0.1"), ip("10.18.0.65")].map(Some);
    assert_eq!(
        said(&routes),
        [(second, false), (first, false)],
        "this node has no address to ask from"
    );
    routes.set_gateway(Dual {
        v4: Some(ip("10.18.9.1")),
        v6: None,
    });
    assert_eq!(said(&routes), [(second, true), (first, false)]);
    routes.set_job(&job(&[row(0, NODE_ONE), row(80, NODE_ONE)]));
    assert_eq!(said(&routes)[0], (first, false), "not any more");
    routes.set_job(&job(&[answering(80, NODE_ONE)]));
    routes.withdraw(&name(), 80);
    routes.set_job(&job(&[row(80, NODE_ONE)]));
    assert_eq!(routes.doubts.probed_beside.len(), 0);
}

/// Others take the first address of a node's subnet for its gateway's. Hosts of a LAN are in subnets of their own.
#[test]
fn a_gateway_says_that_it_answers_where_it_is_looked_for() {
    let mut routes = routes();
    let beside = |routes: &Routes, v4: &str, v6: Option<&str>| {
        routes.is_probed_beside(&Dual {
            v4: Some(NsIp::new(ip(v4))),
            v6: v6.map(|v6| NsIp::new(ip(v6))),
        })
    };
    assert!(!beside(&routes, "10.18.0.10", None), "no subnet yet");
    routes.set_gateway(Dual::both(ip("10.18.0.1"), ip("fc00::1")));
    assert!(beside(&routes, "10.18.0.10", None));
    assert!(beside(&routes, "10.18.0.10", Some("fc00::a")));
    assert!(!beside(&routes, "10.50.0.11", None));
    assert!(!beside(&routes, "10.18.0.10", Some("fd50::11")));
}

/// All flows may be with the instance on this node; the next one may go to another. Calls by others are theirs to watch.
#[test]
fn nodes_are_in_use_beside_a_local_instance_that_is_called_from_here() {
    let mut routes = routes();
    routes.add_local(here(0));
    routes.set_job(&job(&[row(0, NODE_ONE), row(1, NODE_TWO)]));
    let mut instances = routes.tables().instances();
    let (_, local) = instances
        .find(|(_, row)| row.placement == Placement::Local)
        .unwrap();
    local.busy.touch(100);
    assert_eq!(routes.nodes_in_use(100), [], "somebody else may call it");
    let service = routes.tables().service(local.service).unwrap();
    service.used.touch(100);
    let [beside] = routes.nodes_in_use(100).try_into().unwrap();
    assert_eq!(beside.address, node(NODE_TWO));
}
