//! Nodes that are asked for by their public key: from rows, from the root, and by whom.

use super::leave::{say, with_a_node};
use super::*;
use crate::message::NodeEntry;
use crate::signature::{Signed, Signer};

const PATH: &str =
    "/api/net/node?cluster_id=c1&public_key=BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc%3D";

fn key(of: u8) -> NodeKey {
    NodeKey::from_bytes([of; 32])
}

fn asks(answerer: &mut Answerer, who: &str, of: u8) {
    ask(answerer, who, &key(of).to_string(), None);
}

/// Who was told what about nodes since the last look; `Err` tells absences (false) from what cannot be said (true).
fn told(answerer: &mut Answerer) -> Vec<(String, Result<NodeEntry, bool>)> {
    let results = published(answerer).into_iter();
    let results = results.filter_map(|(topic, payload)| {
        let who = topic.strip_prefix("nodes/")?;
        let who = who.strip_suffix("/net/tablequery/result")?;
        let result: TableQueryResult = read("result", payload.as_bytes()).unwrap();
        matches!(Key::parse(&result.query_key), Some(Key::Node(_)))
            .then(|| (who.to_owned(), result.node.ok_or(result.unavailable)))
    });
    results.collect()
}

fn somewhere(of: u8, who: Option<&str>, last: u8) -> NodeEntry {
    NodeEntry {
        public_key: key(of),
        worker_id: who.map(str::to_owned),
        host_ip: [192, 0, 2, last].into(),
        host_port: 50103,
        signature: None,
    }
}

fn runs(answerer: &mut Answerer, of: u8, last: u8) {
    let deployed = format!(
        r#"{{"appname":"a.b.c.d","status":"DEPLOYED","instance_number":0,"nsip":"10.18.0.2","nsipv6":"fc00::2","host_port":"50103","host_ip":"192.0.2.{last}","epoch":1,"public_key":"{}"}}"#,
        key(of)
    );
    say(answerer, "n2", "service/deployed", &deployed, s(2));
}

/// The cluster's own nodes, wherever they are by now, by their present keys, and after a restart.
#[test]
fn a_node_of_the_cluster_is_found_by_what_it_said_last() {
    let mut answerer = with_a_node();
    runs(&mut answerer, 7, 9);
    drained(&mut answerer);
    asks(&mut answerer, "n9", 7);
    let found = |last| vec![("n9".to_owned(), Ok(somewhere(7, Some("n2"), last)))];
    assert_eq!(told(&mut answerer), found(9));
    assert_eq!(answerer.interested(&name()).count(), 2, "no interest of n9");
    runs(&mut answerer, 7, 8);
    let mut answerer = restarted(&mut answerer, s(3));
    drained(&mut answerer);
    asks(&mut answerer, "n9", 7);
    assert_eq!(told(&mut answerer), found(8));
    runs(&mut answerer, 6, 8);
    drained(&mut answerer);
    asks(&mut answerer, "n9", 7);
    let [request] = root_requests(&mut answerer).try_into().unwrap();
    assert_eq!(request.path, PATH, "the key is not its own any more");
}

#[test]
fn the_root_is_asked_once_for_all_who_wait() {
    let mut answerer = answerer();
    answerer.settings.signer = Some(Signer::from_seed(&[1; 32]));
    asks(&mut answerer, "n1", 7);
    asks(&mut answerer, "n1", 7);
    asks(&mut answerer, "n3", 7);
    let [request] = root_requests(&mut answerer).try_into().unwrap();
    assert_eq!(request.path, PATH);
    let body = write(&somewhere(7, Some("n2"), 9));
    answerer.handle_root_reply(request.id, Some((200, &body)), s(0));
    let signer = answerer.signing_key().unwrap();
    let told = told(&mut answerer);
    for (who, answer) in &told {
        let mut answer = answer.clone().unwrap();
        let bytes = Signed::of_node(&answer);
        let signature = answer.signature.take().unwrap();
        assert!(signer.verifies(&bytes, &signature), "{who}");
        assert_eq!(answer, somewhere(7, Some("n2"), 9));
    }
    assert_eq!(told.len(), 2);
    assert_eq!(answerer.jobs().count(), 0);
}

#[test]
fn a_key_that_nobody_has_is_remembered_until_a_node_has_it() {
    let mut answerer = with_a_node();
    asks(&mut answerer, "n1", 7);
    let [request] = root_requests(&mut answerer).try_into().unwrap();
    answerer.handle_root_reply(request.id, Some((200, b"{}")), s(2));
    assert_eq!(told(&mut answerer), [("n1".to_owned(), Err(false))]);
    asks(&mut answerer, "n1", 7);
    let transmits = drained(&mut answerer);
    assert!(
        matches!(transmits[..], [Transmit::Publish { .. }]),
        "{transmits:?}"
    );
    runs(&mut answerer, 7, 9);
    let found = ("n1".to_owned(), Ok(somewhere(7, Some("n2"), 9)));
    assert_eq!(told(&mut answerer), [found]);
}

