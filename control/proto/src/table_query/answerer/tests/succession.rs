//! A node that says that something else runs at an NsIP by now.

use super::*;

fn deployed(answerer: &mut Answerer, who: &str, job: &str, number: u32, last: u8) {
    let deployed = Deployed {
        appname: job.to_owned(),
        status: "DEPLOYED".to_owned(),
        instance_number: number,
        nsip: Some(Ip::v4([10, 18, 0, last])),
        nsipv6: Some(ip("fc00::").offset(last.into())),
        host_port: 50103,
        host_ip: Some(ip("192.0.2.9")),
        epoch: u64::from(number) + 1,
        public_key: None,
        answers_probes: false,
    };
    answerer
        .handle_deployed(&node(who), &deployed, s(1))
        .unwrap();
}

/// The numbers of the instances that run, as nodes are told.
fn running(answerer: &Answerer) -> Vec<u32> {
    let shown = answerer.view(&name(), &node("n1")).unwrap();
    let rows = shown.instance_list.iter();
    rows.filter(|row| row.is_placed())
        .map(|row| row.instance_number)
        .collect()
}

#[test]
fn an_instance_ends_when_another_runs_at_its_address() {
    let scheduled = (0..3).map(|number| entry(number, "c1", false)).collect();
    let mut answerer = knowing(scheduled);
    deployed(&mut answerer, "n2", JOB, 0, 2);
    deployed(&mut answerer, "n2", JOB, 1, 3);
    // Repeated, as after every new connection.
    deployed(&mut answerer, "n2", JOB, 0, 2);
    assert_eq!(running(&answerer), [0, 1]);
    drained(&mut answerer);
    deployed(&mut answerer, "n2", JOB, 2, 2);
    assert_eq!(running(&answerer), [1, 2]);
    let told = drained(&mut answerer);
    let pushed = |transmit: &Transmit| matches!(transmit, Transmit::Publish { topic, .. } if topic == "nodes/n1/net/tablequery/result");
    assert!(told.iter().any(pushed), "{told:?}");
}

#[test]
fn what_another_node_says_ends_nothing() {
    let mut answerer = knowing((0..2).map(|number| entry(number, "c1", false)).collect());
    deployed(&mut answerer, "n2", JOB, 0, 2);
    deployed(&mut answerer, "n3", JOB, 1, 2);
    assert_eq!(running(&answerer), [0, 1]);
}

/// The root has not told us the former service yet: it is never told of an instance that ended.
#[test]
fn an_instance_of_an_unknown_service_is_not_reported_when_another_runs_at_its_address() {
    let mut answerer = knowing(vec![entry(0, "c1", false)]);
    deployed(&mut answerer, "n2", "x.b.c.d", 0, 2);
    assert_eq!(answerer.reports.len(), 1);
    deployed(&mut answerer, "n2", JOB, 0, 2);
    let reported: Vec<_> = answerer.reports.keys().map(|key| &key.0).collect();
    assert_eq!(reported, [&name()]);
}
