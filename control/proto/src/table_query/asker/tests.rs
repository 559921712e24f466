//! How an asker behaves, message by message.

mod absences;
mod belief;
mod nodes;
mod opened;
mod suspects;
mod unlisted;

use super::*;
use crate::message::{InstanceEntry, IpType, ServiceIpEntry};
use sluice_wire::Dual;

const JOB: &str = "a.b.c.d";

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ip(text: &str) -> Ip {
    text.parse().unwrap()
}

fn job() -> ServiceName {
    JOB.parse().unwrap()
}

fn rr() -> ServiceIpEntry {
    ServiceIpEntry::new(
        IpType::RoundRobin,
        Dual::both(ip("10.30.50.2"), ip("fdff:2000::1")),
    )
}

/// A running instance with number, epoch and last octet of its InstanceIP.
fn instance(number: u32, epoch: u64, last: u8) -> InstanceEntry {
    InstanceEntry {
        instance_number: number,
        instance_ip: Some(Ip::v4([10, 30, 0, last])),
        instance_ip_v6: Some(ip("fdff::").offset(last.into())),
        namespace_ip: Some(Ip::v4([10, 18, 0, last])),
        namespace_ip_v6: Some(ip("fc00::").offset(last.into())),
        host_ip: Some(ip("192.0.2.1")),
        host_port: Some(50103),
        service_ip: vec![rr()],
        epoch,
        ..InstanceEntry::default()
    }
}

fn legacy(key: &str, instances: Vec<InstanceEntry>) -> TableQueryResult {
    TableQueryResult {
        app_name: JOB.to_owned(),
        query_key: key.to_owned(),
        instance_list: instances,
        ..TableQueryResult::default()
    }
}

/// An answer of our own manager.
fn ours(key: &str, number: u64, instances: Vec<InstanceEntry>) -> TableQueryResult {
    TableQueryResult {
        service_ip_list: Some(vec![rr()]),
        revision: Some(Revision {
            incarnation: 1,
            number,
        }),
        live: Some(
            instances
                .iter()
                .map(|entry| (entry.instance_number, entry.epoch))
                .collect(),
        ),
        ..legacy(key, instances)
    }
}

fn nothing(key: &str) -> TableQueryResult {
    TableQueryResult {
        query_key: key.to_owned(),
        live: Some(Vec::new()),
        ..TableQueryResult::default()
    }
}

fn asker() -> Asker {
    let mut asker = Asker::new(Settings::default(), 1);
    asker.handle_connection(true, s(0));
    asker
}

fn queries(asker: &mut Asker) -> Vec<String> {
    std::iter::from_fn(|| asker.poll_transmit())
        .filter_map(|transmit| match transmit {
            Transmit::Query(request) => Some(request.key().to_owned()),
            Transmit::InterestRemove(_) | Transmit::Subscribe(_) | Transmit::Unsubscribe(_) => None,
        })
        .collect()
}

fn events(asker: &mut Asker) -> Vec<Event> {
    std::iter::from_fn(|| asker.poll_event()).collect()
}

/// The numbers listed by the only event, which must be routes.
fn listed(asker: &mut Asker) -> Vec<u32> {
    let events = events(asker);
    let [Event::Routes(routes)] = events.as_slice() else {
        panic!("{events:?}")
    };
    routes.instances.iter().map(|row| row.number).collect()
}

fn knowing(instances: Vec<InstanceEntry>) -> Asker {
    let mut asker = asker();
    asker.handle_question(&Key::Name(job()), s(0));
    asker.handle_result(&ours(JOB, 1, instances), s(0)).unwrap();
    events(&mut asker);
    queries(&mut asker);
    asker
}

