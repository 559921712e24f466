//! Many jobs asked again: some at a time, each once, and no loss of the root is made of it.

use super::*;
use crate::isolation::Rule;
use std::collections::BTreeSet;

const JOBS: u16 = 1000;

/// Every hundredth is open to another tenant.
fn named(number: u16) -> Vec<u8> {
    let mut job: Job = serde_json::from_slice(&job(Vec::new())).unwrap();
    job.job_name = format!("a.b.s{number}.d").parse().unwrap();
    let [high, low] = number.to_be_bytes();
    let v4 = Ip::v4([10, 30, high, low]);
    let v6 = ip("fdff:2000::").offset(number.into());
    job.service_ip_list = vec![ServiceIpEntry::new(IpType::RoundRobin, Dual::both(v4, v6))];
    job.rules = Vec::from_iter(is_opened(number).then(|| Rule {
        from: "shop.acme.*.prod".parse().unwrap(),
        to: "a.b.*.d".parse().unwrap(),
    }));
    write(&job)
}

const fn is_opened(number: u16) -> bool {
    number.is_multiple_of(100)
}

fn number_of(request: &RootRequest) -> u16 {
    let (_, rest) = request.path.split_once("/service/a_b_s").unwrap();
    rest.split('_').next().unwrap().parse().unwrap()
}

fn asked(answerer: &mut Answerer) -> Vec<RootRequest> {
    let mut requests = root_requests(answerer);
    requests.retain(|request| request.path.contains("/service/a_b_s"));
    requests
}

/// A manager that knows `JOBS` jobs; a node is interested in each.
fn knowing_many() -> Answerer {
    let mut answerer = answerer();
    for number in 0..JOBS {
        let name = format!("a.b.s{number}.d");
        ask(&mut answerer, "n1", &name, Some(180));
        let request = asked(&mut answerer).remove(0);
        answerer.handle_root_reply(request.id, Some((200, &named(number))), s(0));
    }
    drained(&mut answerer);
    answerer
}

/// Answers all questions of a round until there are none; the jobs that were asked, in order.
fn answered(answerer: &mut Answerer, now: Duration) -> Vec<u16> {
    let mut order = Vec::new();
    loop {
        let round = asked(answerer);
        assert!(round.len() <= 32, "{} at a time", round.len());
        if round.is_empty() {
            return order;
        }
        for request in round {
            let number = number_of(&request);
            order.push(number);
            answerer.handle_root_reply(request.id, Some((200, &named(number))), now);
        }
    }
}

fn all() -> BTreeSet<u16> {
    (0..JOBS).collect()
}

#[test]
fn a_root_that_started_anew_is_asked_for_every_job_once_some_at_a_time() {
    let mut answerer = knowing_many();
    answerer.handle_root_restarted(s(1));
    let order = answered(&mut answerer, s(1));
    assert_eq!(order.len(), usize::from(JOBS));
    let (opened, others) = order.split_at(10);
    assert!(
        opened.iter().all(|number| is_opened(*number)),
        "a rule may have been revoked: {opened:?} before {others:?}"
    );
    assert_eq!(BTreeSet::from_iter(order), all());
}

#[test]
fn a_new_question_does_not_wait_for_those_that_are_repeated() {
    let mut answerer = knowing_many();
    answerer.handle_root_restarted(s(1));
    assert_eq!(asked(&mut answerer).len(), 32);
    ask(&mut answerer, "n1", JOB, Some(180));
    let [question] = root_requests(&mut answerer).try_into().unwrap();
    assert!(question.path.contains("a_b_c_d"), "{question:?}");
}

#[test]
fn a_refused_job_holds_no_other_up() {
    let mut answerer = knowing_many();
    answerer.handle_root_restarted(s(1));
    for request in asked(&mut answerer) {
        answerer.handle_root_reply(request.id, Some((500, b"")), s(1));
    }
    let mut told: BTreeSet<u16> = answered(&mut answerer, s(1)).into_iter().collect();
    assert_eq!(told.len(), usize::from(JOBS) - 32);
    answerer.handle_timeout(s(60));
    told.extend(answered(&mut answerer, s(60)));
    assert_eq!(told, all());
}

#[test]
fn what_could_not_be_sent_is_repeated_and_the_root_not_taken_for_away() {
    let mut answerer = knowing_many();
    answerer.handle_root_restarted(s(1));
    for request in asked(&mut answerer) {
        answerer.handle_root_busy(request.id, s(1));
    }
    assert!(answerer.root_answers());
    assert!(asked(&mut answerer).is_empty(), "not at once");
    answerer.handle_timeout(s(60));
    let told: BTreeSet<u16> = answered(&mut answerer, s(60)).into_iter().collect();
    assert_eq!(told, all());
}

#[test]
fn who_waits_hears_that_a_question_could_not_be_sent() {
    let mut answerer = answerer();
    ask(&mut answerer, "n1", "10.30.50.2", Some(180));
    let request = root_requests(&mut answerer).remove(0);
    answerer.handle_root_busy(request.id, s(0));
    let [(_, payload)] = published(&mut answerer).try_into().unwrap();
    assert!(payload.contains("unavailable"), "{payload}");
}

/// While the root is away nothing but the search for it leaves; when it is back, everything is asked.
#[test]
fn a_lost_root_is_asked_for_all_when_it_is_back() {
    let mut answerer = knowing_many();
    answerer.handle_root_restarted(s(1));
    for request in asked(&mut answerer) {
        answerer.handle_root_reply(request.id, None, s(1));
    }
    assert!(!answerer.root_answers());
    assert!(asked(&mut answerer).is_empty());
    answerer.handle_timeout(s(30));
    let register = root_requests(&mut answerer)
        .into_iter()
        .find(|request| request.path == "/api/net/cluster")
        .unwrap();
    answerer.handle_root_reply(register.id, Some((200, b"cluster registered")), s(30));
    let mut told: BTreeSet<u16> = BTreeSet::new();
    for now in [s(30), s(60), s(90)] {
        answerer.handle_timeout(now);
        told.extend(answered(&mut answerer, now));
    }
    assert_eq!(told, all());
}

/// A refresh of ten thousand jobs would keep the disk busy for nothing.
#[test]
fn what_the_root_says_again_is_not_written_again() {
    let mut answerer = knowing_many();
    while answerer.poll_change().is_some() {}
    answerer.handle_root_restarted(s(1));
    assert_eq!(answered(&mut answerer, s(1)).len(), usize::from(JOBS));
    assert_eq!(answerer.poll_change(), None);
    answerer.handle_root_restarted(s(2));
    for request in asked(&mut answerer) {
        let mut job: Job = serde_json::from_slice(&named(number_of(&request))).unwrap();
        job.revision = 1;
        answerer.handle_root_reply(request.id, Some((200, &write(&job))), s(2));
    }
    let written = std::iter::from_fn(|| answerer.poll_change());
    assert_eq!(written.count(), 32, "those that were answered otherwise");
}
