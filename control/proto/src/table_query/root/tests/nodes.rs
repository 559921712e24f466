//! Nodes by their public key: from what clusters report.

use super::*;

fn key(of: u8) -> NodeKey {
    NodeKey::from_bytes([of; 32])
}

/// Instance 0 runs on a node with this key; `None`: nowhere.
fn runs(of: Option<u8>) -> Command {
    let Command::Status(mut said) = status(ID, 0) else {
        unreachable!("it is a status")
    };
    said.instances[0].public_key = of.map(key);
    if of.is_none() {
        said.instances[0].namespace_ip = None;
        said.instances[0].namespace_ip_v6 = None;
    }
    Command::Status(said)
}

fn asks(root: &mut Root, of: u8) -> Applied {
    let command = Command::Query {
        key: Key::Node(key(of)),
        caller: Caller {
            cluster_id: Some("c1".to_owned()),
            address: None,
        },
    };
    let applied = root.apply(&command, 1000);
    assert_eq!(
        (&applied.changes[..], &applied.effects[..]),
        (&[][..], &[][..])
    );
    applied
}

#[test]
fn a_node_is_found_by_its_present_key_while_something_runs_there() {
    let mut root = root();
    root.apply(&deploy(ID, descriptor("nginx")), 1000);
    root.apply(&instance(ID, 0, "c2", None), 1000);
    let nobody = Reply::json(&json!({}));
    for of in [7, 8] {
        root.apply(&runs(Some(of)), 1000);
        let place = json!({"public_key": key(of), "host_ip": "192.0.2.9", "host_port": 50103});
        assert_eq!(asks(&mut root, of).reply, Reply::json(&place));
        assert_eq!(asks(&mut root, of - 1).reply, nobody, "not any more");
    }
    root.apply(&runs(None), 1000);
    assert_eq!(asks(&mut root, 8).reply, nobody);
    root.apply(&runs(Some(8)), 1000);
    assert_ne!(asks(&mut root, 8).reply, nobody);
    for command in [
        Command::InstanceDelete {
            id: ID.to_owned(),
            number: -1,
            epoch: None,
            cluster_id: None,
        },
        Command::ServiceDelete { id: ID.to_owned() },
    ] {
        root.apply(&command, 1000);
        assert_eq!(asks(&mut root, 8).reply, nobody, "{command:?}");
    }
}

#[test]
fn a_cluster_that_asked_for_nobodys_key_hears_when_a_node_has_it() {
    let mut root = root();
    root.apply(&deploy(ID, descriptor("nginx")), 1000);
    root.apply(&instance(ID, 0, "c2", None), 1000);
    asks(&mut root, 7);
    let told = |applied: Applied| {
        let effects = applied.effects.into_iter();
        let told = effects.map(|effect| match effect {
            Effect::Notify { cluster, .. } => cluster,
            Effect::NoInstanceLeft { job } => panic!("{job}"),
        });
        told.collect::<Vec<_>>()
    };
    // c2 is interested, because the instance is its own.
    assert_eq!(told(root.apply(&runs(Some(6)), 1001)), ["c2"]);
    assert_eq!(told(root.apply(&runs(Some(7)), 1001)), ["c2", "c1"]);
    assert_eq!(told(root.apply(&runs(Some(6)), 1001)), ["c2"]);
    assert_eq!(told(root.apply(&runs(Some(7)), 1001)), ["c2"], "once");
}

#[test]
fn who_is_no_cluster_is_not_answered() {
    let mut root = root();
    let command = Command::Query {
        key: Key::Node(key(7)),
        caller: caller("192.0.2.77"),
    };
    assert_eq!(root.apply(&command, 1000).reply.status, 400);
}
