//! Many nodes: what each is shown, and what a change sends.

use super::*;

/// Many instances in another cluster, so that none is near.
fn far(count: u32) -> Answerer {
    knowing((0..count).map(|number| entry(number, "c2", true)).collect())
}

fn listed(answerer: &Answerer, who: &str) -> BTreeSet<u32> {
    let view = answerer.view(&name(), &node(who)).unwrap();
    let numbers = view.instance_list.iter();
    numbers.map(|entry| entry.instance_number).collect()
}

/// 500 nodes with 24 of 100 rows each: 120 nodes per row, were it exact.
#[test]
fn nodes_get_different_rows_and_all_rows_evenly() {
    let answerer = far(100);
    let mut shown = BTreeMap::new();
    let mut choices = BTreeSet::new();
    for number in 0..500 {
        let rows = listed(&answerer, &format!("{number:024x}"));
        for row in &rows {
            *shown.entry(*row).or_insert(0) += 1;
        }
        choices.insert(rows);
    }
    assert_eq!(choices.len(), 500, "each has its own");
    assert_eq!(shown.len(), 100);
    assert!(
        shown.values().all(|nodes| (80..=160).contains(nodes)),
        "{shown:?}"
    );
}

/// Flows keep their instances anyway; but new flows should not move either.
#[test]
fn one_instance_less_changes_one_row() {
    let (before, after) = (far(100), far(99));
    for number in 0..50 {
        let who = format!("{number:024x}");
        let (before, after) = (listed(&before, &who), listed(&after, &who));
        let kept = before.intersection(&after).count();
        assert_eq!(kept, if before.contains(&99) { 23 } else { 24 });
    }
}

#[test]
fn one_change_reaches_a_thousand_interested_nodes_in_one_round_and_nobody_else() {
    let mut answerer = knowing(vec![entry(0, "c1", true)]);
    answerer.handle_interest_remove(
        &node("n1"),
        &InterestRemove {
            appname: JOB.to_owned(),
        },
    );
    drained(&mut answerer);
    let interested: BTreeSet<String> = (0..1000).map(|n| format!("{n:024x}")).collect();
    for who in &interested {
        answerer.handle_request(
            &node(who),
            &Key::parse(JOB).unwrap().request(Some(180)),
            s(0),
        );
    }
    assert_eq!(published(&mut answerer).len(), 1000);
    let undeployed = br#"{"appname":"a.b.c.d","instance_number":0}"#;
    let deployed = br#"{"appname":"a.b.c.d","status":"DEPLOYED","instance_number":0,"nsip":"10.18.0.66","host_port":"50103","host_ip":"192.0.2.5"}"#;
    let topics = [
        ("nodes/n9/net/service/deployed", &deployed[..], "10.18.0.66"),
        (
            "nodes/n9/net/service/undeployed",
            &undeployed[..],
            "\"instance_list\":[",
        ),
    ];
    for (topic, payload, says) in topics {
        answerer.handle_publish(topic, payload, s(1)).unwrap();
        let told: BTreeMap<String, String> = published(&mut answerer).into_iter().collect();
        let rows = |who: &String| told.get(&format!("nodes/{who}/net/tablequery/result"));
        assert!(
            interested
                .iter()
                .all(|who| rows(who).is_some_and(|text| text.contains(says)))
        );
        // Beside them only the notice that legacy nodes subscribe to.
        assert_eq!(told.len(), 1001);
    }
}
