//! What nodes are told of services of other namespaces, and what they are told when that changes.

mod refusals;

use super::*;
use crate::isolation::Rule;
use crate::message::{
    Deployed, InstanceDeployed, InstanceEntry, InstanceRequest, Job, JobUpdate, TableQueryResult,
    Undeployed, UpdateKind, read, write,
};
use crate::record::Change;
use crate::table_query::answerer::{RootRequest, Settings, Transmit};
use crate::table_query::{Key, SENT_ON_MAX};
use sluice_wire::Ip;
use std::time::Duration;

const NOW: Duration = Duration::from_secs(1);
const SHOP: &str = "shop.acme.web.prod";
const CART: &str = "cart.acme.api.prod";
const BANK: &str = "bank.money.api.prod";

fn node() -> NodeId {
    NodeId::new("n1").unwrap()
}

fn name(text: &str) -> ServiceName {
    text.parse().unwrap()
}

fn rule(from: &str, to: &str) -> Rule {
    Rule {
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
    }
}

/// A cluster manager with a root that knows three services of two tenants.
struct Site {
    answerer: Answerer,
    rules: Vec<Rule>,
    /// Of each service.
    instances: u8,
    /// The bank's cluster.
    bank_at: &'static str,
    now: Duration,
}

impl Site {
    fn new(isolation: Isolation, rules: &[Rule]) -> Self {
        let settings = Settings {
            isolation,
            ..Settings::new("c1", "192.0.2.1", 10110, 1)
        };
        Self::of(Answerer::new(settings, 1, NOW), rules.to_vec())
    }

    const fn of(answerer: Answerer, rules: Vec<Rule>) -> Self {
        Self {
            answerer,
            rules,
            instances: 1,
            bank_at: "c1",
            now: NOW,
        }
    }

    fn job(&self, job: &str) -> Vec<u8> {
        let at = [SHOP, CART, BANK].iter().position(|it| *it == job).unwrap();
        let last = u8::try_from(at + 1).unwrap();
        let at = if job == BANK { self.bank_at } else { "c1" };
        let rules = self.rules.iter().filter(|rule| rule.to.matches(&name(job)));
        write(&Job {
            id: format!("{last:024}"),
            job_name: name(job),
            service_ip_list: Vec::new(),
            instance_list: (0..self.instances)
                .map(|number| entry(at, last, number))
                .collect(),
            revision: 0,
            rules: rules.cloned().collect(),
            attached: Vec::new(),
            descriptor: serde_json::Map::new(),
        })
    }

    /// Answers for the root until all is said; what the node was told meanwhile.
    fn told(&mut self) -> Vec<TableQueryResult> {
        let mut all = Vec::new();
        loop {
            let (told, requests) = self.waiting();
            all.extend(told);
            if requests.is_empty() {
                return all;
            }
            for request in requests {
                self.reply(&request);
            }
        }
    }

    /// What the node was told, and what the root was asked and has not answered.
    fn waiting(&mut self) -> (Vec<TableQueryResult>, Vec<RootRequest>) {
        let (mut told, mut asked) = (Vec::new(), Vec::new());
        while let Some(transmit) = self.answerer.poll_transmit() {
            match transmit {
                Transmit::Publish { topic, payload }
                    if topic == "nodes/n1/net/tablequery/result" =>
                {
                    told.push(read("answer", &payload).unwrap());
                }
                Transmit::Publish { .. } => {}
                Transmit::Root(request) => asked.push(request),
            }
        }
        (told, asked)
    }

    /// The root's answers; what the node is told then.
    fn answered(&mut self, requests: Vec<RootRequest>) -> Vec<TableQueryResult> {
        let mut all = Vec::new();
        for request in requests {
            self.reply(&request);
            all.extend(self.told());
        }
        all
    }

    fn reply(&mut self, request: &RootRequest) {
        let asked = request.path.replace('_', ".");
        let jobs = [SHOP, CART, BANK];
        let job = jobs.iter().zip(1..).find_map(|(job, last)| {
            let by_ip = asked.contains(&format!("/10.30.0.{last}/"));
            (by_ip || asked.contains(job)).then_some(*job)
        });
        let body = match job {
            Some(job) if asked.contains("/instances") => self.job(job),
            _ => b"{}".to_vec(),
        };
        let reply = Some((200, body.as_slice()));
        self.answerer.handle_root_reply(request.id, reply, self.now);
    }

