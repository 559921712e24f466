//! A node that was refused a service hears when it may know it, for as long as it may believe that there is none.

use super::*;
use crate::isolation::may_call;
use crate::table_query::answerer::absence::BELIEVED_MAX;

/// A site whose node has a shop, with questions about the bank that were refused.
fn refused(keys: &[&str]) -> Site {
    let mut site = Site::new(Isolation::Enforce, &[]);
    site.bank_at = "c2";
    site.deployed(SHOP, true);
    for key in keys {
        assert!(is_gone(&site.asked(key)));
    }
    site
}

impl Site {
    fn passes(&mut self, time: Duration) -> Vec<TableQueryResult> {
        self.now += time;
        self.answerer.handle_timeout(self.now);
        self.told()
    }

    fn knows(&self, job: &str) -> bool {
        self.answerer.jobs().any(|it| *it == name(job))
    }
}

fn keys_of(told: &[TableQueryResult]) -> Vec<&str> {
    let mut keys: Vec<_> = told.iter().map(|it| it.query_key.as_str()).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn a_new_rule_is_told_to_whom_was_refused() {
    // The caller's side, and the side of whom it calls, which shall answer.
    for (from, to, about) in [(SHOP, BANK, BANK), (BANK, SHOP, SHOP)] {
        let mut site = refused(&[BANK, "10.30.0.3"]);
        let told = site.rules_are(&[rule(from, to)], about);
        assert_eq!(keys_of(&told), ["10.30.0.3", BANK], "{told:?}");
        let answers = about == SHOP;
        assert!(
            told.iter()
                .all(|it| replies_only(it) == answers && !is_gone(it))
        );
        // Once; it is interested when it asks again.
        assert!(!site.is_interested(BANK));
        assert_eq!(site.rules_are(&[rule(from, to)], about), []);
    }
}

#[test]
fn a_resident_that_may_call_is_told_to_its_node() {
    let mut site = refused(&["10.30.0.3"]);
    let told = site.deployed(CART, true);
    assert_eq!(keys_of(&told), [""; 0], "of the shop's tenant");
    site.bank_at = "c1";
    let told = site.deployed(BANK, true);
    assert_eq!(keys_of(&told), ["10.30.0.3"]);
}

/// A rule that is about others, or that comes when nobody believes any more, is told to nobody.
#[test]
fn a_refusal_ends_with_the_belief() {
    let mut site = refused(&[BANK]);
    let told = site.rules_are(&[rule(CART, BANK)], BANK);
    assert_eq!(told, []);
    site.passes(BELIEVED_MAX - Duration::from_secs(1));
    assert!(site.knows(BANK), "somebody believes that there is no bank");
    site.passes(Duration::from_secs(1));
    assert!(!site.knows(BANK), "nobody does");
    let told = site.rules_are(&[rule(SHOP, BANK)], BANK);
    assert_eq!(told, []);
    assert_eq!(
        site.answerer.poll_timeout().map(|due| due > site.now),
        Some(true)
    );
}

#[test]
fn a_deleted_service_is_refused_to_nobody() {
    let mut site = refused(&[BANK]);
    site.answerer.forget(&name(BANK));
    assert_eq!(site.answerer.refusals.nodes(&name(BANK)).count(), 0);
    assert!(!site.answerer.refusals.contains(&name(BANK)));
    site.answerer.tell_refused(&node());
    assert_eq!(site.told(), []);
}

/// A legacy node asks for every packet anew.
#[test]
fn a_legacy_node_is_told_nothing_that_it_did_not_ask() {
    let mut site = refused(&[]);
    let question = Key::parse(BANK).unwrap().request(None);
    site.answerer.handle_request(&node(), &question, NOW);
    assert!(site.told().iter().all(is_gone));
    assert!(!site.knows(BANK));
    assert_eq!(site.rules_are(&[rule(SHOP, BANK)], BANK), []);
}

/// A scan of another tenant's instances fills neither this node's share nor everybody's.
#[test]
fn a_scan_is_remembered_by_its_end_only() {
    let mut site = refused(&[]);
    site.instances = 200;
    let keys: Vec<_> = (0..200).map(|at| format!("10.30.{at}.3")).collect();
    for key in &keys {
        site.now += Duration::from_millis(1);
        assert!(is_gone(&site.asked(key)));
    }
    let told = site.rules_are(&[rule(SHOP, BANK)], BANK);
    let mut last: Vec<_> = keys[200 - 64..].iter().map(String::as_str).collect();
    last.sort_unstable();
    assert_eq!(keys_of(&told), last);

    let mut site = refused(&[]);
    site.instances = 200;
    site.answerer.settings.keys_max = 10;
    for key in &keys {
        site.asked(key);
    }
    let told = site.rules_are(&[rule(SHOP, BANK)], BANK);
    assert_eq!(told.len(), 10);
}

/// What the model knows: who runs where by the nodes' own words, the rules of the root, and what each node believes.
#[derive(Default)]
struct Model {
    residents: BTreeSet<(usize, usize)>,
    rules: BTreeSet<usize>,
    /// By node and key: the service, and since when it is believed that there is none, once that was answered.
    believes: BTreeMap<(usize, String), (usize, Option<Duration>)>,
}

const JOBS: [&str; 3] = [SHOP, CART, BANK];

fn all_rules() -> Vec<Rule> {
    vec![
        rule(SHOP, BANK),
        rule(BANK, CART),
        rule("cart.*.*.*", "bank.*.*.*"),
        rule("*.*.*.*", "*.*.*.*"),
    ]
}

impl Model {
    fn rules(&self) -> Vec<Rule> {
        let all = all_rules();
        self.rules.iter().map(|at| all[*at].clone()).collect()
    }

    fn may_know(&self, node: usize, job: usize) -> bool {
        let (job, rules) = (name(JOBS[job]), self.rules());
        let mut here = self.residents.iter().filter(|it| it.0 == node).peekable();
        here.peek().is_none()
            || here.any(|(_, resident)| {
                let resident = name(JOBS[*resident]);
                may_call(&resident, &job, &rules) || may_call(&job, &resident, &rules)
            })
    }
}

/// Everything that is said until nobody says anything more.
fn settle(site: &mut Site, model: &mut Model) {
    loop {
        let mut requests = Vec::new();
        while let Some(transmit) = site.answerer.poll_transmit() {
            match transmit {
                Transmit::Publish { topic, payload } if topic.ends_with("tablequery/result") => {
                    let node = usize::from(topic.starts_with("nodes/n2/"));
                    let told: TableQueryResult = read("answer", &payload).unwrap();
                    let belief = (node, told.query_key.clone());
                    if !is_gone(&told) {
                        model.believes.remove(&belief);
                    } else if let Some(believed) = model.believes.get_mut(&belief) {
                        believed.1 = Some(site.now);
                    }
                }
                Transmit::Publish { .. } => {}
                Transmit::Root(request) => requests.push(request),
            }
        }
        if requests.is_empty() {
            return;
        }
        for request in requests {
            site.reply(&request);
        }
    }
}

/// Whatever happens: who believes that a service does not exist may not know it.
#[test]
fn nobody_believes_in_an_absence_that_is_over() {
    bolero::check!()
        .with_type::<Vec<(u8, u8, u8)>>()
        .for_each(|acts| {
            let mut site = Site::new(Isolation::Enforce, &[]);
            site.instances = 2;
            let mut model = Model::default();
            for (act, what, who) in acts.iter().take(60) {
                let (node, job) = (usize::from(who % 2), usize::from(what % 3));
                let id = NodeId::new(["n1", "n2"][node]).unwrap();
                match act % 8 {
                    0..3 => {
                        let keys = [JOBS[job].to_owned(), format!("10.30.0.{}", job + 1)];
                        let key = keys[usize::from(what / 3 % 2)].clone();
                        let request = Key::parse(&key).unwrap().request(Some(180));
                        model.believes.insert((node, key), (job, None));
                        site.answerer.handle_request(&id, &request, site.now);
                    }
                    3 | 4 => {
                        let runs = Deployed {
                            instance_number: u32::from(who % 2),
                            ..deployed(JOBS[job])
                        };
                        site.answerer.handle_deployed(&id, &runs, site.now).unwrap();
                        model.residents.insert((node, job));
                    }
                    5 => {
                        let ended = Undeployed {
                            appname: JOBS[job].to_owned(),
                            instance_number: u32::from(who % 2),
                            epoch: 0,
                        };
                        site.answerer
                            .handle_undeployed(&id, &ended, site.now)
                            .unwrap();
                        model.residents.remove(&(node, job));
                    }
                    6 => {
                        let changed = usize::from(what % 4);
                        if !model.rules.remove(&changed) {
                            model.rules.insert(changed);
                        }
                        site.rules = model.rules();
                        for job in JOBS {
                            let update = JobUpdate {
                                job_name: name(job),
                                instance_number: -1,
                                kind: UpdateKind::Deployment,
                            };
                            site.answerer.handle_job_update(&update, site.now);
                            settle(&mut site, &mut model);
                        }
                    }
                    _ => {
                        site.now += Duration::from_millis(u64::from(*what) * 10);
                        site.answerer.handle_timeout(site.now);
                    }
                }
                settle(&mut site, &mut model);
                for ((node, key), (job, since)) in &model.believes {
                    let believes = since.is_some_and(|at| site.now < at + BELIEVED_MAX);
                    assert!(
                        !believes || !model.may_know(*node, *job),
                        "n{} believes that {key} does not exist",
                        node + 1
                    );
                }
            }
        });
}
