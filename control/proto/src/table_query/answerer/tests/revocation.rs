//! Keys of nodes that count no more: what ends, what is refused, and from where the list is.

use super::leave::with_a_node;
use super::*;
use crate::message::{FormerPlace, InstanceStatus, RevokedKeys};

const LIST: &str = "/api/net/revoked_keys?cluster_id=c1";

fn key(of: u8) -> NodeKey {
    NodeKey::from_bytes([of; 32])
}

fn deployed(of: u8) -> Vec<u8> {
    let deployed = format!(
        r#"{{"appname":"a.b.c.d","status":"DEPLOYED","instance_number":0,"nsip":"10.18.0.2","nsipv6":"fc00::2","host_port":"50103","host_ip":"192.0.2.9","epoch":1,"public_key":"{}"}}"#,
        key(of)
    );
    deployed.into_bytes()
}

fn says(answerer: &mut Answerer, of: u8) -> Result<(), PublishError> {
    answerer.handle_publish("nodes/n2/net/service/deployed", &deployed(of), s(2))
}

/// `n2` runs instance 0 behind key 7, and `n1` is told.
fn running() -> Answerer {
    let mut answerer = with_a_node();
    says(&mut answerer, 7).unwrap();
    while let Some(id) = answerer.reports.values().find_map(|report| report.sent) {
        answerer.handle_root_reply(id, Some((200, b"Status updated")), s(2));
    }
    drained(&mut answerer);
    answerer
}

fn keys_shown(answerer: &Answerer) -> Vec<Option<NodeKey>> {
    let shown = answerer.view(&name(), &node("n1")).unwrap();
    shown
        .instance_list
        .iter()
        .map(|row| row.public_key)
        .collect()
}

/// The root's list is asked for, and has these keys.
fn hears(answerer: &mut Answerer, revision: u64, keys: &[u8]) {
    answerer.handle_revocations(revision, s(3));
    let asked = root_requests(answerer);
    let request = asked.iter().find(|it| it.path == LIST).unwrap();
    let keys = keys.iter().map(|of| key(*of)).collect();
    let body = write(&RevokedKeys { revision, keys });
    answerer.handle_root_reply(request.id, Some((200, &body)), s(3));
}

/// What the root was told of the instance, and whether `n1` was pushed a row without a place.
fn withdrawn(answerer: &mut Answerer) -> (Vec<InstanceStatus>, bool) {
    let (mut reported, mut pushed) = (Vec::new(), false);
    for transmit in drained(answerer) {
        match transmit {
            Transmit::Root(request) if request.path.contains("net_deploy_status") => {
                let status: NetDeployStatus = read("status", &request.body.unwrap()).unwrap();
                reported.extend(status.instances);
            }
            Transmit::Publish { topic, payload } if topic == "nodes/n1/net/tablequery/result" => {
                let result: TableQueryResult = read("result", &payload).unwrap();
                pushed |= !result.instance_list[0].is_placed();
                assert_eq!(result.live, Some(vec![(0, 1)]), "it is not withdrawn");
            }
            Transmit::Root(_) | Transmit::Publish { .. } => {}
        }
    }
    (reported, pushed)
}