    fn deployed(&mut self, job: &str, runs: bool) -> Vec<TableQueryResult> {
        if runs {
            let handled = self
                .answerer
                .handle_deployed(&node(), &deployed(job), self.now);
            handled.unwrap();
        } else {
            let undeployed = Undeployed {
                appname: job.to_owned(),
                instance_number: 0,
                epoch: 0,
            };
            let handled = self
                .answerer
                .handle_undeployed(&node(), &undeployed, self.now);
            handled.unwrap();
        }
        self.told()
    }

    /// The one answer to a question.
    fn asked(&mut self, key: &str) -> TableQueryResult {
        let request = Key::parse(key).unwrap().request(Some(180));
        self.answerer.handle_request(&node(), &request, self.now);
        let told = self.told();
        let [answer] = told.as_slice() else {
            panic!("{told:?}")
        };
        assert_eq!(answer.query_key, key);
        answer.clone()
    }

    /// The root's rules change, and it says so.
    fn rules_are(&mut self, rules: &[Rule], about: &str) -> Vec<TableQueryResult> {
        self.rules = rules.to_vec();
        let update = JobUpdate {
            job_name: name(about),
            instance_number: -1,
            kind: UpdateKind::Deployment,
        };
        self.answerer.handle_job_update(&update, self.now);
        self.told()
    }

    fn is_interested(&self, job: &str) -> bool {
        self.answerer.interested(&name(job)).any(|it| *it == node())
    }
}

/// The root's row of an instance of the service whose InstanceIPs end so.
fn entry(cluster: &str, last: u8, number: u8) -> InstanceEntry {
    InstanceEntry {
        instance_number: number.into(),
        cluster_id: Some(cluster.to_owned()),
        instance_ip: Some(Ip::v4([10, 30, number, last])),
        epoch: 1,
        ..InstanceEntry::default()
    }
}

/// An instance of the service, at an NsIP of its own.
fn deployed(job: &str) -> Deployed {
    let last = match job {
        SHOP => 2,
        BANK => 3,
        _ => 4,
    };
    Deployed {
        appname: job.to_owned(),
        status: "DEPLOYED".to_owned(),
        instance_number: 0,
        nsip: Some(Ip::v4([10, 18, 0, last])),
        nsipv6: None,
        host_port: 50103,
        host_ip: Some(Ip::v4([192, 0, 2, 9])),
        epoch: 0,
        public_key: None,
        answers_probes: false,
    }
}

fn exists(answer: &TableQueryResult) -> bool {
    !answer.instance_list.is_empty() && answer.instance_list.iter().all(|row| !row.reply_only)
}

fn replies_only(answer: &TableQueryResult) -> bool {
    !answer.instance_list.is_empty() && answer.instance_list.iter().all(|row| row.reply_only)
}

fn is_gone(answer: &TableQueryResult) -> bool {
    answer.instance_list.is_empty()
        && answer.service_ip_list.is_none()
        && answer.live == Some(Vec::new())
}

#[test]
fn a_node_is_told_what_its_instances_may_know() {
    let mut site = Site::new(Isolation::Enforce, &[]);
    site.deployed(SHOP, true);
    assert!(exists(&site.asked(SHOP)), "its own");
    assert!(exists(&site.asked(CART)), "of the same two namespaces");
    for key in [BANK, "10.30.0.3"] {
        let answer = site.asked(key);
        assert!(is_gone(&answer), "{answer:?}");
    }
    assert!(!site.is_interested(BANK));

    let calls = rule("*.acme.web.*", BANK);
    let mut site = Site::new(Isolation::Enforce, std::slice::from_ref(&calls));
    site.deployed(SHOP, true);
    let answer = site.asked("10.30.0.3");
    assert!(exists(&answer));
    assert_eq!(answer.rules, [calls], "the gateway enforces it again");

    // The other way round: it must be answered, by the InstanceIP that its packets show.
    let mut site = Site::new(Isolation::Enforce, &[rule(BANK, "*.acme.web.*")]);
    site.deployed(SHOP, true);
    assert!(replies_only(&site.asked("10.30.0.3")));
    assert!(site.is_interested(BANK));
}

