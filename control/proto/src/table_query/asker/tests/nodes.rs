//! Nodes that are asked for by their public key.

use super::*;
use crate::message::{NodeEntry, NodeKey};
use crate::signature::{Signed, Signer};
use crate::table_query::NodePlace;

fn key(of: u8) -> NodeKey {
    NodeKey::from_bytes([of; 32])
}

fn signer(seed: u8) -> Signer {
    Signer::from_seed(&[seed; 32])
}

fn at(of: u8, last: u8) -> NodeEntry {
    NodeEntry {
        public_key: key(of),
        worker_id: Some("n2".to_owned()),
        host_ip: [192, 0, 2, last].into(),
        host_port: 50103,
        signature: None,
    }
}

fn answer(asked: u8, node: NodeEntry) -> TableQueryResult {
    TableQueryResult {
        query_key: key(asked).to_string(),
        node: Some(node),
        ..TableQueryResult::default()
    }
}

fn signed(signer: &Signer, mut node: NodeEntry) -> NodeEntry {
    node.signature = Some(signer.sign(&Signed::of_node(&node)));
    node
}

fn found(last: u8) -> Event {
    Event::Node(NodePlace {
        key: key(7),
        host: Ip::v4([192, 0, 2, last]),
        port: 50103,
        node: Some("n2".to_owned()),
    })
}

/// The questions that left, as JSON.
fn sent(asker: &mut Asker) -> Vec<String> {
    let transmits = std::iter::from_fn(|| asker.poll_transmit());
    let texts = transmits.map(|transmit| match &transmit {
        Transmit::Query(request) => {
            String::from_utf8(crate::message::write(request)).expect("JSON is text")
        }
        Transmit::InterestRemove(_) | Transmit::Subscribe(_) | Transmit::Unsubscribe(_) => {
            panic!("{transmit:?}")
        }
    });
    texts.collect()
}

#[test]
fn one_question_leaves_without_interest_and_its_answer_is_where_the_node_is() {
    let mut asker = asker();
    for _ in 0..3 {
        asker.handle_question(&Key::Node(key(7)), s(0));
    }
    let question = format!(r#"{{"sname":"","sip":"","node_key":"{}"}}"#, key(7));
    assert_eq!(sent(&mut asker), [question.as_str()]);
    asker.handle_result(&answer(7, at(7, 9)), s(0)).unwrap();
    assert_eq!(events(&mut asker), [found(9)]);
    assert_eq!((asker.queries(), asker.jobs().count()), (0, 0));
    asker.handle_result(&answer(7, at(7, 8)), s(0)).unwrap();
    assert_eq!(events(&mut asker), [], "nobody asked");
    asker.handle_question(&Key::Node(key(7)), s(1));
    assert_eq!(sent(&mut asker), [question], "nothing is kept");
}

#[test]
fn only_what_the_cluster_signed_about_this_node_is_believed() {
    let mut asker = asker();
    asker.handle_cluster_key(signer(1).public(), s(0));
    asker.handle_question(&Key::Node(key(7)), s(0));
    let good = signed(&signer(1), at(7, 9));
    let moved = NodeEntry {
        host_ip: [198, 51, 100, 1].into(),
        ..good.clone()
    };
    for (count, forged) in [at(7, 9), signed(&signer(2), at(7, 9)), moved]
        .into_iter()
        .enumerate()
    {
        asker.handle_result(&answer(7, forged), s(0)).unwrap();
        assert_eq!(asker.refused().forged, count as u64 + 1);
    }
    // Signed, but about another node.
    let other = signed(&signer(1), at(8, 8));
    asker.handle_result(&answer(7, other), s(0)).unwrap();
    assert_eq!((events(&mut asker), asker.queries()), (vec![], 1));
    asker.handle_result(&answer(7, good), s(0)).unwrap();
    assert_eq!(events(&mut asker), [found(9)]);
}

#[test]
fn that_nobody_has_a_key_is_believed_until_the_manager_says_who_has_it() {
    let mut asker = asker();
    let asked = Key::Node(key(7));
    asker.handle_question(&asked, s(0));
    sent(&mut asker);
    let nobody = nothing(&key(7).to_string());
    asker.handle_result(&nobody, s(0)).unwrap();
    let absent = Event::Absent { key: asked.clone() };
    assert_eq!(events(&mut asker), std::slice::from_ref(&absent));
    asker.handle_question(&asked, s(0));
    assert_eq!(
        (events(&mut asker), sent(&mut asker)),
        (vec![absent], vec![])
    );
    asker.handle_result(&answer(7, at(7, 9)), s(0)).unwrap();
    assert_eq!(events(&mut asker), [found(9)]);
    asker.handle_timeout(s(60));
    assert_eq!(events(&mut asker), [], "nothing ends any more");
}

/// Managers that know no such question say nothing to it; ours say that they cannot ask their root.
#[test]
fn without_an_answer_the_key_is_unresolved_in_time_and_the_question_ends() {
    let asked = Key::Node(key(7));
    let unresolved = [Event::Unresolved { key: asked.clone() }];
    let mut silent = asker();
    silent.handle_question(&asked, s(0));
    silent.handle_timeout(Duration::from_millis(900));
    assert_eq!(events(&mut silent), unresolved);
    let mut lost = asker();
    lost.handle_question(&asked, s(0));
    let unavailable = TableQueryResult {
        unavailable: true,
        ..nothing(&key(7).to_string())
    };
    lost.handle_result(&unavailable, s(0)).unwrap();
    assert_eq!(events(&mut lost), unresolved);
    // It is repeated for a while: an answer is believed when it comes.
    let soon = Duration::from_millis(700);
    lost.handle_timeout(soon);
    assert_eq!(sent(&mut lost).len(), 2);
    lost.handle_result(&answer(7, at(7, 9)), soon).unwrap();
    assert_eq!(events(&mut lost), [found(9)]);
    silent.handle_timeout(ANSWER_MAX);
    assert_eq!(silent.queries(), 0);
}

#[test]
fn invented_keys_do_not_take_the_place_of_packets_questions() {
    let settings = Settings {
        questions_max: 2,
        absent_keys_max: 2,
        ..Settings::default()
    };
    let mut asker = Asker::new(settings, 1);
    asker.handle_connection(true, s(0));
    let nobody = nothing("10.30.0.9");
    asker.handle_question(&Key::parse("10.30.0.9").unwrap(), s(0));
    asker.handle_result(&nobody, s(0)).unwrap();
    events(&mut asker);
    for of in 1..=3 {
        asker.handle_question(&Key::Node(key(of)), s(0));
    }
    let full = Event::Unanswered {
        key: Key::Node(key(3)),
    };
    assert_eq!(events(&mut asker), [full]);
    asker.handle_question(&Key::parse("10.30.0.1").unwrap(), s(0));
    assert_eq!((events(&mut asker), asker.queries()), (vec![], 3));
    for of in 1..=2 {
        asker
            .handle_result(&nothing(&key(of).to_string()), s(0))
            .unwrap();
    }
    events(&mut asker);
    asker.handle_question(&Key::parse("10.30.0.9").unwrap(), s(0));
    let absent = Event::Absent {
        key: Key::parse("10.30.0.9").unwrap(),
    };
    assert_eq!(events(&mut asker), [absent], "still believed");
}
