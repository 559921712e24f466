//! Public keys of nodes: from what a node says to the rows of everybody, and over restarts.

use super::leave::{say, with_a_node};
use super::*;

const FIRST: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";
const SECOND: &str = "//////////////////////////////////////////8=";

fn deployed(key: &str) -> String {
    format!(
        r#"{{"appname":"a.b.c.d","status":"DEPLOYED","instance_number":0,"nsip":"10.18.0.2","nsipv6":"fc00::2","host_port":"50103","host_ip":"192.0.2.9","epoch":1{key}}}"#
    )
}

fn with(key: &str) -> String {
    format!(r#","public_key":"{key}""#)
}

/// The keys of the rows in what was published to a node.
fn keys_told(answerer: &mut Answerer, who: &str) -> Vec<Option<String>> {
    let topic = format!("nodes/{who}/net/tablequery/result");
    let published = published(answerer).into_iter();
    let results = published
        .filter(|(to, _)| *to == topic)
        .map(|(_, payload)| {
            let result: TableQueryResult = read("result", payload.as_bytes()).unwrap();
            let key = result.instance_list[0].public_key;
            assert_eq!(key.is_some(), payload.contains("public_key"), "{payload}");
            key.map(|key| key.to_string())
        });
    results.collect()
}

#[test]
fn a_node_s_key_is_in_its_rows_and_another_one_is_told_at_once() {
    let mut answerer = with_a_node();
    for key in [FIRST, SECOND] {
        say(
            &mut answerer,
            "n2",
            "service/deployed",
            &deployed(&with(key)),
            s(2),
        );
        assert_eq!(keys_told(&mut answerer, "n1"), [Some(key.to_owned())]);
        assert_eq!(answerer.node_key(&node("n2")).unwrap().to_string(), key);
    }
    let mut again = restarted(&mut answerer, s(3));
    assert_eq!(again.node_key(&node("n2")).unwrap().to_string(), SECOND);
    ask(&mut again, "n1", JOB, Some(180));
    assert_eq!(keys_told(&mut again, "n1"), [Some(SECOND.to_owned())]);
    let undeployed = r#"{"appname":"a.b.c.d","instance_number":0,"epoch":1}"#;
    say(&mut again, "n2", "service/undeployed", undeployed, s(4));
    assert_eq!(keys_told(&mut again, "n1"), [None], "it runs nowhere");
}

/// Such a node goes on being called by the plain format, and its messages and rows are what they were.
#[test]
fn a_node_without_a_key_has_none_in_its_rows() {
    let mut answerer = with_a_node();
    assert_eq!(answerer.node_key(&node("n2")), None);
    ask(&mut answerer, "n1", JOB, Some(180));
    assert_eq!(keys_told(&mut answerer, "n1"), [None]);
    say(
        &mut answerer,
        "n2",
        "service/deployed",
        &deployed(&with(FIRST)),
        s(2),
    );
    say(&mut answerer, "n2", "service/deployed", &deployed(""), s(3));
    assert_eq!(
        keys_told(&mut answerer, "n1"),
        [Some(FIRST.to_owned()), None],
        "what it says last"
    );
}

#[test]
fn the_key_of_the_registration_is_kept_until_the_node_leaves() {
    let mut answerer = with_a_node();
    let request = format!(r#"{{"METHOD":"GET"{}}}"#, with(FIRST));
    say(&mut answerer, "n2", "subnet", &request, s(2));
    let mut again = restarted(&mut answerer, s(3));
    assert_eq!(again.node_key(&node("n2")).unwrap().to_string(), FIRST);
    let subnet = r#"{"address":"10.18.0.0","addressv6":"fc00::"}"#;
    say(&mut again, "n2", "v1/leave/request", subnet, s(4));
    assert_eq!(again.node_key(&node("n2")), None);
}

/// One node's slip of the pen does not end in everybody's rows.
#[test]
fn what_is_no_key_is_refused_with_the_whole_message() {
    let mut answerer = with_a_node();
    let payload = deployed(&with("c2hvcnQ="));
    let topic = "nodes/n2/net/service/deployed";
    let error = answerer
        .handle_publish(topic, payload.as_bytes(), s(2))
        .unwrap_err();
    assert!(error.to_string().contains("is no public key"), "{error}");
    assert!(drained(&mut answerer).is_empty());
}

#[test]
fn the_root_is_told_the_key_with_the_place() {
    let mut answerer = with_a_node();
    say(
        &mut answerer,
        "n2",
        "service/deployed",
        &deployed(&with(FIRST)),
        s(2),
    );
    // The report before is on its way, and this one follows it; who starts anew tells the last one.
    let mut again = restarted(&mut answerer, s(3));
    again.handle_timeout(s(3));
    let told = root_requests(&mut again);
    let bodies = told.iter().filter_map(|request| request.body.as_deref());
    let reports = bodies.filter_map(|body| read::<NetDeployStatus>("status", body).ok());
    let keys: Vec<_> = reports
        .map(|report| report.instances[0].public_key)
        .collect();
    assert_eq!(keys, [Some(FIRST.parse().unwrap())]);
}

#[test]
fn a_place_has_its_node_s_key_and_remembers_that_of_the_former_one() {
    let mut place = InstanceEntry::default();
    let status = |key: Option<&str>| InstanceStatus {
        instance_number: 0,
        namespace_ip: Some(ip("10.18.0.2")),
        namespace_ip_v6: None,
        host_ip: Some(ip("192.0.2.9")),
        host_port: 50103,
        worker_id: Some("n2".to_owned()),
        epoch: 1,
        answers_probes: false,
        public_key: key.map(|key| key.parse().unwrap()),
    };
    place.place(&status(Some(FIRST)));
    assert_eq!(place.public_key, Some(FIRST.parse().unwrap()));
    let moved = InstanceStatus {
        namespace_ip: Some(ip("10.18.1.2")),
        host_ip: Some(ip("192.0.2.10")),
        worker_id: Some("n3".to_owned()),
        ..status(Some(SECOND))
    };
    place.place(&moved);
    assert_eq!(place.public_key, Some(SECOND.parse().unwrap()));
    let former = place.former[0].public_key;
    assert_eq!(former, Some(FIRST.parse().unwrap()), "where it was");
}