#[test]
fn observing_and_off_tell_everything() {
    for isolation in [Isolation::Observe, Isolation::Off] {
        let mut site = Site::new(isolation, &[]);
        site.deployed(SHOP, true);
        assert!(exists(&site.asked(BANK)));
    }
}

#[test]
fn a_revoked_rule_takes_the_job_away_at_once() {
    for (from, to) in [(SHOP, BANK), (BANK, SHOP)] {
        let mut site = Site::new(Isolation::Enforce, &[rule(from, to)]);
        site.deployed(SHOP, true);
        site.asked(SHOP);
        assert!(!is_gone(&site.asked(BANK)));
        let told = site.rules_are(&[], to);
        let gone = told.iter().find(|result| result.app_name == BANK);
        assert!(gone.is_some_and(is_gone), "{from} -> {to}: {told:?}");
        assert!(!site.is_interested(BANK));
        assert!(told.iter().all(|it| it.app_name == BANK || exists(it)));
        assert!(is_gone(&site.asked(BANK)));
    }
}

#[test]
fn a_rule_turned_round_leaves_the_replies() {
    let mut site = Site::new(Isolation::Enforce, &[rule(SHOP, BANK), rule(BANK, SHOP)]);
    site.deployed(SHOP, true);
    assert!(exists(&site.asked(BANK)));
    let told = site.rules_are(&[rule(BANK, SHOP)], BANK);
    assert!(
        matches!(told.as_slice(), [rows] if replies_only(rows)),
        "{told:?}"
    );
    let told = site.rules_are(&[rule(BANK, SHOP), rule(SHOP, BANK)], BANK);
    assert!(
        matches!(told.as_slice(), [rows] if exists(rows)),
        "{told:?}"
    );
}

#[test]
fn what_a_node_may_know_follows_its_instances() {
    let mut site = Site::new(Isolation::Enforce, &[]);
    assert!(exists(&site.asked(BANK)), "nothing on it can call");
    let told = site.deployed(SHOP, true);
    let about_bank: Vec<_> = told.iter().filter(|it| it.app_name == BANK).collect();
    assert!(
        matches!(about_bank.as_slice(), [gone] if is_gone(gone)),
        "{told:?}"
    );
    site.deployed(BANK, true);
    assert!(exists(&site.asked(BANK)));
    assert!(exists(&site.asked(CART)));
    let told = site.deployed(SHOP, false);
    let about_cart: Vec<_> = told.iter().filter(|it| it.app_name == CART).collect();
    assert!(
        matches!(about_cart.as_slice(), [gone] if is_gone(gone)),
        "{told:?}"
    );
}

/// Else its gateway would end it as soon as it runs at its new place, and could neither lead its callers there nor send on
/// what others still send it.
#[test]
fn what_moved_away_is_business_of_the_node_until_it_sends_nothing_on() {
    let mut site = Site::new(Isolation::Enforce, &[]);
    site.deployed(BANK, true);
    site.asked(SHOP);
    let runs = Deployed {
        epoch: 1,
        ..deployed(SHOP)
    };
    let there = Deployed {
        nsip: Some(Ip::v4([10, 18, 1, 2])),
        host_ip: Some(Ip::v4([192, 0, 2, 10])),
        ..runs.clone()
    };
    for (who, deployed) in [("n1", &runs), ("n2", &there)] {
        let who = NodeId::new(who).unwrap();
        site.answerer.handle_deployed(&who, deployed, NOW).unwrap();
        site.told();
    }
    assert!(exists(&site.asked(SHOP)));
    let ends = Undeployed {
        appname: SHOP.to_owned(),
        instance_number: 0,
        epoch: 1,
    };
    let handled = site.answerer.handle_undeployed(&node(), &ends, NOW);
    handled.unwrap();
    assert_eq!(site.told(), []);
    let restarted = restarted(&mut site.answerer, "shop").swap_remove(0);
    let mut restarted = Site::of(restarted, Vec::new());
    for site in [&mut site, &mut restarted] {
        site.answerer.handle_timeout(NOW + SENT_ON_MAX);
        site.told();
        assert!(exists(&site.asked(SHOP)));
        site.answerer.handle_timeout(NOW + SENT_ON_MAX * 2);
        let told = site.told();
        let about_shop: Vec<_> = told.iter().filter(|it| it.app_name == SHOP).collect();
        assert!(
            matches!(about_shop.as_slice(), [gone] if is_gone(gone)),
            "{told:?}"
        );
    }
}

