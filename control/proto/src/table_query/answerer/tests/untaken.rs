//! What was allotted and nobody took: it goes back after ten minutes, and no sooner.

use super::leave::{say, with_a_node};
use super::*;

const WAIT: Duration = Duration::from_secs(600);
const DEPLOYED: &str = r#"{"appname":"a.b.c.d","status":"DEPLOYED","instance_number":1,"nsip":"10.18.0.3","nsipv6":"fc00::3","host_port":"50103","host_ip":"192.0.2.9","epoch":9}"#;

/// The root's word: instance 1 was allotted in `cluster`, to a node that asked for it.
fn job_with_an_allotment(cluster: &str, placed: bool) -> Vec<u8> {
    let allotted = InstanceEntry {
        epoch: 9,
        ..entry(1, cluster, placed)
    };
    let told = job(vec![entry(0, "c1", false), allotted]);
    let mut told: Job = read("job", &told).unwrap();
    told.attached = vec![1];
    write(&told)
}

/// The root answers every question about the job.
fn told(answerer: &mut Answerer, body: &[u8], now: Duration) {
    let asked = root_requests(answerer).into_iter();
    for request in asked.filter(|it| it.path.contains("/instances?")) {
        answerer.handle_root_reply(request.id, Some((200, body)), now);
    }
}

/// `n2` asked for an instance at second 2, and the root has allotted number 1.
fn allotted() -> Answerer {
    let mut answerer = with_a_node();
    let request = r#"{"request_id":"r","service":"a.b.c.d"}"#;
    say(&mut answerer, "n2", "v1/instance/request", request, s(2));
    let asked = root_requests(&mut answerer);
    let given = r#"{"instance_number":1,"instance_ip":"10.30.0.2","epoch":9}"#;
    answerer.handle_root_reply(asked[0].id, Some((200, given.as_bytes())), s(2));
    told(&mut answerer, &job_with_an_allotment("c1", false), s(2));
    answerer
}

/// Whether the instance is given back when it is `now`.
fn given_back(answerer: &mut Answerer, now: Duration) -> bool {
    drained(answerer);
    answerer.handle_timeout(now);
    let is = |it: &RootRequest| it.method == Method::Delete && it.path.contains("/1?");
    let requests = root_requests(answerer);
    let mut of_it = requests.iter().filter(|it| is(it));
    of_it.any(|it| it.path.contains("&epoch=9"))
}

#[test]
fn what_no_node_takes_goes_back() {
    let mut answerer = allotted();
    let just_before = s(2) + WAIT - Duration::from_millis(1);
    assert!(!given_back(&mut answerer, just_before));
    assert!(given_back(&mut answerer, s(2) + WAIT));
    let shown = answerer.view(&name(), &node("nobody")).unwrap();
    assert_eq!(shown.live, Some(vec![(0, 1)]), "nobody is told of it");
    // Its gateway took it, and could not say so for ten minutes: it hears that it has ended.
    say(&mut answerer, "n2", "service/deployed", DEPLOYED, s(700));
    assert_eq!(
        answerer.view(&name(), &node("nobody")).unwrap().live,
        Some(vec![(0, 1)])
    );
}

#[test]
fn what_a_node_took_stays() {
    let mut answerer = allotted();
    say(&mut answerer, "n2", "service/deployed", DEPLOYED, s(3));
    assert!(!given_back(&mut answerer, s(2) + WAIT));
    let mut again = restarted(&mut answerer, s(700));
    assert!(!given_back(&mut again, s(700) + WAIT));
}

/// The time begins anew: until the nodes have spoken nobody knows what they took.
#[test]
fn a_restart_gives_it_back_too() {
    let mut answerer = allotted();
    let mut again = restarted(&mut answerer, s(500));
    assert!(!given_back(&mut again, s(2) + WAIT));
    assert!(given_back(&mut again, s(500) + WAIT));
}

/// The manager never heard what the root allotted, or has lost its store: it learns that with the job. What is another cluster's is
/// not its own to give back, nor what runs by the root's last word, on a node that has not spoken yet.
#[test]
fn what_only_the_root_remembers_goes_back_where_it_was_allotted() {
    for (cluster, placed, goes) in [
        ("c1", false, true),
        ("c1", true, false),
        ("c2", false, false),
    ] {
        let mut answerer = knowing(vec![entry(0, "c1", false)]);
        let update = JobUpdate {
            job_name: name(),
            instance_number: -1,
            kind: UpdateKind::Deployment,
        };
        answerer.handle_job_update(&update, s(5));
        told(&mut answerer, &job_with_an_allotment(cluster, placed), s(5));
        assert_eq!(
            given_back(&mut answerer, s(5) + WAIT),
            goes,
            "{cluster} {placed}"
        );
    }
}

/// It was scheduled by an orchestrator, who says when it ends.
#[test]
fn what_was_scheduled_here_waits_for_its_orchestrator() {
    let scheduled = InstanceEntry {
        epoch: 9,
        ..entry(1, "c1", false)
    };
    let mut answerer = knowing(vec![scheduled]);
    assert!(!given_back(&mut answerer, s(5) + WAIT));
}

/// The root may have given a subnet for it: a new request would leave that one to nobody.
#[test]
fn a_request_for_a_subnet_goes_on_over_a_restart() {
    let subnets = |answerer: &mut Answerer| -> Vec<String> {
        let asked = root_requests(answerer).into_iter();
        let of_subnets = asked.filter(|it| it.path.starts_with("/api/net/subnet?"));
        of_subnets.map(|it| it.path).collect()
    };
    let get = r#"{"METHOD":"GET"}"#;
    let mut answerer = knowing(vec![entry(0, "c1", false)]);
    say(&mut answerer, "n2", "subnet", get, s(1));
    let asked = subnets(&mut answerer);
    assert_eq!(asked, ["/api/net/subnet?cluster_id=c1&request_id=c1-7-1"]);
    let mut again = restarted(&mut answerer, s(2));
    again.handle_timeout(s(2));
    let requests = root_requests(&mut again);
    let repeated = requests.iter().find(|it| it.path == asked[0]);
    let repeated = repeated.expect("the same request, though no node has asked this manager");
    let grant = r#"{"subnet_addr":"10.18.0.0","subnet_addr_v6":"fc00::","grant_id":7}"#;
    again.handle_root_reply(repeated.id, Some((200, grant.as_bytes())), s(2));
    say(&mut again, "n2", "subnet", get, s(3));
    assert_eq!(again.nodes().count(), 1, "it is the reserve now");
    say(&mut again, "n3", "subnet", get, s(3));
    assert_eq!(
        subnets(&mut again),
        ["/api/net/subnet?cluster_id=c1&request_id=c1-8-1"]
    );
    let mut last = restarted(&mut again, s(4));
    last.handle_timeout(s(4));
    assert_eq!(
        subnets(&mut last),
        ["/api/net/subnet?cluster_id=c1&request_id=c1-8-1"]
    );
}
