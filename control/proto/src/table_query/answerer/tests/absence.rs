//! The end of an absence is told to the nodes that believe in it.

use super::*;

/// `n1` and a legacy node heard that nothing has this key.
fn absent(key: &str) -> Answerer {
    let mut answerer = answerer();
    ask(&mut answerer, "n1", key, Some(180));
    ask(&mut answerer, "n2", key, None);
    let requests = root_requests(&mut answerer);
    assert_eq!(requests.len(), 1);
    answerer.handle_root_reply(requests[0].id, Some((200, b"{}")), s(0));
    assert_eq!(published(&mut answerer).len(), 2);
    answerer
}

fn created() -> JobUpdate {
    JobUpdate {
        job_name: name(),
        instance_number: -1,
        kind: UpdateKind::Deployment,
    }
}

fn results(answerer: &mut Answerer) -> (Vec<(String, String)>, Vec<String>) {
    let (mut told, mut asked) = (Vec::new(), Vec::new());
    for transmit in drained(answerer) {
        match transmit {
            Transmit::Publish { topic, payload } if topic.ends_with("tablequery/result") => {
                let result: TableQueryResult = read("rows", &payload).unwrap();
                told.push((topic, result.query_key));
            }
            Transmit::Publish { .. } => {}
            Transmit::Root(request) => asked.push(request.path),
        }
    }
    (told, asked)
}

#[test]
fn a_notice_of_the_root_ends_the_absence_of_names_and_addresses() {
    for key in [JOB, "10.30.50.2", "10.30.0.1"] {
        let mut answerer = absent(key);
        answerer.handle_job_update(&created(), s(1));
        let [request] = root_requests(&mut answerer).try_into().unwrap();
        let body = job(vec![entry(0, "c2", true)]);
        answerer.handle_root_reply(request.id, Some((200, &body)), s(1));
        let (told, asked) = results(&mut answerer);
        let n1 = "nodes/n1/net/tablequery/result".to_owned();
        assert_eq!(told, [(n1, key.to_owned())], "{key}");
        // Nobody is interested until the node asks again.
        assert_eq!(asked, ["/api/net/interest/a.b.c.d?cluster_id=c1"], "{key}");
        assert_eq!(answerer.jobs().count(), 0, "{key}");
    }
}

/// The root made the service right after it had said that nothing has the address, and its notice came first.
#[test]
fn a_notice_that_overtakes_the_absence_has_the_address_asked_again() {
    let mut answerer = answerer();
    ask(&mut answerer, "n1", "10.30.50.2", Some(180));
    let [absence] = root_requests(&mut answerer).try_into().unwrap();
    answerer.handle_job_update(&created(), s(1));
    let [by_name] = root_requests(&mut answerer).try_into().unwrap();
    assert!(by_name.path.contains("a_b_c_d"), "{by_name:?}");
    answerer.handle_root_reply(absence.id, Some((200, b"{}")), s(1));
    let [again] = root_requests(&mut answerer).try_into().unwrap();
    assert!(again.path.contains("10_30_50_2"), "{again:?}");
    let body = job(vec![entry(0, "c2", true)]);
    answerer.handle_root_reply(again.id, Some((200, &body)), s(1));
    let (told, _) = results(&mut answerer);
    let n1 = "nodes/n1/net/tablequery/result".to_owned();
    assert_eq!(told, [(n1, "10.30.50.2".to_owned())]);
}

/// It was no notice of something new, or came much later.
#[test]
fn where_nobody_believes_in_an_absence_the_root_is_told_that_nobody_is_interested() {
    for mut answerer in [answerer(), absent(JOB)] {
        answerer.handle_job_update(&created(), s(100));
        let (told, asked) = results(&mut answerer);
        assert_eq!(told, []);
        assert_eq!(asked, ["/api/net/interest/a.b.c.d?cluster_id=c1"]);
    }
}

/// Another node asks by another key of the service.
#[test]
fn a_job_that_is_learnt_ends_the_absence_of_all_its_keys() {
    let mut answerer = absent("10.30.0.1");
    ask(&mut answerer, "n3", JOB, Some(180));
    let [request] = root_requests(&mut answerer).try_into().unwrap();
    let body = job(vec![entry(0, "c2", true)]);
    answerer.handle_root_reply(request.id, Some((200, &body)), s(0));
    let (mut told, _) = results(&mut answerer);
    told.sort();
    let result = |node: &str, key: &str| {
        let topic = format!("nodes/{node}/net/tablequery/result");
        (topic, key.to_owned())
    };
    assert_eq!(told, [result("n1", "10.30.0.1"), result("n3", JOB)]);
}