/// The manager started anew from its store, whose records come in two orders: those about `job` first, or last.
fn restarted(answerer: &mut Answerer, job: &str) -> Vec<Answerer> {
    let mut records = BTreeMap::new();
    while let Some(change) = answerer.poll_change() {
        match change {
            Change::Put { key, value } => drop(records.insert(key, value)),
            Change::Delete { key } => drop(records.remove(&key)),
        }
    }
    let stored = records
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_slice()));
    let (first, rest): (Vec<_>, Vec<_>) = stored.partition(|(key, _)| key.contains(job));
    let orders = [[&first[..], &rest].concat(), [&rest[..], &first].concat()];
    let restart = |records| {
        let mut settings = answerer.settings.clone();
        settings.incarnation += 1;
        Answerer::restore(settings, 2, records, NOW).unwrap()
    };
    orders.into_iter().map(restart).collect()
}

/// In whatever order a store gives its records: what the node was told before holds.
#[test]
fn a_restart_tells_a_node_of_several_tenants_nothing_new() {
    for tenant in ["bank", "shop", "cart"] {
        let mut site = Site::new(Isolation::Enforce, &[]);
        site.deployed(BANK, true);
        site.deployed(SHOP, true);
        site.asked(CART);
        for answerer in restarted(&mut site.answerer, tenant) {
            let mut site = Site::of(answerer, Vec::new());
            assert_eq!(site.waiting().0, [], "{tenant}");
            assert!(site.is_interested(CART), "{tenant}");
        }
    }
}

/// Whatever else waits, an instance that was just attached is not refused for want of knowledge: its question is
/// answered when its own service is known.
#[test]
fn a_question_waits_until_the_caller_is_known() {
    for key in [CART, "10.30.0.2", BANK] {
        let mut site = Site::new(Isolation::Enforce, &[]);
        let question = Key::parse(key).unwrap().request(Some(180));
        let other = NodeId::new("n2").unwrap();
        site.answerer.handle_request(&other, &question, NOW);
        site.told();
        let handled = site.answerer.handle_deployed(&node(), &deployed(SHOP), NOW);
        handled.unwrap();
        for _ in 0..3 {
            site.answerer.handle_request(&node(), &question, NOW);
        }
        let waiting = site.waiting();
        assert!(waiting.0.is_empty(), "{:?}", waiting.0);
        let told = site.answered(waiting.1);
        let [answer] = told.as_slice() else {
            panic!("one answer to one question: {told:?}")
        };
        assert_eq!(answer.query_key, key);
        assert_eq!(exists(answer), key != BANK, "{answer:?}");
        assert_eq!(site.is_interested(CART), key != BANK);
    }
}

/// One that the root does not know does not hide another of the node's services, which it is just telling us.
#[test]
fn a_caller_that_does_not_exist_keeps_no_other_from_being_known() {
    let mut site = Site::new(Isolation::Enforce, &[]);
    let question = Key::parse(CART).unwrap().request(Some(180));
    let other = NodeId::new("n2").unwrap();
    site.answerer.handle_request(&other, &question, NOW);
    site.told();
    let absent = deployed("a.acme.web.prod");
    site.answerer
        .handle_deployed(&node(), &absent, NOW)
        .unwrap();
    let (_, requests) = site.waiting();
    let nothing = Some((200, b"{}".as_slice()));
    site.answerer
        .handle_root_reply(requests[0].id, nothing, NOW);
    let shop = deployed(SHOP);
    site.answerer.handle_deployed(&node(), &shop, NOW).unwrap();
    site.answerer.handle_request(&node(), &question, NOW);
    let (told, requests) = site.waiting();
    assert!(told.is_empty(), "{told:?}");
    let told = site.answered(requests);
    assert!(told.iter().any(exists), "{told:?}");
}

