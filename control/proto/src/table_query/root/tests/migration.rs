//! An instance that is scheduled elsewhere keeps its addresses, and its place until the new one is known.

use super::*;

fn placed(root: &Root) -> (Option<Ip>, Option<Ip>, u64) {
    let job = root
        .job(&Key::parse("demo.default.nginx.test").unwrap())
        .unwrap();
    let entry = &job.instance_list[0];
    (entry.instance_ip, entry.namespace_ip, entry.epoch)
}

/// The nodes where it ran before.
fn former(root: &Root) -> Vec<String> {
    let job = root
        .job(&Key::parse("demo.default.nginx.test").unwrap())
        .unwrap();
    let former = job.instance_list[0].former.iter();
    former.map(|former| former.host_ip.to_string()).collect()
}

fn says(cluster: &str, place: Option<([u8; 4], [u8; 4])>) -> Command {
    let Command::Status(mut told) = status(ID, 0) else {
        unreachable!("it is one")
    };
    told.cluster_id = Some(cluster.to_owned());
    let instance = &mut told.instances[0];
    instance.namespace_ip = place.map(|(ns_ip, _)| Ip::v4(ns_ip));
    instance.namespace_ip_v6 = None;
    if let Some((_, host)) = place {
        instance.host_ip = Some(Ip::v4(host));
    }
    Command::Status(told)
}

#[test]
fn an_instance_moves_to_another_cluster_make_before_break() {
    let mut root = root();
    root.apply(&deploy(ID, descriptor("nginx")), 1000);
    root.apply(&instance(ID, 0, "c1", Some("r1")), 1000);
    let old = ([10, 18, 0, 2], [192, 0, 2, 9]);
    let new = ([10, 18, 7, 2], [192, 0, 2, 77]);
    said(&mut root, says("c1", Some(old)), 200, "Status updated");
    let before = placed(&root);

    let mut moved = instance(ID, 0, "c2", Some("r2"));
    let applied = root.apply(&moved, 1000);
    assert_eq!(applied.reply.status, 409, "not by mistake");
    if let Command::InstanceDeploy(deploy) = &mut moved {
        deploy.migrate = true;
    }
    for _ in 0..2 {
        let applied = root.apply(&moved, 1000);
        assert_eq!(applied.reply.status, 200, "also when it is repeated");
        assert_eq!(placed(&root), before, "it still runs where it ran");
    }
    // The node that it leaves has lost its connection meanwhile and repeats where it runs.
    assert_eq!(root.apply(&says("c1", Some(old)), 1000).reply.status, 409);
    said(&mut root, says("c2", Some(new)), 200, "Status updated");
    let after = placed(&root);
    assert_eq!(
        (after.0, after.2),
        (before.0, before.2),
        "the same instance"
    );
    assert_eq!(after.1, Some(Ip::v4([10, 18, 7, 2])));
    assert_eq!(former(&root), ["192.0.2.9"]);
    for late in [Some(old), None] {
        assert_eq!(root.apply(&says("c1", late), 1000).reply.status, 409);
        assert_eq!(placed(&root), after);
    }
    // The cluster that it left had not heard of the move when its node ended it.
    let end = |cluster: &str| Command::InstanceDelete {
        id: ID.to_owned(),
        number: 0,
        epoch: Some(after.2),
        cluster_id: Some(cluster.to_owned()),
    };
    assert_eq!(root.apply(&end("c1"), 1000).reply.status, 409);
    assert_eq!(placed(&root), after);
    said(&mut root, end("c2"), 200, "Instance info cleared");
}

/// An orchestrator may also end it first; then it is nowhere until it runs again.
#[test]
fn the_end_of_the_former_place_counts_until_the_new_one_is_known() {
    let mut root = root();
    root.apply(&deploy(ID, descriptor("nginx")), 1000);
    root.apply(&instance(ID, 0, "c1", None), 1000);
    let old = ([10, 18, 0, 2], [192, 0, 2, 9]);
    root.apply(&says("c1", Some(old)), 1000);
    root.apply(&instance(ID, 0, "c2", None), 1000);
    assert!(placed(&root).1.is_some());
    said(&mut root, says("c1", None), 200, "Status updated");
    assert_eq!(placed(&root).1, None);
    assert_eq!(former(&root), ["192.0.2.9"]);
}

/// The last four, each once, and not the one where it runs.
#[test]
fn former_places_are_remembered() {
    let mut root = root();
    root.apply(&deploy(ID, descriptor("nginx")), 1000);
    root.apply(&instance(ID, 0, "c1", None), 1000);
    for last in [1, 2, 3, 1, 4, 5, 6] {
        let place = ([10, 18, last, 2], [192, 0, 2, last]);
        root.apply(&says("c1", Some(place)), 1000);
    }
    let expected = [3, 1, 4, 5].map(|last| format!("192.0.2.{last}"));
    assert_eq!(former(&root), expected);
}

/// Long after a move the address may be anybody's, and nothing is taken from there when the instance moves again.
#[test]
fn former_places_are_forgotten() {
    let mut root = root();
    root.apply(&deploy(ID, descriptor("nginx")), 1000);
    root.apply(&instance(ID, 0, "c1", None), 1000);
    let mut runs = |last: u8, now_s| {
        let place = ([10, 18, last, 2], [192, 0, 2, last]);
        root.apply(&says("c1", Some(place)), now_s);
        former(&root)
    };
    runs(1, 1000);
    assert_eq!(runs(2, 5000), ["192.0.2.1"]);
    assert_eq!(runs(3, 5599), ["192.0.2.1", "192.0.2.2"]);
    assert_eq!(runs(4, 5600), ["192.0.2.2", "192.0.2.3"]);
    assert_eq!(runs(5, 9000), ["192.0.2.4"]);
    // The clock was set back.
    assert_eq!(runs(6, 100), ["192.0.2.4", "192.0.2.5"]);
}

