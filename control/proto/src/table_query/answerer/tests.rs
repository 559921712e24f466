//! How a cluster manager answers nodes and deals with its root, message by message.

mod absence;
mod forgotten;
mod keys;
mod leave;
mod lost_store;
mod migration;
mod nodes;
mod probes;
mod resync;
mod revocation;
mod signing;
mod start;
mod succession;
mod untaken;

use super::*;
use crate::message::{
    InstanceEntry, InstanceResult, IpType, JobUpdate, NetDeployStatus, ServiceIpEntry, write,
};
use sluice_wire::Dual;

const JOB: &str = "a.b.c.d";

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ip(text: &str) -> Ip {
    text.parse().unwrap()
}

fn name() -> ServiceName {
    JOB.parse().unwrap()
}

fn node(id: &str) -> NodeId {
    NodeId::new(id).unwrap()
}

fn settings() -> Settings {
    Settings {
        subnets_spare: 0,
        ..Settings::new("c1", "192.0.2.1", 10110, 7)
    }
}

/// A manager that is registered and asks for nothing.
fn answerer() -> Answerer {
    let mut answerer = Answerer::new(settings(), 1, s(0));
    answerer.handle_timeout(s(0));
    let register = root_requests(&mut answerer);
    assert_eq!(register[0].path, "/api/net/cluster");
    answerer.handle_root_reply(register[0].id, Some((200, b"cluster registered")), s(0));
    answerer
}

fn entry(number: u32, cluster: &str, placed: bool) -> InstanceEntry {
    let last = u8::try_from(number + 1).unwrap();
    InstanceEntry {
        instance_number: number,
        cluster_id: Some(cluster.to_owned()),
        instance_ip: Some(Ip::v4([10, 30, 0, last])),
        instance_ip_v6: Some(ip("fdff::").offset(last.into())),
        namespace_ip: placed.then(|| Ip::v4([10, 18, 0, last])),
        namespace_ip_v6: placed.then(|| ip("fc00::").offset(last.into())),
        host_ip: placed.then(|| ip("192.0.2.9")),
        host_port: placed.then_some(50103),
        epoch: u64::from(number) + 1,
        ..InstanceEntry::default()
    }
}

fn job(instances: Vec<InstanceEntry>) -> Vec<u8> {
    write(&Job {
        rules: Vec::new(),
        id: "64b8f0c9d2a1e3f405162738".to_owned(),
        job_name: name(),
        service_ip_list: vec![ServiceIpEntry::new(
            IpType::RoundRobin,
            Dual::both(ip("10.30.50.2"), ip("fdff:2000::1")),
        )],
        instance_list: instances,
        revision: 0,
        attached: Vec::new(),
        descriptor: serde_json::Map::new(),
    })
}

fn drained(answerer: &mut Answerer) -> Vec<Transmit> {
    std::iter::from_fn(|| answerer.poll_transmit()).collect()
}

fn root_requests(answerer: &mut Answerer) -> Vec<RootRequest> {
    drained(answerer)
        .into_iter()
        .filter_map(|transmit| match transmit {
            Transmit::Root(request) => Some(request),
            Transmit::Publish { .. } => None,
        })
        .collect()
}

/// Topics and payloads.
fn published(answerer: &mut Answerer) -> Vec<(String, String)> {
    drained(answerer)
        .into_iter()
        .filter_map(|transmit| match transmit {
            Transmit::Publish { topic, payload } => {
                Some((topic, String::from_utf8(payload).unwrap()))
            }
            Transmit::Root(_) => None,
        })
        .collect()
}

fn ask(answerer: &mut Answerer, who: &str, key: &str, interest_s: Option<u32>) {
    let request = Key::parse(key).unwrap().request(interest_s);
    let topic = format!("nodes/{who}/net/tablequery/request");
    answerer
        .handle_publish(&topic, &write(&request), s(0))
        .unwrap();
}

/// A manager that knows the job, and a Sluice node that is interested in it.
fn knowing(instances: Vec<InstanceEntry>) -> Answerer {
    let mut answerer = answerer();
    ask(&mut answerer, "n1", JOB, Some(180));
    let requests = root_requests(&mut answerer);
    answerer.handle_root_reply(requests[0].id, Some((200, &job(instances))), s(0));
    drained(&mut answerer);
    answerer
}

