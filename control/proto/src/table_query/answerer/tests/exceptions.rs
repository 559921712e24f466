//! The four exceptions of the table query, as thesis 3.6.6 numbers them.

use super::*;

/// The interest is there, but what is known is not enough: the root is asked, and nothing is registered twice.
#[test]
fn exception_1_already_registered_interest() {
    let mut answerer = knowing(vec![entry(0, "c1", false)]);
    assert_eq!(answerer.interested(&name()).count(), 1);
    let request = Key::parse(JOB).unwrap().request(Some(180));
    answerer.handle_request(&node("n1"), &request, s(5));
    let requests = root_requests(&mut answerer);
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert_eq!(requests[0].method, Method::Get);
    assert_eq!(answerer.interested(&name()).count(), 1);
    let body = job(vec![entry(0, "c1", true)]);
    answerer.handle_root_reply(requests[0].id, Some((200, &body)), s(5));
    let told = published(&mut answerer);
    assert!(
        told.iter()
            .any(|(_, payload)| payload.contains("10.18.0.1"))
    );
}

/// Crashed and non-existent are told apart; what does not exist leaves no interest behind.
#[test]
fn exception_2_service_unavailable() {
    let mut answerer = knowing(Vec::new());
    ask(&mut answerer, "n2", JOB, Some(180));
    let [(_, unavailable)] = published(&mut answerer).try_into().unwrap();
    let rows: TableQueryResult = read("rows", unavailable.as_bytes()).unwrap();
    assert!(rows.service_ip_list.is_some() && rows.instance_list.is_empty());

    let nothing = "no.such.job.here";
    ask(&mut answerer, "n2", nothing, Some(180));
    let requests = root_requests(&mut answerer);
    answerer.handle_root_reply(requests[0].id, Some((404, b"{}")), s(0));
    let [(_, absent)] = published(&mut answerer).try_into().unwrap();
    let rows: TableQueryResult = read("rows", absent.as_bytes()).unwrap();
    assert!(rows.service_ip_list.is_none() && rows.instance_list.is_empty());
    assert_eq!(answerer.interested(&nothing.parse().unwrap()).count(), 0);
    assert_eq!(answerer.jobs().count(), 1);
}

/// What is deployed in the cluster is kept and followed although no node asked, also when interests end.
#[test]
fn exception_3_deployment_interest() {
    let mut answerer = answerer();
    answerer.handle_deployment(1, &name(), s(0));
    let requests = root_requests(&mut answerer);
    let body = job(vec![entry(0, "c1", false)]);
    answerer.handle_root_reply(requests[0].id, Some((200, &body)), s(0));
    drained(&mut answerer);
    ask(&mut answerer, "n1", JOB, Some(10));
    drained(&mut answerer);
    answerer.handle_timeout(s(11));
    assert_eq!(answerer.interested(&name()).count(), 0);
    assert_eq!(answerer.jobs().count(), 1, "not forgotten");
    let update = JobUpdate {
        job_name: name(),
        instance_number: 1,
        kind: UpdateKind::Deployment,
    };
    answerer.handle_job_update(&update, s(12));
    let asked = |request: &RootRequest| request.method == Method::Get;
    assert!(root_requests(&mut answerer).iter().any(asked), "followed");
}

/// A node gets k rows, k as configured, and hears of the others only that they live.
#[test]
fn exception_4_record_list_pruning() {
    let all: Vec<_> = (0..40).map(|number| entry(number, "c2", true)).collect();
    for k in [1, 24, 40] {
        let mut answerer = knowing(all.clone());
        answerer.settings.instances_max = k;
        let view = answerer.view(&name(), &node("n1")).unwrap();
        assert_eq!(
            (view.instance_list.len(), view.live.unwrap().len()),
            (k, 40)
        );
    }
}

/// Exception 4: what a node asks for by name is never pruned for it, as what it asks for by address.
#[test]
fn exception_4_instances_named_in_a_question_are_listed() {
    let mut answerer = knowing((0..40).map(|number| entry(number, "c1", true)).collect());
    let mut listed = |instances: BTreeSet<u32>| -> BTreeSet<u32> {
        let mut request = Key::parse(JOB).unwrap().request(Some(180));
        request.instances = instances;
        let topic = "nodes/n1/net/tablequery/request";
        answerer
            .handle_publish(topic, &write(&request), s(0))
            .unwrap();
        let rows = published(&mut answerer).pop().unwrap().1;
        let answer: TableQueryResult = serde_json::from_str(&rows).unwrap();
        let rows = answer.instance_list.iter();
        rows.map(|entry| entry.instance_number).collect()
    };
    let all: BTreeSet<u32> = (0..40).collect();
    let first = listed(BTreeSet::new());
    let left_out = *(&all - &first).first().unwrap();
    // 99 does not exist.
    let named = listed([left_out, 99].into());
    assert!(named.contains(&left_out));
    assert_eq!(named.len(), INSTANCES_MAX_DEFAULT);
    assert_eq!(listed(BTreeSet::new()), named, "from then on");
}