/// The root notifies of the service whose instance began on the node, which this cluster may not know.
#[test]
fn a_notice_of_the_root_ends_the_absence_also_one_that_it_overtakes() {
    let mut row = entry(0, "c2", true);
    row.public_key = Some(key(7));
    let notice = JobUpdate {
        job_name: name(),
        instance_number: 0,
        kind: UpdateKind::Deployment,
    };
    let found = ("n1".to_owned(), Ok(somewhere(7, None, 9)));
    let mut known = answerer();
    asks(&mut known, "n1", 7);
    let [request] = root_requests(&mut known).try_into().unwrap();
    known.handle_root_reply(request.id, Some((200, b"{}")), s(0));
    drained(&mut known);
    known.handle_job_update(&notice, s(1));
    let [request] = root_requests(&mut known).try_into().unwrap();
    let body = job(vec![row]);
    known.handle_root_reply(request.id, Some((200, &body)), s(1));
    assert_eq!(told(&mut known), std::slice::from_ref(&found));
    assert_eq!(known.jobs().count(), 0, "nobody is interested in the job");

    let mut overtaken = answerer();
    asks(&mut overtaken, "n1", 7);
    let [absence] = root_requests(&mut overtaken).try_into().unwrap();
    overtaken.handle_job_update(&notice, s(1));
    drained(&mut overtaken);
    overtaken.handle_root_reply(absence.id, Some((200, b"{}")), s(1));
    let [again] = root_requests(&mut overtaken).try_into().unwrap();
    assert_eq!(again.path, PATH);
    let body = write(&somewhere(7, None, 9));
    overtaken.handle_root_reply(again.id, Some((200, &body)), s(1));
    assert_eq!(told(&mut overtaken), [found]);
}

/// Oakestra's root has no such path; ours may be away, or not know this cluster yet.
#[test]
fn what_the_root_cannot_say_now_is_not_said_to_be_nobodys() {
    for reply in [
        None,
        Some((404, &b"Not Found"[..])),
        Some((400, b"")),
        Some((503, b"")),
    ] {
        let mut answerer = answerer();
        asks(&mut answerer, "n1", 7);
        let [request] = root_requests(&mut answerer).try_into().unwrap();
        answerer.handle_root_reply(request.id, reply, s(0));
        let unavailable = [("n1".to_owned(), Err(true))];
        assert_eq!(told(&mut answerer), unavailable, "{reply:?}");
        // Who asks again is asked for again, or told the same at once while the root is known to be away.
        asks(&mut answerer, "n1", 7);
        let asked_again = match reply {
            None => told(&mut answerer) == unavailable,
            Some(_) => root_requests(&mut answerer)
                .iter()
                .any(|it| it.path == PATH),
        };
        assert!(asked_again, "{reply:?}");
    }
}

/// A reply that is lost altogether: whoever waited may ask anew.
#[test]
fn a_question_without_any_reply_ends() {
    let mut answerer = answerer();
    asks(&mut answerer, "n1", 7);
    drained(&mut answerer);
    answerer.handle_timeout(REQUEST_WAIT);
    assert_eq!(told(&mut answerer), [("n1".to_owned(), Err(true))]);
}

/// Any number of invented keys leaves room for what packets ask for.
#[test]
fn invented_keys_are_bounded_apart() {
    let mut answerer = answerer();
    answerer.settings.keys_max = 4;
    ask(&mut answerer, "n1", "10.30.0.9", Some(180));
    let [request] = root_requests(&mut answerer).try_into().unwrap();
    answerer.handle_root_reply(request.id, Some((200, b"{}")), s(0));
    drained(&mut answerer);
    for number in 0..300_u16 {
        let [high, low] = number.to_be_bytes();
        let mut bytes = [0; 32];
        (bytes[0], bytes[1]) = (high, low);
        let text = NodeKey::from_bytes(bytes).to_string();
        ask(&mut answerer, "n1", &text, None);
    }
    let requests = root_requests(&mut answerer);
    assert_eq!(requests.len(), 256);
    for request in requests {
        answerer.handle_root_reply(request.id, Some((200, b"{}")), s(0));
    }
    drained(&mut answerer);
    ask(&mut answerer, "n1", "10.30.0.9", Some(180));
    assert_eq!(
        root_requests(&mut answerer),
        [],
        "the absence is remembered"
    );
}

/// Another's public key is no secret. Who claims it does not hide its owner.
#[test]
fn a_node_of_ours_that_says_a_key_itself_comes_before_rows_that_name_it() {
    let mut answerer = with_a_node();
    runs(&mut answerer, 7, 9);
    let mut other = entry(1, "c2", true);
    (other.public_key, other.host_ip) = (Some(key(7)), Some(ip("198.51.100.1")));
    other.worker_id = Some("n8".to_owned());
    let notice = JobUpdate {
        job_name: name(),
        instance_number: -1,
        kind: UpdateKind::Deployment,
    };
    answerer.handle_job_update(&notice, s(3));
    let requests = root_requests(&mut answerer);
    let request = requests.iter().find(|it| it.path.contains("/instances"));
    let body = job(vec![entry(0, "c1", false), other]);
    answerer.handle_root_reply(request.unwrap().id, Some((200, &body)), s(3));
    drained(&mut answerer);
    asks(&mut answerer, "n1", 7);
    let found = ("n1".to_owned(), Ok(somewhere(7, Some("n2"), 9)));
    assert_eq!(told(&mut answerer), [found]);
}