#[test]
fn many_questions_are_one_query_and_the_answer_serves_all_addresses() {
    let mut asker = asker();
    for _ in 0..100 {
        asker.handle_question(&Key::Address(ip("10.30.50.2")), s(0));
    }
    assert_eq!(queries(&mut asker), ["10.30.50.2"]);
    let answer = ours("10.30.50.2", 1, vec![instance(0, 1, 1)]);
    asker.handle_result(&answer, s(0)).unwrap();
    assert_eq!(asker.poll_transmit(), Some(Transmit::Subscribe(job())));
    assert_eq!(listed(&mut asker), [0]);
    for known in ["10.30.50.2", "fdff:2000::1", "10.30.0.1", "fdff::1"] {
        asker.handle_question(&Key::Address(ip(known)), s(1));
        assert_eq!(listed(&mut asker), [0], "{known}");
    }
    assert_eq!(queries(&mut asker), [""; 0]);
}

/// The legacy gateway kept a timed-out query for ever, and the address was a black hole.
#[test]
fn a_question_nobody_answers_is_repeated_given_up_and_can_be_asked_again() {
    let mut asker = asker();
    let key = Key::Address(ip("10.30.50.2"));
    asker.handle_question(&key, s(0));
    assert_eq!(queries(&mut asker), ["10.30.50.2"]);
    let (mut sent, mut told) = (Vec::new(), Vec::new());
    while asker.queries() > 0 {
        let due = asker.poll_timeout().unwrap();
        asker.handle_timeout(due);
        sent.extend(queries(&mut asker).iter().map(|_| due));
        told.extend(events(&mut asker).into_iter().map(|event| (due, event)));
    }
    let unresolved = Event::Unresolved { key: key.clone() };
    assert_eq!(told[0], (Duration::from_millis(900), unresolved));
    assert!(told[1..] == [(told[1].0, Event::Unknown { key: key.clone() })]);
    assert!((4..=6).contains(&sent.len()), "{sent:?}");
    assert!(sent.iter().all(|at| *at < s(10)), "{sent:?}");
    asker.handle_question(&key, s(11));
    assert_eq!(queries(&mut asker), ["10.30.50.2"]);
}

#[test]
fn absent_is_believed_for_a_time_that_grows() {
    let mut asker = asker();
    let key = Key::Address(ip("10.30.99.99"));
    let (mut now, mut waits) = (s(0), Vec::new());
    for _ in 0..5 {
        asker.handle_question(&key, now);
        assert_eq!(queries(&mut asker).len(), 1);
        asker.handle_result(&nothing("10.30.99.99"), now).unwrap();
        asker.handle_question(&key, now);
        let absent = Event::Absent { key: key.clone() };
        assert_eq!(events(&mut asker), [absent.clone(), absent]);
        assert_eq!(queries(&mut asker), [""; 0], "answered from memory");
        let due = asker.poll_timeout().unwrap();
        asker.handle_timeout(due);
        assert_eq!(events(&mut asker), [Event::Unknown { key: key.clone() }]);
        waits.push(due - now);
        now = due;
    }
    assert!(waits.is_sorted() && waits[0] <= s(1), "{waits:?}");
    assert!(waits[4] > s(5) && waits[4] <= s(8), "{waits:?}");
}

#[test]
fn a_pruned_instance_is_not_withdrawn_but_one_that_no_longer_lives_is() {
    let mut asker = knowing(vec![instance(0, 1, 1), instance(1, 2, 2)]);
    let mut pruned = ours("", 2, vec![instance(0, 1, 1)]);
    pruned.live = Some(vec![(0, 1), (1, 2)]);
    asker.handle_result(&pruned, s(1)).unwrap();
    assert_eq!(listed(&mut asker), [0]);
    let gone = ours("", 3, vec![instance(0, 1, 1)]);
    asker.handle_result(&gone, s(2)).unwrap();
    let withdrawn = Event::Withdrawn {
        job: job(),
        number: 1,
        epoch: 2,
    };
    assert_eq!(asker.poll_event(), Some(withdrawn));
    assert_eq!(listed(&mut asker), [0], "and nothing is left out");
}