/// The manager is killed with all that it had to write on disk, and starts anew.
fn restarted(answerer: &mut Answerer, now: Duration) -> Answerer {
    let mut records: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    while let Some(change) = answerer.poll_change() {
        match change {
            Change::Put { key, value } => records.insert(key, value),
            Change::Delete { key } => records.remove(&key),
        };
    }
    let borrowed = records
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_slice()));
    let mut settings = settings();
    settings.incarnation += 1;
    Answerer::restore(settings, 2, borrowed, now).unwrap()
}

#[test]
fn a_legacy_node_gets_oakestras_answer_with_exactly_its_key() {
    let mut answerer = answerer();
    ask(&mut answerer, "n1", "fdff:2000::1", None);
    let requests = root_requests(&mut answerer);
    assert_eq!(
        requests[0].path,
        "/api/net/service/ip/fdff:2000::1/instances?cluster_id=c1"
    );
    let body = job(vec![entry(0, "c2", true)]);
    answerer.handle_root_reply(requests[0].id, Some((200, &body)), s(0));
    let [(topic, payload)] = published(&mut answerer).try_into().unwrap();
    assert_eq!(topic, "nodes/n1/net/tablequery/result");
    let expected = r#"{"app_name":"a.b.c.d","query_key":"fdff:2000::1","instance_list":[{"instance_number":0,"cluster_id":"c2","instance_ip":"10.30.0.1","instance_ip_v6":"fdff::1","namespace_ip":"10.18.0.1","namespace_ip_v6":"fc00::1","host_ip":"192.0.2.9","host_port":50103,"service_ip":[{"IpType":"RR","Address":"10.30.50.2","Address_v6":"fdff:2000::1"},{"IpType":"instance_ip","Address":"10.30.0.1","Address_v6":"fdff::1"}]"#;
    assert!(payload.starts_with(expected), "{payload}");
    ask(&mut answerer, "n2", "10.30.0.1", None);
    let [(_, payload)] = published(&mut answerer).try_into().unwrap();
    assert!(
        payload.contains(r#""query_key":"10.30.0.1""#),
        "from memory"
    );
    ask(&mut answerer, "n2", "a.b.c.d", None);
    assert_eq!(published(&mut answerer).len(), 1);
}

#[test]
fn what_does_not_exist_is_asked_once_for_all_nodes_and_remembered() {
    let mut answerer = answerer();
    ask(&mut answerer, "n1", "10.30.99.99", None);
    ask(&mut answerer, "n2", "10.30.99.99", None);
    ask(&mut answerer, "n2", "10.30.99.99", None);
    let requests = root_requests(&mut answerer);
    assert_eq!(requests.len(), 1);
    assert_eq!(
        requests[0].path,
        "/api/net/service/ip/10_30_99_99/instances?cluster_id=c1"
    );
    answerer.handle_root_reply(requests[0].id, Some((200, b"{}")), s(0));
    let answers = published(&mut answerer);
    assert_eq!(answers.len(), 2);
    assert_eq!(
        answers[0].1,
        r#"{"app_name":"","query_key":"10.30.99.99","instance_list":[],"live":[]}"#
    );
    ask(&mut answerer, "n3", "10.30.99.99", None);
    assert_eq!(published(&mut answerer).len(), 1, "from memory");
    answerer.handle_timeout(s(5));
    let request = Key::parse("10.30.99.99").unwrap().request(None);
    answerer.handle_request(&node("n3"), &request, s(5));
    assert!(
        root_requests(&mut answerer)
            .iter()
            .any(|request| request.path.contains("10_30_99_99")),
        "not for ever"
    );
}

#[test]
fn a_deployment_reaches_interested_nodes_before_the_root_answers() {
    let mut answerer = knowing(vec![entry(0, "c1", false)]);
    let deployed = br#"{"appname":"a.b.c.d","status":"DEPLOYED","instance_number":0,"nsip":"10.18.0.66","nsipv6":"fc00::102","host_port":"50103","host_ip":"192.0.2.5"}"#;
    answerer
        .handle_publish("nodes/n9/net/service/deployed", deployed, s(1))
        .unwrap();
    let transmits = drained(&mut answerer);
    let [
        Transmit::Publish { topic, payload },
        Transmit::Publish { topic: notice, .. },
        Transmit::Root(report),
    ] = transmits.as_slice()
    else {
        panic!("{transmits:?}")
    };
    assert_eq!(topic, "nodes/n1/net/tablequery/result");
    let rows: TableQueryResult = read("rows", payload).unwrap();
    let row = &rows.instance_list[0];
    assert_eq!(row.namespace_ip, Some(ip("10.18.0.66")));
    assert_eq!(row.worker_id.as_deref(), Some("n9"));
    assert_eq!(notice, "jobs/a.b.c.d/updates_available");
    assert_eq!(report.method, Method::Post);
    let body = String::from_utf8(report.body.clone().unwrap()).unwrap();
    assert!(
        body.starts_with(r#"{"job_id":"64b8f0c9d2a1e3f405162738","instances":[{"instance_number":0,"namespace_ip":"10.18.0.66","namespace_ip_v6":"fc00::102","host_ip":"192.0.2.5","host_port":"50103""#),
        "{body}"
    );
    // The root is slow: its older word does not take the placement away.
    let update = JobUpdate {
        job_name: name(),
        instance_number: 0,
        kind: UpdateKind::Deployment,
    };
    answerer.handle_job_update(&update, s(1));
    let requests = root_requests(&mut answerer);
    let old = job(vec![entry(0, "c1", false)]);
    answerer.handle_root_reply(requests[0].id, Some((200, &old)), s(1));
    assert_eq!(published(&mut answerer), [], "nothing new");
}

#[test]
fn a_node_speaks_only_for_its_own_instances() {
    let mut answerer = knowing(vec![entry(0, "c2", true)]);
    let undeployed = br#"{"appname":"a.b.c.d","instance_number":0}"#;
    answerer
        .handle_publish("nodes/n9/net/service/undeployed", undeployed, s(1))
        .unwrap();
    assert_eq!(drained(&mut answerer), []);
}

#[test]
fn an_attached_instance_is_allotted_once_and_deleted_at_its_end() {
    let mut answerer = answerer();
    let request = br#"{"request_id":"r1","service":"a.b.c.d"}"#;
    let topic = "nodes/n1/net/v1/instance/request";
    answerer.handle_publish(topic, request, s(0)).unwrap();
    answerer.handle_publish(topic, request, s(0)).unwrap();
    let fetch = root_requests(&mut answerer);
    assert_eq!(fetch.len(), 1);
    answerer.handle_root_reply(fetch[0].id, Some((200, &job(Vec::new()))), s(0));
    let allot = root_requests(&mut answerer);
    assert_eq!(
        allot[0].body.as_deref().unwrap(),
        br#"{"_id":"64b8f0c9d2a1e3f405162738","instance_number":-1,"cluster_id":"c1","request_id":"n1-r1"}"#
    );
    let reply =
        br#"{"instance_number":0,"instance_ip":"10.30.0.1","instance_ip_v6":"fdff::1","epoch":1}"#;
    answerer.handle_root_reply(allot[0].id, Some((200, reply)), s(0));
    let transmits = drained(&mut answerer);
    let [Transmit::Publish { topic, payload }, Transmit::Root(fetch)] = transmits.as_slice() else {
        panic!("{transmits:?}")
    };
    assert_eq!(topic, "nodes/n1/net/v1/instance/result");
    let result: InstanceResult = read("result", payload).unwrap();
    assert_eq!((result.request_id.as_str(), result.epoch), ("r1", 1));
    let body = job(vec![entry(0, "c1", false)]);
    answerer.handle_root_reply(fetch.id, Some((200, &body)), s(0));
    let deployed = br#"{"appname":"a.b.c.d","status":"DEPLOYED","instance_number":0,"nsip":"10.18.0.66","nsipv6":"fc00::102","host_port":"50103","host_ip":"192.0.2.5","epoch":1}"#;
    answerer
        .handle_publish("nodes/n1/net/service/deployed", deployed, s(0))
        .unwrap();
    let report = root_requests(&mut answerer);
    answerer.handle_root_reply(report[0].id, Some((200, b"Status updated")), s(0));
    let undeployed = br#"{"appname":"a.b.c.d","instance_number":0,"epoch":1}"#;
    answerer
        .handle_publish("nodes/n1/net/service/undeployed", undeployed, s(1))
        .unwrap();
    let end = root_requests(&mut answerer);
    assert_eq!(end[0].method, Method::Delete);
    assert_eq!(
        end[0].path,
        "/api/net/64b8f0c9d2a1e3f405162738/0?cluster_id=c1&epoch=1"
    );
    let view = answerer.view(&name(), &node("n1")).unwrap();
    assert_eq!(view.live, Some(Vec::new()), "gone before the root knows");
    // A deployment that was overtaken by its end does not bring it back.
    answerer
        .handle_publish("nodes/n1/net/service/deployed", deployed, s(1))
        .unwrap();
    let view = answerer.view(&name(), &node("n1")).unwrap();
    assert_eq!(view.live, Some(Vec::new()));
}

#[test]
fn a_request_for_an_instance_of_nothing_is_refused_by_name() {
    let mut answerer = answerer();
    let request = br#"{"request_id":"r1","service":"a.b.c.d"}"#;
    let topic = "nodes/n1/net/v1/instance/request";
    answerer.handle_publish(topic, request, s(0)).unwrap();
    let fetch = root_requests(&mut answerer);
    answerer.handle_root_reply(fetch[0].id, Some((200, b"{}")), s(0));
    let [(_, payload)] = published(&mut answerer).try_into().unwrap();
    assert!(
        payload.contains("service a.b.c.d does not exist"),
        "{payload}"
    );
}

#[test]
fn a_reserve_of_subnets_lets_nodes_join_while_the_root_is_away() {
    let mut settings = settings();
    settings.subnets_spare = 2;
    let mut answerer = Answerer::new(settings, 1, s(0));
    answerer.handle_timeout(s(0));
    for count in 0..2 {
        let asked = root_requests(&mut answerer);
        let mut asked = asked.iter();
        let asked = asked.find(|request| request.path.starts_with("/api/net/subnet?"));
        let asked = asked.unwrap();
        let third = count * 64;
        let body =
            format!(r#"{{"subnet_addr":"10.18.0.{third}","subnet_addr_v6":"fc00::{count}00"}}"#);
        answerer.handle_root_reply(asked.id, Some((200, body.as_bytes())), s(0));
    }
    assert_eq!(drained(&mut answerer), []);
    let get = br#"{"METHOD":"GET"}"#;
    let mut given = Vec::new();
    for who in ["n1", "n2", "n1"] {
        let topic = format!("nodes/{who}/net/subnet");
        answerer.handle_publish(&topic, get, s(1)).unwrap();
        given.extend(published(&mut answerer));
    }
    let of = |index: usize| given[index].1.as_str();
    assert_eq!(of(0), r#"{"address":"10.18.0.0","addressv6":"fc00::"}"#);
    assert_eq!(of(1), r#"{"address":"10.18.0.64","addressv6":"fc00::100"}"#);
    assert_eq!(of(2), of(0), "a node keeps its subnet");
}

#[test]
fn pruning_keeps_own_asked_and_near_instances() {
    let mut instances: Vec<_> = (0..40).map(|number| entry(number, "c2", true)).collect();
    instances[30] = entry(30, "c1", true);
    instances[35].worker_id = Some("n1".to_owned());
    instances[0] = entry(0, "c2", false);
    let mut answerer = knowing(instances);
    ask(&mut answerer, "n1", "10.30.0.39", Some(180));
    let view = answerer.view(&name(), &node("n1")).unwrap();
    let listed: Vec<u32> = view
        .instance_list
        .iter()
        .map(|entry| entry.instance_number)
        .collect();
    assert_eq!(listed.len(), INSTANCES_MAX_DEFAULT);
    for number in [30, 35, 38] {
        assert!(listed.contains(&number), "{number}: {listed:?}");
    }
    assert!(!listed.contains(&0), "does not run");
    assert_eq!(view.live.unwrap().len(), 40);
}

/// A node that says which instances it cannot reach is shown others, until it says otherwise; what it must know it is shown
/// all the same, in nobody's place.
#[test]
fn instances_that_a_node_cannot_reach_are_pruned_first() {
    let mut answerer = knowing((0..40).map(|number| entry(number, "c1", true)).collect());
    let asks = |answerer: &mut Answerer, key: &str, unreachable: Option<BTreeSet<u32>>| {
        let mut request = Key::parse(key).unwrap().request(Some(180));
        request.unreachable = unreachable;
        let topic = "nodes/n1/net/tablequery/request";
        answerer
            .handle_publish(topic, &write(&request), s(0))
            .unwrap();
        let rows = published(answerer).pop().unwrap().1;
        let answer: TableQueryResult = serde_json::from_str(&rows).unwrap();
        let rows = answer.instance_list.iter();
        let listed: BTreeSet<u32> = rows.map(|entry| entry.instance_number).collect();
        (listed, answer.revision.unwrap())
    };
    let (first, revision) = asks(&mut answerer, JOB, None);
    assert_eq!(first.len(), INSTANCES_MAX_DEFAULT);
    let (others, later) = asks(&mut answerer, JOB, Some(first.clone()));
    let all: BTreeSet<u32> = (0..40).collect();
    assert_eq!(others.len(), INSTANCES_MAX_DEFAULT);
    assert!(
        others.is_superset(&(&all - &first)),
        "all that it can reach"
    );
    assert!(later > revision, "what was sent before is older");
    // The one asked for is of those that it cannot reach.
    let lost = *first
        .iter()
        .find(|number| !others.contains(number))
        .unwrap();
    let (with_lost, _) = asks(&mut answerer, &format!("10.30.0.{}", lost + 1), None);
    let mut expected = others.clone();
    expected.insert(lost);
    assert_eq!(with_lost, expected, "it says nothing new of the others");
    let (again, _) = asks(&mut answerer, JOB, Some(BTreeSet::new()));
    assert_eq!(again, first, "all can be reached again");
}

#[test]
fn an_orchestrators_deployment_is_answered_when_the_root_has_spoken() {
    let mut answerer = answerer();
    answerer.handle_deployment(1, &name(), s(0));
    answerer.handle_deployment(2, &"x.y.z.w".parse().unwrap(), s(0));
    let requests = root_requests(&mut answerer);
    let body = job(vec![entry(0, "c1", false)]);
    answerer.handle_root_reply(requests[0].id, Some((200, &body)), s(0));
    answerer.handle_root_reply(requests[1].id, Some((200, b"{}")), s(0));
    let done = |ticket, stored| Some(Event::Deployment { ticket, stored });
    assert_eq!(answerer.poll_event(), done(1, true));
    assert_eq!(answerer.poll_event(), done(2, false));
    assert_eq!(
        answerer.jobs().count(),
        1,
        "kept without an interested node"
    );
}

#[test]
fn a_restart_answers_from_its_store() {
    let mut before = knowing(vec![entry(0, "c1", false), entry(1, "c2", true)]);
    let deployed = br#"{"appname":"a.b.c.d","status":"DEPLOYED","instance_number":0,"nsip":"10.18.0.66","nsipv6":"<nil>","host_port":"50103","host_ip":"192.0.2.5"}"#;
    before
        .handle_publish("nodes/n9/net/service/deployed", deployed, s(1))
        .unwrap();
    let mut after = restarted(&mut before, s(0));
    let rows = |answerer: &Answerer| answerer.view(&name(), &node("n1")).unwrap().instance_list;
    assert_eq!(rows(&after), rows(&before));
    assert!(after.interested(&name()).any(|id| *id == node("n1")));
    ask(&mut after, "n1", "10.30.50.2", Some(180));
    assert_eq!(published(&mut after).len(), 1);
    after.handle_timeout(s(0));
    let again: Vec<_> = root_requests(&mut after)
        .into_iter()
        .map(|request| request.path)
        .collect();
    assert!(
        again.iter().any(|path| path.contains("net_deploy_status")),
        "{again:?}"
    );
    assert!(
        again.iter().any(|path| path.contains("a_b_c_d")),
        "{again:?}"
    );
}

/// Any bytes on any topic and as any answer of the root: no panic, a refusal changes nothing, and the next good question
/// is answered. The legacy manager's message thread died of one malformed payload.
#[test]
fn garbage_is_refused_and_the_next_question_answered() {
    bolero::check!()
        .with_type::<Vec<(u8, Vec<u8>)>>()
        .for_each(|steps| {
            let mut answerer = knowing(vec![entry(0, "c2", true)]);
            let mut waiting = Vec::new();
            for (verb, payload) in steps {
                let verb = Verb::ALL[usize::from(*verb) % Verb::ALL.len()];
                let topic = Topic::node(node("n2"), verb).to_string();
                if answerer.handle_publish(&topic, payload, s(0)).is_err() {
                    assert_eq!(drained(&mut answerer), []);
                }
                waiting.extend(root_requests(&mut answerer));
                if let Some(request) = waiting.pop() {
                    answerer.handle_root_reply(request.id, Some((200, payload)), s(0));
                }
                let _ = answerer.handle_publish(&String::from_utf8_lossy(payload), payload, s(0));
                answerer.handle_timeout(s(0));
            }
            drained(&mut answerer);
            ask(&mut answerer, "n3", "10.30.50.2", None);
            assert_eq!(published(&mut answerer).len(), 1);
        });
}

/// The question waits on; whoever asked hears at once that it cannot be answered now, and later the answer.
#[test]
fn with_the_root_away_a_question_is_answered_unavailable_and_then_answered() {
    let unavailable = |key: &str| {
        let text = format!(
            r#"{{"app_name":"","query_key":"{key}","instance_list":[],"unavailable":true}}"#
        );
        ("nodes/n1/net/tablequery/result".to_owned(), text)
    };
    let mut answerer = answerer();
    ask(&mut answerer, "n1", "10.30.50.2", Some(180));
    let requests = root_requests(&mut answerer);
    answerer.handle_root_reply(requests[0].id, None, s(0));
    assert_eq!(published(&mut answerer), [unavailable("10.30.50.2")]);
    // Known to be away: without waiting for the next attempt, and as often as somebody asks.
    for key in ["10.30.0.1", "10.30.50.2", "10.30.50.2"] {
        ask(&mut answerer, "n1", key, Some(180));
        let transmits = drained(&mut answerer);
        let told = unavailable(key);
        let told = |it: &Transmit| matches!(it, Transmit::Publish { payload, .. } if *payload == told.1.as_bytes());
        assert!(transmits.iter().any(told), "{transmits:?}");
    }
    answerer.handle_timeout(s(2));
    let repeated = root_requests(&mut answerer);
    let again = repeated
        .iter()
        .find(|request| request.path.contains("10_30_50_2"))
        .unwrap();
    let body = job(vec![entry(0, "c2", true)]);
    answerer.handle_root_reply(again.id, Some((200, &body)), s(2));
    let [(_, payload)] = published(&mut answerer).try_into().unwrap();
    assert!(payload.contains(r#""query_key":"10.30.50.2""#), "{payload}");
    assert!(payload.contains("10.30.0.1"), "{payload}");
}

/// A root that answers, but cannot, is no better than one that is away.
#[test]
fn a_root_that_fails_makes_a_question_unavailable_once() {
    let mut answerer = answerer();
    ask(&mut answerer, "n1", "10.30.50.2", Some(180));
    for attempt in 0..3 {
        let request = root_requests(&mut answerer).pop().unwrap();
        answerer.handle_root_reply(request.id, Some((500, b"")), s(5 * attempt));
        let told = published(&mut answerer);
        assert_eq!(told.len(), usize::from(attempt == 0), "{told:?}");
        answerer.handle_timeout(s(5 * attempt + 5));
    }
}

#[test]
fn more_questions_than_are_asked_at_a_time_are_answered_too() {
    let mut answerer = answerer();
    answerer.settings.keys_max = 1;
    ask(&mut answerer, "n1", "10.30.50.2", None);
    assert_eq!(root_requests(&mut answerer).len(), 1);
    ask(&mut answerer, "n1", "10.30.50.3", None);
    let [(_, payload)] = published(&mut answerer).try_into().unwrap();
    assert!(payload.contains("unavailable"), "{payload}");
}

mod exceptions;
mod spread;
mod vacancy;
