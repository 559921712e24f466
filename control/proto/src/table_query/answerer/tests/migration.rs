//! An instance that moves counts where it runs last, whatever the node that it left says.

use super::*;
use crate::table_query::SENT_ON_MAX;

fn deployed(answerer: &mut Answerer, who: &str, last: u8, epoch: u64) {
    let deployed = Deployed {
        appname: JOB.to_owned(),
        status: "DEPLOYED".to_owned(),
        instance_number: 0,
        nsip: Some(Ip::v4([10, 18, last, 2])),
        nsipv6: None,
        host_port: 50103,
        host_ip: Some(Ip::v4([192, 0, 2, last])),
        epoch,
        public_key: None,
        answers_probes: false,
    };
    answerer
        .handle_deployed(&node(who), &deployed, s(1))
        .unwrap();
}

fn undeployed(answerer: &mut Answerer, who: &str) {
    let undeployed = Undeployed {
        appname: JOB.to_owned(),
        instance_number: 0,
        epoch: 1,
    };
    answerer
        .handle_undeployed(&node(who), &undeployed, s(2))
        .unwrap();
}

/// Instance 0 is allotted to a node, and runs there.
fn attached(answerer: &mut Answerer) {
    let request = br#"{"request_id":"r","service":"a.b.c.d"}"#;
    answerer
        .handle_publish("nodes/n1/net/v1/instance/request", request, s(0))
        .unwrap();
    let allot = root_requests(answerer).pop().unwrap();
    let given =
        br#"{"instance_number":0,"instance_ip":"10.30.0.1","instance_ip_v6":"fdff::1","epoch":1}"#;
    answerer.handle_root_reply(allot.id, Some((200, given)), s(0));
    deployed(answerer, "n1", 1, 1);
}

/// Every question to the root is answered with this row; what else it is told, with `told`. Returns what that was.
fn root_says(answerer: &mut Answerer, row: &InstanceEntry, told: (u16, &[u8])) -> Vec<RootRequest> {
    let mut all = Vec::new();
    loop {
        let requests = root_requests(answerer);
        if requests.is_empty() {
            return all;
        }
        for request in requests {
            let body = job(vec![row.clone()]);
            let reply = match request.method {
                Method::Get => (200, body.as_slice()),
                Method::Post | Method::Delete => told,
            };
            answerer.handle_root_reply(request.id, Some(reply), s(2));
            if request.method != Method::Get {
                all.push(request);
            }
        }
    }
}

/// The address of the node where instance 0 is said to run.
fn runs_at(answerer: &mut Answerer) -> Option<Ip> {
    row(answerer).host_ip
}

fn row(answerer: &mut Answerer) -> InstanceEntry {
    drained(answerer);
    ask(answerer, "n7", JOB, Some(180));
    let (_, payload) = published(answerer).pop().unwrap();
    let rows: TableQueryResult = read("rows", payload.as_bytes()).unwrap();
    rows.instance_list[0].clone()
}

#[test]
fn a_node_that_an_instance_left_cannot_take_it_back() {
    let mut answerer = knowing(vec![entry(0, "c1", false)]);
    deployed(&mut answerer, "n1", 1, 1);
    assert_eq!(runs_at(&mut answerer), Some(ip("192.0.2.1")));
    deployed(&mut answerer, "n2", 2, 1);
    assert_eq!(runs_at(&mut answerer), Some(ip("192.0.2.2")));
    // Its connection was lost: it says again what runs there.
    deployed(&mut answerer, "n1", 1, 1);
    assert!(drained(&mut answerer).is_empty());
    let mut restored = restarted(&mut answerer, s(0));
    for answerer in [&mut answerer, &mut restored] {
        deployed(answerer, "n1", 1, 1);
        assert_eq!(runs_at(answerer), Some(ip("192.0.2.2")));
        undeployed(answerer, "n1");
        assert!(drained(answerer).is_empty(), "it runs elsewhere");
        assert_eq!(runs_at(answerer), Some(ip("192.0.2.2")));
        // It moves back.
        deployed(answerer, "n1", 1, 1);
        assert_eq!(runs_at(answerer), Some(ip("192.0.2.1")));
    }
}

/// Both nodes are told of each other before the root is.
#[test]
fn a_row_names_the_place_before() {
    let mut answerer = knowing(vec![entry(0, "c1", false)]);
    deployed(&mut answerer, "n1", 1, 1);
    let before = row(&mut answerer);
    let known = before.former.clone();
    answerer = knowing(vec![InstanceEntry { epoch: 1, ..before }]);
    deployed(&mut answerer, "n2", 2, 1);
    let former = row(&mut answerer).former;
    let (last, rest) = former.split_last().unwrap();
    assert_eq!(last.address(), (ip("192.0.2.1"), 50103));
    assert_eq!(rest, known);
}