/// Without the root nobody waits, and the answer comes when it is back. A service that the root does not know either
/// keeps nobody waiting, and makes no storm of questions.
#[test]
fn nobody_waits_in_vain_for_the_caller_to_be_known() {
    let mut site = Site::new(Isolation::Enforce, &[]);
    let question = Key::parse(CART).unwrap().request(Some(180));
    let other = NodeId::new("n2").unwrap();
    site.answerer.handle_request(&other, &question, NOW);
    site.told();
    for job in [SHOP, "new.acme.web.prod"] {
        let handled = site.answerer.handle_deployed(&node(), &deployed(job), NOW);
        handled.unwrap();
        site.answerer.handle_request(&node(), &question, NOW);
        let (told, requests) = site.waiting();
        assert!(told.is_empty(), "{told:?}");
        let [request] = requests.as_slice() else {
            panic!("{requests:?}")
        };
        let (request, reply) = match job {
            SHOP => (request, None),
            _ => (request, Some((200, b"{}".as_slice()))),
        };
        site.answerer.handle_root_reply(request.id, reply, NOW);
        let (told, requests) = site.waiting();
        let unavailable = told.iter().filter(|answer| answer.unavailable);
        assert_eq!((unavailable.count(), told.len()), (1, 1), "{told:?}");
        assert!(requests.is_empty(), "{requests:?}");
        site.answerer.handle_request(&node(), &question, NOW);
        let (told, requests) = site.waiting();
        assert!(told.iter().all(|answer| answer.unavailable) && told.len() == 1);
        assert!(requests.is_empty(), "{requests:?}");
        if job == SHOP {
            let later = NOW + Duration::from_secs(20);
            site.answerer.handle_timeout(later);
            let told = site.told();
            assert!(told.iter().any(exists), "{told:?}");
            let ended = Undeployed {
                appname: SHOP.to_owned(),
                instance_number: 0,
                epoch: 0,
            };
            let handled = site.answerer.handle_undeployed(&node(), &ended, NOW);
            handled.unwrap();
            site.told();
        }
    }
}

/// What changed while nothing could be said is said as soon as it can be; also that a job is none of the node's business.
#[test]
fn what_could_not_be_said_is_said_once_the_caller_is_known() {
    for (ask, rules) in [(CART, vec![]), (BANK, vec![rule(SHOP, BANK)])] {
        let mut site = Site::new(Isolation::Enforce, &rules);
        // Nothing runs on the node: it is told everything.
        assert!(exists(&site.asked(ask)));
        let handled = site.answerer.handle_deployed(&node(), &deployed(SHOP), NOW);
        handled.unwrap();
        let (told, waiting) = site.waiting();
        assert!(told.is_empty(), "{told:?}");
        // Meanwhile the rule that would allow it goes, and the rows change.
        site.rules.clear();
        let update = JobUpdate {
            job_name: name(ask),
            instance_number: -1,
            kind: UpdateKind::Deployment,
        };
        site.answerer.handle_job_update(&update, NOW);
        let other = NodeId::new("n2").unwrap();
        let handled = site.answerer.handle_deployed(&other, &deployed(ask), NOW);
        handled.unwrap();
        let (told, more) = site.waiting();
        assert!(told.is_empty(), "{told:?}");
        let told = site.answered(waiting.into_iter().chain(more).collect());
        let of_job: Vec<_> = told.iter().filter(|it| it.app_name == ask).collect();
        let last = of_job.last().expect("it is told");
        assert_eq!(exists(last), ask == CART, "{told:?}");
        assert_eq!(is_gone(last), ask == BANK, "{told:?}");
    }
}

/// It ended before the root could be told: nothing is kept of it, and nobody waits for it.
#[test]
fn an_instance_that_ends_before_its_service_is_known_leaves_nothing() {
    let mut site = Site::new(Isolation::Enforce, &[]);
    let handled = site.answerer.handle_deployed(&node(), &deployed(SHOP), NOW);
    handled.unwrap();
    let (_, waiting) = site.waiting();
    let ended = Undeployed {
        appname: SHOP.to_owned(),
        instance_number: 0,
        epoch: 0,
    };
    let handled = site.answerer.handle_undeployed(&node(), &ended, NOW);
    handled.unwrap();
    site.answered(waiting);
    let elsewhere = NodeId::new("n2").unwrap();
    let seen = site.answerer.view(&name(SHOP), &elsewhere);
    assert!(seen.is_none_or(|rows| rows.instance_list.iter().all(|row| !row.is_placed())));
    assert!(exists(&site.asked(BANK)), "nothing runs on the node");
}