#[test]
fn the_same_number_with_another_epoch_is_another_instance() {
    let mut asker = knowing(vec![instance(0, 1, 1)]);
    asker
        .handle_result(&ours("", 2, vec![instance(0, 5, 9)]), s(1))
        .unwrap();
    let events = events(&mut asker);
    let [
        Event::Withdrawn {
            number: 0,
            epoch: 1,
            ..
        },
        Event::Routes(routes),
    ] = events.as_slice()
    else {
        panic!("{events:?}")
    };
    assert_eq!(routes.instances[0].epoch, 5);
    asker.handle_question(&Key::Address(ip("10.30.0.1")), s(1));
    assert_eq!(queries(&mut asker), ["10.30.0.1"], "its address is unknown");
}

#[test]
fn an_overtaken_answer_changes_nothing() {
    let mut asker = knowing(vec![instance(0, 1, 1)]);
    asker
        .handle_result(&ours("", 7, vec![instance(1, 2, 2)]), s(1))
        .unwrap();
    events(&mut asker);
    asker
        .handle_result(&ours("", 6, vec![instance(0, 1, 1)]), s(1))
        .unwrap();
    assert_eq!(events(&mut asker), []);
    let mut new_life = ours("", 1, vec![instance(0, 1, 1)]);
    new_life.revision = Some(Revision {
        incarnation: 2,
        number: 1,
    });
    asker.handle_result(&new_life, s(2)).unwrap();
    assert_eq!(
        events(&mut asker).len(),
        2,
        "a restarted manager counts anew"
    );
}

#[test]
fn an_update_is_a_question_only_when_its_rows_did_not_come() {
    let mut asker = knowing(vec![instance(0, 1, 1)]);
    let told = |number| UpdatesAvailable {
        kind: Some(UpdateKind::Deployment),
        revision: Some(Revision {
            incarnation: 1,
            number,
        }),
    };
    asker.handle_update_available(&job(), &told(1), s(1));
    assert_eq!(queries(&mut asker), [""; 0]);
    asker.handle_update_available(&job(), &told(2), s(1));
    asker.handle_update_available(&job(), &told(3), s(1));
    assert_eq!(queries(&mut asker), [JOB]);
    asker
        .handle_result(&ours(JOB, 2, vec![instance(0, 1, 1)]), s(1))
        .unwrap();
    assert_eq!(
        queries(&mut asker),
        [JOB],
        "the answer was older than the news"
    );
    asker
        .handle_result(&ours(JOB, 3, vec![instance(0, 1, 1)]), s(1))
        .unwrap();
    assert_eq!(queries(&mut asker), [""; 0]);
}

#[test]
fn with_a_legacy_manager_only_an_undeployment_withdraws() {
    let mut asker = asker();
    asker.handle_question(&Key::Name(job()), s(0));
    let both = vec![instance(0, 0, 1), instance(1, 0, 2)];
    asker.handle_result(&legacy(JOB, both), s(0)).unwrap();
    assert_eq!(listed(&mut asker), [0, 1]);
    queries(&mut asker);
    asker.handle_timeout(s(1));
    assert_eq!(
        queries(&mut asker),
        [JOB],
        "once more after the subscription"
    );
    asker
        .handle_result(&legacy(JOB, vec![instance(0, 0, 1)]), s(1))
        .unwrap();
    assert_eq!(listed(&mut asker), [0], "missing is not withdrawn");
    let undeployed = UpdatesAvailable {
        kind: Some(UpdateKind::Undeployment),
        revision: None,
    };
    asker.handle_update_available(&job(), &undeployed, s(2));
    assert_eq!(queries(&mut asker), [JOB]);
    asker
        .handle_result(&legacy(JOB, vec![instance(0, 0, 1)]), s(2))
        .unwrap();
    assert!(matches!(
        events(&mut asker).as_slice(),
        [Event::Withdrawn { number: 1, .. }]
    ));
}