/// Else, of a service with many instances, its own callers would stay behind, and what it sends on would not follow the
/// next move.
#[test]
fn a_node_is_shown_what_moved_away_from_it_until_it_sends_nothing_on() {
    let many = (0..100).map(|number| entry(number, "c1", number != 0));
    let mut answerer = knowing(many.collect());
    let shown = |answerer: &Answerer, who: &str| {
        let view = answerer.view(&name(), &node(who)).unwrap();
        let mut rows = view.instance_list.iter();
        rows.any(|entry| entry.instance_number == 0)
    };
    // Chance does not show it.
    let mut ids = (10..).map(|id| format!("n{id}"));
    deployed(&mut answerer, "n2", 2, 1);
    let who = ids.find(|who| !shown(&answerer, who)).unwrap();
    deployed(&mut answerer, &who, 1, 1);
    assert!(shown(&answerer, &who));
    deployed(&mut answerer, "n3", 3, 1);
    assert!(shown(&answerer, &who));
    undeployed(&mut answerer, &who);
    answerer.handle_timeout(s(2) + SENT_ON_MAX);
    assert!(shown(&answerer, &who));
    answerer.handle_timeout(s(2) + SENT_ON_MAX * 2);
    assert!(!shown(&answerer, &who));
}

/// Legacy nodes never say an end: what they deploy is new.
#[test]
fn a_deployment_without_an_epoch_is_a_new_one() {
    let mut answerer = knowing(vec![entry(0, "c1", false)]);
    for (who, last) in [("n1", 1), ("n2", 2), ("n1", 1)] {
        deployed(&mut answerer, who, last, 0);
        assert_eq!(
            runs_at(&mut answerer),
            Some(Ip::v4([192, 0, 2, last])),
            "{who}"
        );
    }
}

/// The end at the former place is not the end of an instance that was attached there and runs in another cluster.
#[test]
fn an_instance_in_another_cluster_is_not_ended_by_the_node_it_left() {
    let mut answerer = knowing(vec![]);
    attached(&mut answerer);
    // Everything that is asked is answered with where it runs by then.
    let moved = entry(0, "c2", true);
    root_says(&mut answerer, &moved, (200, b"Status updated"));
    assert_eq!(runs_at(&mut answerer), Some(ip("192.0.2.9")));
    deployed(&mut answerer, "n1", 1, 1);
    undeployed(&mut answerer, "n1");
    undeployed(&mut answerer, "n1");
    assert!(drained(&mut answerer).is_empty());
    assert_eq!(runs_at(&mut answerer), Some(ip("192.0.2.9")));
}

/// The node that it left is told to end it before this cluster has heard that it moved.
#[test]
fn an_end_that_overtakes_the_news_of_a_move_is_no_deletion() {
    let mut answerer = knowing(vec![]);
    attached(&mut answerer);
    let here = InstanceEntry {
        host_ip: Some(Ip::v4([192, 0, 2, 1])),
        ..entry(0, "c1", true)
    };
    root_says(&mut answerer, &here, (200, b"Status updated"));
    undeployed(&mut answerer, "n1");
    let moved = entry(0, "c2", true);
    let told = root_says(&mut answerer, &moved, (409, b"moved to another cluster"));
    assert!(
        matches!(told.as_slice(), [end] if end.method == Method::Delete),
        "{told:?}"
    );
    assert_eq!(runs_at(&mut answerer), Some(ip("192.0.2.9")));
}

/// Until it runs in the other cluster the root is told when it ends here: nobody else would.
#[test]
fn an_instance_that_is_given_to_another_cluster_runs_here_until_it_runs_there() {
    let mut answerer = knowing(vec![]);
    attached(&mut answerer);
    let given = InstanceEntry {
        host_ip: Some(Ip::v4([192, 0, 2, 1])),
        ..entry(0, "c2", true)
    };
    root_says(&mut answerer, &given, (200, b"Status updated"));
    assert_eq!(runs_at(&mut answerer), Some(ip("192.0.2.1")));
    undeployed(&mut answerer, "n1");
    let nowhere = entry(0, "c2", false);
    let told = root_says(&mut answerer, &nowhere, (200, b"Status updated"));
    let [end] = told.as_slice() else {
        panic!("{told:?}")
    };
    let end: NetDeployStatus = read("end", end.body.as_deref().unwrap()).unwrap();
    assert_eq!(end.instances[0].namespace_ip, None);
    assert_eq!(runs_at(&mut answerer), None);
}