/// Oakestra's cluster managers do not name the node. It has its subnet wherever it is.
#[test]
fn a_node_without_a_name_is_known_by_its_instances_addresses() {
    let mut root = root();
    root.apply(&deploy(ID, descriptor("nginx")), 1000);
    root.apply(&instance(ID, 0, "c1", None), 1000);
    let mut runs = |subnet: u8, host: u8| {
        let place = ([10, 18, subnet, 2], [192, 0, 2, host]);
        root.apply(&says("c1", Some(place)), 1000);
        former(&root)
    };
    runs(0, 1);
    assert!(runs(0, 2).is_empty(), "it has another address");
    assert_eq!(runs(1, 3), ["192.0.2.2"]);
}

/// A node that roams is still the same: whoever has its old address now may send nothing on.
#[test]
fn the_former_address_of_the_same_node_is_no_former_place() {
    let mut root = root();
    root.apply(&deploy(ID, descriptor("nginx")), 1000);
    root.apply(&instance(ID, 0, "c1", None), 1000);
    let mut runs = |worker: &str, host: u8| {
        let Command::Status(mut told) = says("c1", Some(([10, 18, 0, 2], [192, 0, 2, host])))
        else {
            unreachable!("it is one")
        };
        told.instances[0].worker_id = Some(worker.to_owned());
        root.apply(&Command::Status(told), 1000);
        former(&root)
    };
    runs("w1", 1);
    assert!(runs("w1", 2).is_empty());
    assert_eq!(runs("w2", 3), ["192.0.2.2"]);
    assert_eq!(runs("w2", 4), ["192.0.2.2"]);
}

#[test]
fn what_does_not_exist_cannot_move() {
    let mut root = root();
    root.apply(&deploy(ID, descriptor("nginx")), 1000);
    for number in [-1, 3] {
        let mut moved = instance(ID, number, "c2", Some("r2"));
        if let Command::InstanceDeploy(deploy) = &mut moved {
            deploy.migrate = true;
        }
        assert_eq!(root.apply(&moved, 1000).reply.status, 404, "{number}");
    }
}

/// What the cluster is told that the instance moves to: the address that the workload has inside.
fn kept(root: &mut Root, cluster: &str) -> Value {
    let mut moved = instance(ID, 0, cluster, Some("another"));
    if let Command::InstanceDeploy(deploy) = &mut moved {
        deploy.migrate = true;
    }
    let Body::Json(instance) = root.apply(&moved, 1000).reply.body else {
        panic!("an instance")
    };
    instance["kept_ip"].clone()
}

/// Its sockets may be bound to the address that it had where it began, however often it moves.
#[test]
fn a_workload_that_moves_keeps_the_address_it_began_with() {
    let mut root = root();
    root.apply(&deploy(ID, descriptor("nginx")), 1000);
    root.apply(&instance(ID, 0, "c1", None), 1000);
    assert_eq!(kept(&mut root, "c1"), Value::Null, "it never ran");
    let place = |last| Some(([10, 18, last, 2], [192, 0, 2, last]));
    root.apply(&says("c1", place(1)), 1000);
    for (cluster, last) in [("c2", 2), ("c2", 3), ("c1", 4)] {
        for _ in 0..2 {
            assert_eq!(kept(&mut root, cluster), "10.18.1.2");
        }
        root.apply(&says(cluster, place(last)), 1000);
    }
    // Scheduled without a word of a move: another workload.
    root.apply(&instance(ID, 0, "c2", None), 1000);
    root.apply(&says("c2", place(5)), 1000);
    assert_eq!(kept(&mut root, "c1"), "10.18.5.2");
}

/// Started anew on the same node, it has another address.
#[test]
fn a_workload_that_began_anew_keeps_nothing_from_before() {
    let mut root = root();
    root.apply(&deploy(ID, descriptor("nginx")), 1000);
    root.apply(&instance(ID, 0, "c1", None), 1000);
    let mut runs = |worker: &str, last: u8| {
        let Command::Status(mut told) = says("c1", Some(([10, 18, last, 2], [192, 0, 2, 1])))
        else {
            unreachable!("it is one")
        };
        told.instances[0].worker_id = Some(worker.to_owned());
        root.apply(&Command::Status(told), 1000);
        kept(&mut root, "c1")
    };
    assert_eq!(runs("w1", 1), "10.18.1.2");
    assert_eq!(runs("w2", 2), "10.18.1.2", "it moved");
    assert_eq!(runs("w2", 2), "10.18.1.2", "said again");
    assert_eq!(runs("w2", 3), "10.18.3.2");
}

/// As it is said of each place where it runs.
#[test]
fn whether_a_gateway_answers_probes_is_said_of_its_place() {
    let mut root = root();
    root.apply(&deploy(ID, descriptor("nginx")), 1000);
    root.apply(&instance(ID, 0, "c1", None), 1000);
    let mut answers = |place, answers_probes| {
        let Command::Status(mut told) = says("c1", place) else {
            unreachable!("it is one")
        };
        told.instances[0].answers_probes = answers_probes;
        root.apply(&Command::Status(told), 1000);
        let job = root.job(&Key::parse("demo.default.nginx.test").unwrap());
        job.unwrap().instance_list[0].answers_probes
    };
    let place = |last| Some(([10, 18, last, 2], [192, 0, 2, last]));
    assert!(answers(place(1), true));
    assert!(!answers(None, true), "it runs nowhere");
    assert!(answers(place(1), true));
    assert!(!answers(place(2), false), "a legacy node");
}
