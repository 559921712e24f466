//! A node that leaves: its rows end, its subnet goes back, and neither a repetition nor a restart does it twice.

use super::*;
use crate::record::Change;

const SUBNET: &str = r#"{"address":"10.18.0.0","addressv6":"fc00::"}"#;

pub(super) fn say(answerer: &mut Answerer, who: &str, verb: &str, payload: &str, now: Duration) {
    let topic = format!("nodes/{who}/net/{verb}");
    answerer
        .handle_publish(&topic, payload.as_bytes(), now)
        .unwrap();
}

/// `n2` has a subnet, and an instance that was scheduled here; `n1` is interested.
pub(super) fn with_a_node() -> Answerer {
    let mut answerer = knowing(vec![entry(0, "c1", false)]);
    say(&mut answerer, "n2", "subnet", r#"{"METHOD":"GET"}"#, s(1));
    let asked = root_requests(&mut answerer);
    let grant = r#"{"subnet_addr":"10.18.0.0","subnet_addr_v6":"fc00::","grant_id":7}"#;
    answerer.handle_root_reply(asked[0].id, Some((200, grant.as_bytes())), s(1));
    let deployed = r#"{"appname":"a.b.c.d","status":"DEPLOYED","instance_number":0,"nsip":"10.18.0.2","nsipv6":"fc00::2","host_port":"50103","host_ip":"192.0.2.9","epoch":1}"#;
    say(&mut answerer, "n2", "service/deployed", deployed, s(1));
    ask(&mut answerer, "n2", JOB, Some(180));
    let placed = answerer.view(&name(), &node("n1")).unwrap();
    assert_eq!(
        placed.instance_list[0].namespace_ip,
        Some(Ip::v4([10, 18, 0, 2]))
    );
    drained(&mut answerer);
    answerer
}

fn returns(requests: &[RootRequest]) -> Vec<&RootRequest> {
    let of_subnets = |request: &&RootRequest| request.path.starts_with("/api/net/subnet/");
    requests.iter().filter(of_subnets).collect()
}

#[test]
fn its_instances_end_everybody_hears_it_and_the_subnet_goes_back() {
    let mut answerer = with_a_node();
    say(&mut answerer, "n2", "v1/leave/request", SUBNET, s(2));
    assert_eq!(answerer.nodes().count(), 0);
    let shown = answerer.view(&name(), &node("n1")).unwrap();
    assert!(!shown.instance_list.iter().any(InstanceEntry::is_placed));
    assert_eq!(
        answerer.interested(&name()).collect::<Vec<_>>(),
        [&node("n1")]
    );
    let sent = drained(&mut answerer);
    let result = Transmit::Publish {
        topic: "nodes/n2/net/v1/leave/result".to_owned(),
        payload: SUBNET.as_bytes().to_vec(),
    };
    assert!(sent.contains(&result), "{sent:?}");
    let pushed = |transmit: &Transmit| matches!(transmit, Transmit::Publish { topic, .. } if topic == "nodes/n1/net/tablequery/result");
    assert!(sent.iter().any(pushed), "{sent:?}");
    let requests: Vec<RootRequest> = sent
        .into_iter()
        .filter_map(|transmit| match transmit {
            Transmit::Root(request) => Some(request),
            Transmit::Publish { .. } => None,
        })
        .collect();
    let [back] = returns(&requests)[..] else {
        panic!("{requests:?}");
    };
    assert_eq!(back.method, Method::Delete);
    assert_eq!(
        back.path,
        "/api/net/subnet/10.18.0.0?cluster_id=c1&grant_id=7"
    );
    assert_eq!(answerer.returning().count(), 1);
    answerer.handle_root_reply(back.id, Some((200, b"returned")), s(2));
    assert_eq!(answerer.returning().count(), 0);
}

#[test]
fn a_return_is_repeated_until_the_root_takes_it_also_after_a_restart() {
    let mut answerer = with_a_node();
    let mut records: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut keep = |answerer: &mut Answerer| {
        while let Some(change) = answerer.poll_change() {
            match change {
                Change::Put { key, value } => records.insert(key, value),
                Change::Delete { key } => records.remove(&key),
            };
        }
        records.clone()
    };
    keep(&mut answerer);
    say(&mut answerer, "n2", "v1/leave/request", SUBNET, s(2));
    let first = root_requests(&mut answerer);
    answerer.handle_root_reply(returns(&first)[0].id, None, s(2));
    let records = keep(&mut answerer);
    assert!(!records.contains_key("node/n2"));
    let borrowed = records
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_slice()));
    let mut again = Answerer::restore(settings(), 2, borrowed, s(3)).unwrap();
    assert_eq!(again.returning().count(), 1);
    again.handle_timeout(s(3));
    let requests = root_requests(&mut again);
    let back = returns(&requests)[0].clone();
    let mut sent = back.id;
    // The root has a problem, does not know our token yet, or wants to hear less.
    for (status, later) in [(503, 10), (401, 30), (429, 60)] {
        again.handle_root_reply(sent, Some((status, b"")), s(later - 7));
        again.handle_timeout(s(later));
        let requests = root_requests(&mut again);
        let repeated = returns(&requests)[0].clone();
        assert_eq!(repeated.path, back.path, "{status}");
        sent = repeated.id;
    }
    // A root of Oakestra's.
    again.handle_root_reply(sent, Some((405, b"")), s(60));
    assert_eq!(again.returning().count(), 0);
    let left: Vec<Change> = std::iter::from_fn(|| again.poll_change()).collect();
    assert!(left.contains(&Change::Delete {
        key: "returning/10.18.0.0".to_owned()
    }));
}

/// The node joined again and has another subnet; a word of its earlier life arrives.
#[test]
fn a_late_or_repeated_word_is_acknowledged_and_ends_nothing() {
    let mut answerer = with_a_node();
    let other = r#"{"address":"10.18.0.64","addressv6":"fc00::100"}"#;
    say(&mut answerer, "n2", "v1/leave/request", other, s(2));
    let sent = published(&mut answerer);
    assert_eq!(
        sent,
        [("nodes/n2/net/v1/leave/result".to_owned(), other.to_owned())]
    );
    assert_eq!(answerer.nodes().count(), 1);
    for _ in 0..2 {
        say(&mut answerer, "n2", "v1/leave/request", SUBNET, s(3));
    }
    let sent = drained(&mut answerer);
    let back = |it: &&Transmit| matches!(it, Transmit::Root(request) if request.path.starts_with("/api/net/subnet/"));
    assert_eq!(sent.iter().filter(back).count(), 1, "{sent:?}");
}