#[test]
fn its_rows_are_withdrawn_at_once_and_its_node_is_refused_and_counted() {
    let mut here = running();
    assert_eq!(here.handle_key_revoked(key(7), s(3)), 1);
    let mut by_root = running();
    hears(&mut by_root, 1, &[7]);
    for (mut answerer, is_by_root) in [(here, false), (by_root, true)] {
        assert_eq!(keys_shown(&answerer), [None]);
        let (reported, pushed) = withdrawn(&mut answerer);
        assert!(pushed, "who is interested hears it");
        assert_eq!((reported.len(), reported[0].public_key), (1, None));
        assert!(!reported[0].is_placed());
        assert_eq!(answerer.node_key(&node("n2")), None);
        assert_eq!(
            answerer.revoked().collect::<Vec<_>>(),
            [(&key(7), is_by_root)]
        );
        // Also over a restart of the manager.
        let mut again = restarted(&mut answerer, s(4));
        for (count, answerer) in [(1, &mut answerer), (1, &mut again)] {
            drained(answerer);
            let refused = says(answerer, 7).unwrap_err();
            assert!(matches!(refused, PublishError::Revoked { .. }), "{refused}");
            assert_eq!(answerer.refused_keys(), count);
            let subnet = format!(r#"{{"METHOD":"GET","public_key":"{}"}}"#, key(7));
            let topic = "nodes/n2/net/subnet";
            let refused = answerer.handle_publish(topic, subnet.as_bytes(), s(4));
            assert!(matches!(refused, Err(PublishError::Revoked { .. })));
            assert_eq!(answerer.refused_keys(), count + 1);
            assert_eq!(
                (keys_shown(answerer), drained(answerer)),
                (vec![None], vec![])
            );
        }
        // The node's next key is as good as any; its instance has lived on for it.
        says(&mut again, 8).unwrap();
        assert_eq!(keys_shown(&again), [Some(key(8))]);
    }
}

/// The root may not know yet, or have it from another cluster.
#[test]
fn what_the_root_says_of_a_revoked_key_is_not_told() {
    let mut answerer = answerer();
    answerer.handle_key_revoked(key(7), s(0));
    ask(&mut answerer, "n1", JOB, Some(180));
    let [request] = root_requests(&mut answerer).try_into().unwrap();
    let mut rows = vec![entry(0, "c2", true), entry(1, "c2", true)];
    rows[0].public_key = Some(key(7));
    rows[1].public_key = Some(key(8));
    let former = |of| FormerPlace {
        host_ip: [192, 0, 2, of].into(),
        host_port: 50103,
        left_s: 5,
        public_key: Some(key(of)),
    };
    rows[1].former = vec![former(7), former(6)];
    answerer.handle_root_reply(request.id, Some((200, &job(rows))), s(0));
    assert_eq!(keys_shown(&answerer), [None, Some(key(8))]);
    let shown = answerer.view(&name(), &node("n1")).unwrap();
    assert_eq!(shown.instance_list[1].former, [former(6)]);
    // Revoked after it was told.
    drained(&mut answerer);
    assert_eq!(answerer.handle_key_revoked(key(8), s(1)), 0, "none of ours");
    assert_eq!(keys_shown(&answerer), [None, None]);
    assert!(!published(&mut answerer).is_empty());
}

#[test]
fn the_list_is_asked_for_when_it_is_news_and_again_when_that_fails() {
    let mut answerer = running();
    answerer.handle_revocations(0, s(3));
    assert_eq!(root_requests(&mut answerer), []);
    for reply in [None, Some((503, &b""[..])), Some((200, b"{"))] {
        answerer.handle_revocations(1, s(3));
        answerer.handle_revocations(1, s(3));
        let requests = root_requests(&mut answerer);
        let asked: Vec<_> = requests.iter().filter(|it| it.path == LIST).collect();
        assert_eq!(asked.len(), 1, "{reply:?}");
        answerer.handle_root_reply(asked[0].id, reply, s(3));
        assert_eq!(keys_shown(&answerer), [Some(key(7))]);
    }
    hears(&mut answerer, 1, &[7]);
    assert_eq!(keys_shown(&answerer), [None]);
    drained(&mut answerer);
    answerer.handle_revocations(1, s(3));
    assert_eq!(drained(&mut answerer), [], "known");
    hears(&mut answerer, 2, &[]);
    says(&mut answerer, 7).unwrap();
    assert_eq!(keys_shown(&answerer), [Some(key(7))]);
}

#[test]
fn what_the_root_has_revoked_is_not_allowed_here() {
    let mut answerer = running();
    hears(&mut answerer, 1, &[7]);
    answerer.handle_key_revoked(key(7), s(3));
    assert!(answerer.handle_key_allowed(&key(7)));
    assert!(!answerer.handle_key_allowed(&key(7)));
    assert!(says(&mut answerer, 7).is_err());
    hears(&mut answerer, 2, &[]);
    says(&mut answerer, 7).unwrap();
}

/// The service is not known here yet: what its node said must not come out when it is.
#[test]
fn a_report_that_waits_is_forgotten() {
    let mut answerer = answerer();
    says(&mut answerer, 7).unwrap();
    let [request] = root_requests(&mut answerer).try_into().unwrap();
    answerer.handle_key_revoked(key(7), s(3));
    let body = job(vec![entry(0, "c1", false)]);
    ask(&mut answerer, "n1", JOB, Some(180));
    answerer.handle_root_reply(request.id, Some((200, &body)), s(3));
    assert_eq!(keys_shown(&answerer), [None]);
    let (reported, _) = withdrawn(&mut answerer);
    assert_eq!(reported, []);
}

/// What ran behind the key is its node's still: it may know its own service, and ends it by its word or by leaving.
#[test]
fn its_instances_are_its_own_until_it_ends_them() {
    let undeployed = r#"{"appname":"a.b.c.d","instance_number":0,"epoch":1}"#;
    let leave = r#"{"address":"10.18.0.0","addressv6":"fc00::"}"#;
    for (topic, payload) in [
        ("nodes/n2/net/service/undeployed", undeployed),
        ("nodes/n2/net/v1/leave/request", leave),
    ] {
        let mut answerer = running();
        answerer.handle_key_revoked(key(7), s(3));
        let mut answerer = restarted(&mut answerer, s(4));
        let is_resident = |answerer: &Answerer| {
            let at = node("n2");
            answerer.residents.known_on(&at).any(|job| *job == name())
        };
        assert!(is_resident(&answerer));
        ask(&mut answerer, "n2", JOB, Some(180));
        let told = published(&mut answerer);
        let own: TableQueryResult = read("result", told[0].1.as_bytes()).unwrap();
        assert_eq!(own.live, Some(vec![(0, 1)]), "no end of its own instance");
        answerer
            .handle_publish(topic, payload.as_bytes(), s(5))
            .unwrap();
        assert!(!is_resident(&answerer), "{topic}");
    }
}