/// Two tenants are attached to a node in one moment. That one runs first is no reason to say that the other's service does
/// not exist: its gateway would end what it just attached.
#[test]
fn what_is_allotted_to_a_node_is_its_business() {
    let mut site = Site::new(Isolation::Enforce, &[]);
    assert!(exists(&site.asked(BANK)));
    let request = InstanceRequest {
        request_id: "r1".to_owned(),
        service: name(BANK),
        instance_number: None,
        migrate: false,
    };
    site.answerer.handle_instance_request(&node(), request, NOW);
    let (_, asked) = site.waiting();
    let [allot] = asked.as_slice() else {
        panic!("{asked:?}")
    };
    let instance = write(&InstanceDeployed {
        instance_number: 0,
        instance_ip: Some(Ip::v4([10, 30, 0, 3])),
        instance_ip_v6: None,
        epoch: 1,
        kept_ip: None,
        kept_ip_v6: None,
    });
    let reply = Some((200, instance.as_slice()));
    site.answerer.handle_root_reply(allot.id, reply, NOW);
    site.told();
    let told = site.deployed(SHOP, true);
    assert!(!told.iter().any(is_gone), "{told:?}");
    assert!(site.is_interested(BANK));
    let told = site.deployed(BANK, true);
    assert!(!told.iter().any(is_gone), "{told:?}");
}

/// A manager that lost its store hears of the instances again, but not yet of their services: that is no reason to take
/// anything away.
#[test]
fn nothing_is_said_for_want_of_knowledge() {
    let mut site = Site::new(Isolation::Enforce, &[]);
    let question = Key::parse(CART).unwrap().request(Some(180));
    let other = NodeId::new("n2").unwrap();
    site.answerer.handle_request(&other, &question, NOW);
    site.deployed(BANK, true);
    // The root's answer about the shop is still to come.
    let handled = site.answerer.handle_deployed(&node(), &deployed(SHOP), NOW);
    handled.unwrap();
    let (told, waiting) = site.waiting();
    assert!(told.is_empty(), "{told:?}");
    site.answered(waiting);
    assert!(exists(&site.asked(CART)));
}

/// However interests come and go: what is kept for each node is what is kept for each job.
#[test]
fn the_jobs_of_a_node_are_the_nodes_of_the_jobs() {
    fn check(answerer: &Answerer, count: usize) {
        let jobs = answerer.jobs.iter();
        let of_jobs: BTreeSet<_> = jobs
            .flat_map(|(name, known)| known.interests.keys().map(move |node| (node, name)))
            .collect();
        assert_eq!(of_jobs.len(), count);
        let nodes = of_jobs.iter().map(|(node, _)| *node);
        let nodes: BTreeSet<_> = nodes.collect();
        let of_nodes: BTreeSet<_> = nodes
            .iter()
            .flat_map(|node| answerer.interested.of(node).map(move |name| (*node, name)))
            .collect();
        assert_eq!(of_nodes, of_jobs);
        let gone = NodeId::new("n1").unwrap();
        if !nodes.contains(&gone) {
            assert_eq!(answerer.interested.of(&gone).count(), 0);
        }
    }
    let mut site = Site::new(Isolation::Enforce, &[]);
    for (count, key) in [(1, SHOP), (2, CART), (3, BANK), (3, BANK)] {
        site.asked(key);
        check(&site.answerer, count);
    }
    let mut records = BTreeMap::new();
    while let Some(change) = site.answerer.poll_change() {
        if let Change::Put { key, value } = change {
            records.insert(key, value);
        }
    }
    let stored = records
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_slice()));
    let settings = site.answerer.settings.clone();
    check(&Answerer::restore(settings, 1, stored, NOW).unwrap(), 3);
    // One is none of its business any more, one it gives up, one is forgotten.
    site.deployed(SHOP, true);
    check(&site.answerer, 2);
    site.answerer.interest_ended(&name(CART), &node());
    check(&site.answerer, 1);
    site.answerer.forget(&name(SHOP));
    check(&site.answerer, 0);
}