/// Unavailable and absent differ: a service without a running instance keeps its address and its interest.
#[test]
fn a_service_without_instances_is_unavailable_until_one_runs() {
    let mut asker = asker();
    asker.handle_question(&Key::Address(ip("10.30.50.2")), s(0));
    asker
        .handle_result(&ours("10.30.50.2", 1, Vec::new()), s(0))
        .unwrap();
    assert!(matches!(
        events(&mut asker).as_slice(),
        [Event::Unavailable(routes)] if routes.service_ips.len() == 1
    ));
    asker
        .handle_result(&ours("", 2, vec![instance(0, 1, 1)]), s(1))
        .unwrap();
    assert_eq!(listed(&mut asker), [0]);
}

#[test]
fn a_deleted_service_is_withdrawn_and_forgotten() {
    let mut asker = knowing(vec![instance(0, 1, 1)]);
    let gone = TableQueryResult {
        app_name: JOB.to_owned(),
        ..nothing(JOB)
    };
    asker.handle_result(&gone, s(1)).unwrap();
    let seen = events(&mut asker);
    assert!(
        matches!(
            seen.as_slice(),
            [Event::Withdrawn { number: 0, .. }, Event::Forgotten { .. }]
        ),
        "{seen:?}"
    );
    assert_eq!(asker.poll_transmit(), Some(Transmit::Unsubscribe(job())));
}

#[test]
fn a_used_job_is_renewed_and_an_idle_one_forgotten() {
    let mut asker = knowing(vec![instance(0, 1, 1)]);
    for now in (0..=300).map(s) {
        asker.handle_used(&job(), now);
        asker.handle_timeout(now);
        for key in queries(&mut asker) {
            let answer = ours(&key, 1, vec![instance(0, 1, 1)]);
            asker.handle_result(&answer, now).unwrap();
        }
    }
    assert_eq!(events(&mut asker), []);
    let mut said = Vec::new();
    for now in (301..=400).map(s) {
        asker.handle_timeout(now);
        asker.forget_idle(now);
        while let Some(transmit) = asker.poll_transmit() {
            if let Transmit::Query(request) = &transmit {
                let answer = ours(request.key(), 1, vec![instance(0, 1, 1)]);
                asker.handle_result(&answer, now).unwrap();
            }
            said.push(transmit);
        }
    }
    assert_eq!(events(&mut asker), [Event::Forgotten { job: job() }]);
    let end = [
        Transmit::InterestRemove(job()),
        Transmit::Unsubscribe(job()),
    ];
    assert_eq!(said[said.len() - 2..], end);
    assert_eq!(asker.poll_timeout(), None, "nothing is left behind");
}

#[test]
fn while_nobody_answers_an_idle_job_is_kept() {
    let mut asker = knowing(vec![instance(0, 1, 1)]);
    for now in (0..1000).map(s) {
        asker.handle_timeout(now);
        asker.forget_idle(now);
    }
    assert_eq!(events(&mut asker), []);
    assert_eq!(asker.routes(&job()).unwrap().instances.len(), 1);
}

/// A flow begins when nothing was used for as long as is allowed, a moment before uses are looked at.
#[test]
fn an_idle_job_that_is_used_at_last_is_kept() {
    let mut asker = knowing(vec![instance(0, 1, 1)]);
    let idle = Settings::default().interest_idle;
    asker
        .handle_result(&ours(JOB, 1, vec![instance(0, 1, 1)]), idle)
        .unwrap();
    asker.handle_timeout(idle);
    let look = idle + Duration::from_millis(300);
    asker.handle_used(&job(), look);
    asker.forget_idle(look);
    assert_eq!(events(&mut asker), []);
    asker.handle_timeout(look + idle);
    asker
        .handle_result(&ours(JOB, 1, vec![instance(0, 1, 1)]), look + idle)
        .unwrap();
    asker.forget_idle(look + idle);
    assert_eq!(events(&mut asker), [Event::Forgotten { job: job() }]);
}

