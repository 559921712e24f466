//! Keys of nodes that count no more.

use super::*;
use crate::message::{FormerPlace, RevokedKeys};

fn key(of: u8) -> NodeKey {
    NodeKey::from_bytes([of; 32])
}

/// Instance `number` runs behind this key, at 192.0.2.`of`.
fn runs(number: u32, of: u8) -> Command {
    let Command::Status(mut said) = status(ID, number) else {
        unreachable!("it is a status")
    };
    said.instances[0].public_key = Some(key(of));
    said.instances[0].host_ip = Some(Ip::v4([192, 0, 2, of]));
    said.instances[0].worker_id = Some(format!("n{of}"));
    Command::Status(said)
}

fn with_two() -> Root {
    let mut root = root();
    root.apply(&deploy(ID, descriptor("nginx")), 1000);
    for (number, of) in [(0, 7), (1, 8)] {
        root.apply(&instance(ID, i64::from(number), "c2", None), 1000);
        said(&mut root, runs(number, of), 200, "Status updated");
    }
    root
}

fn keys_of(root: &Root) -> Vec<Option<NodeKey>> {
    let job = root.job_by_id(ID).unwrap();
    job.instance_list.iter().map(|row| row.public_key).collect()
}

fn list(root: &mut Root) -> RevokedKeys {
    let Body::Json(list) = root.apply(&Command::RevokedKeys, 1000).reply.body else {
        panic!("a list")
    };
    serde_json::from_value(list).unwrap()
}

#[test]
fn nothing_runs_behind_a_revoked_key_and_nobody_may_report_it() {
    let mut root = with_two();
    root.apply(&query("demo.default.nginx.test", "192.0.2.1"), 1000);
    let before = root.revocations();
    let applied = root.apply(&Command::KeyRevoke(key(7)), 1000);
    let reply = json!({"public_key": key(7), "withdrawn": 1});
    assert_eq!(applied.reply, Reply::json(&reply));
    let told = applied.effects.iter().map(|effect| match effect {
        Effect::Notify { cluster, .. } => cluster.as_str(),
        Effect::NoInstanceLeft { .. } => panic!("one is left"),
    });
    assert_eq!(told.collect::<Vec<_>>(), ["c1", "c2"]);
    assert_eq!(keys_of(&root), [None, Some(key(8))]);
    assert_eq!(root.node_with(&key(7)), None);
    assert!(root.revocations() > before);
    let text = format!("the public key {} is revoked", key(7));
    said(&mut root, runs(0, 7), 403, &text);
    assert_eq!(keys_of(&root), [None, Some(key(8))]);
    // With another key the node is as good as any.
    said(&mut root, runs(0, 9), 200, "Status updated");
    assert_eq!(keys_of(&root), [Some(key(9)), Some(key(8))]);
    let rows = &root.job_by_id(ID).unwrap().instance_list;
    assert_eq!(
        rows[0].former,
        Vec::<FormerPlace>::new(),
        "nor as a former node"
    );
}

#[test]
fn what_is_revoked_is_listed_and_may_be_allowed_again() {
    let mut root = with_two();
    assert_eq!(
        (list(&mut root), root.revocations()),
        (RevokedKeys::default(), 0)
    );
    for of in [7, 9, 7] {
        assert_eq!(
            root.apply(&Command::KeyRevoke(key(of)), 1000).reply.status,
            200
        );
    }
    let listed = list(&mut root);
    assert_eq!((listed.revision, root.revocations()), (2, 2), "once each");
    assert_eq!(listed.keys, [key(7), key(9)].into());
    assert_eq!(
        root.apply(&Command::KeyAllow(key(7)), 1000).reply.status,
        200
    );
    assert_eq!(
        root.apply(&Command::KeyAllow(key(7)), 1000).reply.status,
        404
    );
    assert_eq!((list(&mut root).revision, root.revoked().count()), (3, 1));
    said(&mut root, runs(0, 7), 200, "Status updated");
    assert_eq!(keys_of(&root), [Some(key(7)), Some(key(8))]);
}

/// The node that an instance moved away from sends on what comes for it: not once its key is revoked.
#[test]
fn a_former_node_is_forgotten_with_its_key() {
    let mut root = with_two();
    said(&mut root, runs(0, 9), 200, "Status updated");
    let former = |root: &Root| root.job_by_id(ID).unwrap().instance_list[0].former.len();
    assert_eq!(former(&root), 1);
    let applied = root.apply(&Command::KeyRevoke(key(7)), 1000);
    assert_eq!(
        applied.reply,
        Reply::json(&json!({"public_key": key(7), "withdrawn": 0}))
    );
    assert_eq!(former(&root), 0);
}
