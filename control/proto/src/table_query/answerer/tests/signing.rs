//! Every row that a node is told is signed, as it is now, and by the same key after a restart.

use super::leave::{say, with_a_node};
use super::*;
use crate::signature::{Signed, Signer};

fn signed(instances: Vec<InstanceEntry>) -> (Answerer, Signer) {
    let signer = Signer::from_seed(&[1; 32]);
    let mut answerer = answerer();
    answerer.settings.signer = Some(signer.clone());
    ask(&mut answerer, "n1", JOB, Some(180));
    let requests = root_requests(&mut answerer);
    answerer.handle_root_reply(requests[0].id, Some((200, &job(instances))), s(0));
    drained(&mut answerer);
    (answerer, signer)
}

/// The rows that were published, each verified.
fn verified(answerer: &mut Answerer, signer: &Signer) -> Vec<InstanceEntry> {
    let published = published(answerer).into_iter();
    let results = published.filter(|(topic, _)| topic.ends_with("tablequery/result"));
    let rows = results.flat_map(|(_, payload)| {
        let result: TableQueryResult = read("result", payload.as_bytes()).unwrap();
        result.instance_list
    });
    let rows: Vec<InstanceEntry> = rows.collect();
    for row in &rows {
        let signature = row.signature.expect("signed");
        let signed = Signed::of(&name(), row);
        assert!(signer.public().verifies(&signed, &signature), "{row:?}");
    }
    rows
}

#[test]
fn every_node_gets_signed_rows_whatever_it_is_shown() {
    let all = (0..3).map(|number| entry(number, "c1", true)).collect();
    let (mut answerer, signer) = signed(all);
    answerer.settings.instances_max = 2;
    for who in ["n1", "n2"] {
        ask(&mut answerer, who, JOB, Some(180));
        assert_eq!(verified(&mut answerer, &signer).len(), 2, "some of many");
    }
    answerer.settings.instances_max = 24;
    for key in [JOB, "10.30.50.2", "10.30.0.2"] {
        ask(&mut answerer, "n1", key, Some(180));
        assert_eq!(verified(&mut answerer, &signer).len(), 3);
    }
    ask(&mut answerer, "n3", JOB, None);
    assert_eq!(
        verified(&mut answerer, &signer).len(),
        3,
        "legacy nodes, too"
    );
}

#[test]
fn a_change_is_signed_and_what_did_not_change_keeps_its_signature() {
    let (mut answerer, signer) = signed(vec![entry(0, "c1", true), entry(1, "c1", false)]);
    ask(&mut answerer, "n1", JOB, Some(180));
    let before = verified(&mut answerer, &signer);
    let deployed = r#"{"appname":"a.b.c.d","status":"DEPLOYED","instance_number":1,"nsip":"10.18.0.9","nsipv6":"fc00::9","host_port":"50103","host_ip":"192.0.2.9","epoch":2}"#;
    say(&mut answerer, "n2", "service/deployed", deployed, s(1));
    let after = verified(&mut answerer, &signer);
    assert_eq!(after[0].signature, before[0].signature);
    assert_ne!(after[1].signature, before[1].signature);
    let moved = deployed.replace("192.0.2.9", "192.0.2.8");
    say(&mut answerer, "n2", "service/address-changed", &moved, s(2));
    assert_ne!(
        verified(&mut answerer, &signer)[1].signature,
        after[1].signature
    );
}

#[test]
fn without_a_key_nothing_is_signed() {
    let mut answerer = with_a_node();
    ask(&mut answerer, "n1", JOB, Some(180));
    let told = published(&mut answerer);
    assert!(!told.is_empty());
    assert!(
        told.iter()
            .all(|(_, payload)| !payload.contains("signature"))
    );
}