#[test]
fn a_snapshot_brings_the_routes_back_without_managers() {
    let mut asker = knowing(vec![instance(0, 1, 1), instance(1, 2, 2)]);
    let before = asker.routes(&job());
    let mut restarted = Asker::new(Settings::default(), 2);
    restarted.restore(&asker.snapshot(), s(0));
    assert_eq!(restarted.routes(&job()), before);
    assert_eq!(listed(&mut restarted), [0, 1]);
    restarted.handle_question(&Key::Address(ip("fdff::2")), s(1));
    assert_eq!(listed(&mut restarted), [0, 1]);
    restarted.handle_connection(true, s(2));
    restarted.handle_timeout(s(3));
    assert_eq!(queries(&mut restarted), [JOB], "asked anew");
    assert_eq!(queries(&mut asker), [""; 0]);
}

#[test]
fn an_impossible_job_name_changes_nothing() {
    let mut asker = knowing(vec![instance(0, 1, 1)]);
    let mut bad = ours(JOB, 9, vec![instance(3, 3, 3)]);
    bad.app_name = "not a name".to_owned();
    assert!(asker.handle_result(&bad, s(1)).is_err());
    assert_eq!(events(&mut asker), []);
}

/// Any answers and updates in any order: no panic, an address leads to the job that has it, and a route that was told
/// is either still told or was withdrawn or forgotten.
#[test]
fn what_events_say_is_what_the_asker_knows() {
    bolero::check!()
        .with_type::<Vec<(u8, u8, u8, u8)>>()
        .for_each(|steps| {
            let mut asker = asker();
            let mut told: BTreeMap<ServiceName, Routes> = BTreeMap::new();
            let mut now = s(0);
            for (verb, which, mask, pause) in steps {
                now += Duration::from_millis(u64::from(*pause) * 40);
                let name = format!("a.b.c{}.d", which % 2);
                let key = match which % 3 {
                    0 => name.clone(),
                    1 => format!("10.30.0.{}", which % 8),
                    _ => String::new(),
                };
                let instances: Vec<_> = (0..4)
                    .filter(|bit| mask & (1 << bit) != 0)
                    .map(|bit: u8| instance(bit.into(), (verb >> 4).into(), bit + which % 2 * 4))
                    .collect();
                match verb % 7 {
                    0 => {
                        if let Some(key) = Key::parse(&key) {
                            asker.handle_question(&key, now);
                        }
                    }
                    1 | 2 => {
                        let mut result = ours(&key, u64::from(*pause), instances);
                        result.app_name = name;
                        asker.handle_result(&result, now).unwrap();
                    }
                    3 => {
                        let mut result = legacy(&key, instances);
                        result.app_name = if mask & 128 == 0 { name } else { String::new() };
                        asker.handle_result(&result, now).unwrap();
                    }
                    4 => {
                        let kind = Some(UpdateKind::Undeployment);
                        let update = UpdatesAvailable {
                            kind,
                            revision: None,
                        };
                        asker.handle_update_available(&name.parse().unwrap(), &update, now);
                    }
                    5 => asker.handle_result(&unavailable(&key), now).unwrap(),
                    _ => asker.handle_connection(mask % 2 == 0, now),
                }
                asker.handle_timeout(now);
                while let Some(event) = asker.poll_event() {
                    match event {
                        Event::Routes(routes) | Event::Unavailable(routes) => {
                            told.insert(routes.job.clone(), routes);
                        }
                        Event::Withdrawn { job, number, epoch } => {
                            if let Some(routes) = told.get_mut(&job) {
                                routes
                                    .instances
                                    .retain(|row| (row.number, row.epoch) != (number, epoch));
                            }
                        }
                        Event::Forgotten { job } => {
                            told.remove(&job);
                        }
                        Event::Absent { .. }
                        | Event::Unresolved { .. }
                        | Event::Unknown { .. }
                        | Event::Unanswered { .. }
                        | Event::Node(_) => {}
                    }
                }
                while asker.poll_transmit().is_some() {}
                let known: BTreeMap<_, _> = asker
                    .jobs()
                    .map(|job| (job.clone(), asker.routes(job).unwrap()))
                    .collect();
                assert_eq!(told, known);
                for (address, job) in &asker.addresses {
                    assert!(asker.jobs[job].addresses().contains(address));
                }
            }
        });
}

