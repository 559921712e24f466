//! A node that starts without its state: what ran there ends, once, and its NsIPs are told.

use super::leave::{say, with_a_node};
use super::*;

const FRESH: &str = r#"{"METHOD":"GET","fresh":5}"#;
const HELD: &str = r#"{"address":"10.18.0.0","addressv6":"fc00::","held":["10.18.0.2","fc00::2"]}"#;

fn runs(answerer: &Answerer) -> bool {
    let shown = answerer.view(&name(), &node("n1")).unwrap();
    shown.instance_list.iter().any(InstanceEntry::is_placed)
}

fn subnet_results(answerer: &mut Answerer) -> Vec<String> {
    let published = published(answerer).into_iter();
    let results = published.filter(|(topic, _)| topic == "nodes/n2/net/subnetwork/result");
    results.map(|(_, payload)| payload).collect()
}

#[test]
fn what_ran_there_ends_and_a_repeated_request_ends_nothing_later() {
    let mut answerer = with_a_node();
    say(&mut answerer, "n2", "subnet", r#"{"METHOD":"GET"}"#, s(2));
    assert!(runs(&answerer), "a node that only asks has its state");
    drained(&mut answerer);
    say(&mut answerer, "n2", "subnet", FRESH, s(2));
    assert!(!runs(&answerer));
    let left: Vec<_> = answerer.interested(&name()).collect();
    assert_eq!(left, [&node("n1")]);
    assert_eq!(subnet_results(&mut answerer), [HELD]);

    let deployed = r#"{"appname":"a.b.c.d","status":"DEPLOYED","instance_number":0,"nsip":"10.18.0.3","nsipv6":"fc00::3","host_port":"50103","host_ip":"192.0.2.9","epoch":1}"#;
    say(&mut answerer, "n2", "service/deployed", deployed, s(3));
    assert!(runs(&answerer), "an orchestrator started it again");
    drained(&mut answerer);
    say(&mut answerer, "n2", "subnet", FRESH, s(4));
    assert!(runs(&answerer));
    assert_eq!(subnet_results(&mut answerer), [HELD]);

    // The manager restarts, and the request comes once more.
    let mut again = restarted(&mut answerer, s(5));
    say(&mut again, "n2", "subnet", FRESH, s(5));
    assert!(runs(&again));
    assert_eq!(subnet_results(&mut again), [HELD]);
    // Another start without anything.
    say(&mut again, "n2", "subnet", &FRESH.replace('5', "6"), s(6));
    assert!(!runs(&again));
    let held = HELD.replace("0.2", "0.3").replace("::2", "::3");
    assert_eq!(subnet_results(&mut again), [held]);
}

/// Allotted, and the gateway lost its state before it could attach it: number and addresses go back to the root.
#[test]
fn what_was_allotted_and_never_ran_is_given_back() {
    let mut answerer = with_a_node();
    let request = r#"{"request_id":"r","service":"a.b.c.d"}"#;
    say(&mut answerer, "n2", "v1/instance/request", request, s(2));
    let asked = root_requests(&mut answerer);
    let allotted = r#"{"instance_number":1,"instance_ip":"10.30.0.9","epoch":9}"#;
    answerer.handle_root_reply(asked[0].id, Some((200, allotted.as_bytes())), s(2));
    drained(&mut answerer);
    say(&mut answerer, "n2", "subnet", FRESH, s(3));
    let requests = root_requests(&mut answerer);
    let deleted = |it: &&RootRequest| it.method == Method::Delete && it.path.contains("epoch=9");
    assert_eq!(requests.iter().filter(deleted).count(), 1, "{requests:?}");
}