fn unavailable(key: &str) -> TableQueryResult {
    TableQueryResult {
        query_key: key.to_owned(),
        unavailable: true,
        ..TableQueryResult::default()
    }
}

/// The managers' root is away: nobody waits, and the answer is believed when it comes, without another question.
#[test]
fn what_the_managers_cannot_say_now_is_unresolved_until_they_say_it() {
    let mut asker = asker();
    let key = Key::Address(ip("10.30.50.2"));
    let unresolved = Event::Unresolved { key: key.clone() };
    asker.handle_question(&key, s(0));
    assert_eq!(queries(&mut asker), ["10.30.50.2"]);
    asker
        .handle_result(&unavailable("10.30.50.2"), s(0))
        .unwrap();
    asker.handle_question(&key, s(0));
    assert_eq!(
        events(&mut asker),
        [unresolved.clone(), unresolved.clone()],
        "the second from memory"
    );
    asker.handle_timeout(s(1));
    assert!(events(&mut asker).contains(&Event::Unknown { key: key.clone() }));
    queries(&mut asker);
    asker.handle_question(&key, s(1));
    assert_eq!(queries(&mut asker), ["10.30.50.2"], "asked anew");
    asker
        .handle_result(&unavailable("10.30.50.2"), s(1))
        .unwrap();
    assert_eq!(events(&mut asker), [unresolved]);
    let answer = ours("10.30.50.2", 1, vec![instance(0, 1, 1)]);
    asker.handle_result(&answer, s(2)).unwrap();
    assert_eq!(listed(&mut asker), [0]);
    assert_eq!(asker.queries(), 0);
}

/// An address that is never resolved is not asked for ever.
#[test]
fn an_unresolved_question_ends() {
    let mut asker = asker();
    let key = Key::Address(ip("10.30.50.2"));
    asker.handle_question(&key, s(0));
    asker
        .handle_result(&unavailable("10.30.50.2"), s(0))
        .unwrap();
    for second in 0..=10 {
        asker.handle_timeout(s(second));
    }
    assert_eq!(asker.queries(), 0);
}

/// A service that is known stays known: stale beats nothing.
#[test]
fn a_root_that_is_away_takes_nothing_from_what_is_known() {
    let mut asker = knowing(vec![instance(0, 1, 1)]);
    asker.handle_update_available(&job(), &UpdatesAvailable::default(), s(1));
    asker.handle_result(&unavailable(JOB), s(1)).unwrap();
    assert_eq!(events(&mut asker), []);
    assert!(asker.routes(&job()).is_some());
}

/// It was listed while it did not run yet, and runs now: only the manager can say where.
#[test]
fn an_instance_that_was_pruned_is_asked_for() {
    let mut scheduled = instance(1, 7, 11);
    scheduled.unplace();
    let mut asker = knowing(vec![instance(0, 5, 10), scheduled]);
    let mut pruned = ours("", 2, vec![instance(0, 5, 10)]);
    pruned.live = Some(vec![(0, 5), (1, 7)]);
    asker.handle_result(&pruned, s(1)).unwrap();
    assert_eq!(listed(&mut asker), [0]);
    let address = Key::Address(ip("10.30.0.11"));
    asker.handle_question(&address, s(2));
    assert_eq!(queries(&mut asker), ["10.30.0.11"]);
    let runs = vec![instance(0, 5, 10), instance(1, 7, 11)];
    asker
        .handle_result(&ours("10.30.0.11", 2, runs), s(2))
        .unwrap();
    assert_eq!(listed(&mut asker), [0, 1]);
    asker.handle_question(&address, s(3));
    assert_eq!(listed(&mut asker), [0, 1]);
    assert!(queries(&mut asker).is_empty(), "known");
}

/// A session that ended has lost every subscription; ten thousand jobs are neither subscribed nor asked for at once.
#[test]
fn after_a_reconnect_every_job_is_subscribed_and_then_asked_for_spread_over_seconds() {
    let mut asker = asker();
    let snapshot: Vec<_> = (0..10_000)
        .map(|number| TableQueryResult {
            app_name: format!("a.b.c{number}.d"),
            ..legacy("", vec![instance(0, 1, 1)])
        })
        .collect();
    asker.restore(&snapshot, s(0));
    while asker.poll_transmit().is_some() {}
    asker.handle_connection(false, s(1));
    asker.handle_connection(true, s(2));
    assert_eq!(asker.poll_transmit(), None);
    let mut subscribed = BTreeSet::new();
    let mut asked = BTreeSet::new();
    for second in 3..=6 {
        let before = asked.len();
        asker.handle_timeout(s(second));
        while let Some(transmit) = asker.poll_transmit() {
            match transmit {
                Transmit::Subscribe(job) => assert!(subscribed.insert(job.to_string())),
                Transmit::Query(request) => {
                    assert!(subscribed.contains(request.key()), "{}", request.key());
                    asked.insert(request.sname);
                }
                other @ (Transmit::InterestRemove(_) | Transmit::Unsubscribe(_)) => {
                    panic!("{other:?}")
                }
            }
        }
        let count = asked.len() - before;
        assert!((2_000..3_000).contains(&count), "{count}");
    }
    assert_eq!(asked.len(), 10_000);
}

/// Without a connection nobody can be asked: whoever asks hears so within a second, by address and by name.
#[test]
fn without_managers_what_is_unknown_fails_within_a_second() {
    let mut asker = Asker::new(Settings::default(), 1);
    for (key, at) in [
        (Key::Address(ip("10.30.50.2")), s(100)),
        (Key::Name(job()), s(200)),
    ] {
        asker.handle_question(&key, at);
        assert_eq!(events(&mut asker), []);
        asker.handle_timeout(at + Duration::from_secs(1));
        assert_eq!(events(&mut asker), [Event::Unresolved { key }]);
        asker.handle_timeout(at + s(20));
        assert_eq!(asker.queries(), 0);
        events(&mut asker);
    }
}

#[test]
fn invented_names_take_nothing_from_addresses_and_the_oldest_answer_goes_first() {
    let mut asker = asker();
    asker.settings.questions_max = 3;
    asker.settings.absent_keys_max = 3;
    let name = |letter: char| Key::parse(&format!("{letter}.x.y.z")).unwrap();
    let address = Key::Address(ip("10.30.9.9"));
    // In no order of their own: age is not spelling.
    for letter in ['c', 'd', 'a', 'b'] {
        asker.handle_question(&name(letter), s(0));
    }
    let refused = Event::Unanswered { key: name('b') };
    assert_eq!(events(&mut asker), [refused]);
    asker.handle_question(&address, s(0));
    assert_eq!(queries(&mut asker).len(), 4, "the address, too");
    for key in [address.clone(), name('c'), name('d'), name('a')] {
        let answer = nothing(key.request(None).key());
        asker.handle_result(&answer, s(0)).unwrap();
    }
    assert_eq!(events(&mut asker).len(), 4);
    asker.handle_question(&name('b'), s(0));
    asker.handle_result(&nothing("b.x.y.z"), s(0)).unwrap();
    let oldest = Event::Unknown { key: name('c') };
    let newest = Event::Absent { key: name('b') };
    assert_eq!(events(&mut asker), [oldest, newest]);
    for key in [address, name('d'), name('a'), name('b')] {
        asker.handle_question(&key, s(0));
        assert_eq!(events(&mut asker), [Event::Absent { key }]);
    }
}
