//! The gateway's side of the table query: questions in, routes out, interests kept while they are used.
//!
//! Timers, in words: a *query* is repeated with back-off until it is answered; who asked does not wait longer than
//! `patience`, and a question nobody answers is given up after `answer_max`, the refresh of a known job never is. An *absent* key is asked again only after its answer
//! expired, later each time. A job is *renewed* while it is used, which also finds changes that no message told.
//! A job that is *idle* is forgotten when all that is used has just been told, but only while the managers answer: stale
//! beats nothing.

mod absences;
mod answers;
mod belief;
mod interface;
mod nodes;
mod suspects;
mod unlisted;

pub use belief::Refused;
pub use interface::{ABSENT_MAX, ANSWER_MAX, Event, Mqtt, RENEW, Routes, Settings, Transmit};

use super::backoff::{Backoff, Random};
use super::timers::Timers;
use super::{Key, Row, ServiceAddress};
use crate::isolation::Rule;
use crate::message::{Revision, TableQueryResult, UpdateKind, UpdatesAvailable};
use crate::names::{NameError, ServiceName};
use crate::signature::ClusterKey;
use absences::{Absences, KINDS, kind};
use sluice_wire::{InstanceIp, Ip, ServiceIp};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// How recently the managers must have said anything before an idle job is forgotten.
const HEARD_RECENTLY: Duration = Duration::from_secs(10);
/// How soon a job learnt from a legacy manager is asked again: a change between our question and our subscription
/// is told to nobody.
const SETTLE: Duration = Duration::from_secs(1);
/// How long an idle job waits for proof that the managers answer before it is forgotten.
const PROBE: Duration = Duration::from_secs(2);
/// Refreshes after a reconnect are spread over so much time for each job, within these bounds: a gateway with thousands
/// of jobs is to be a part of its manager's load, not most of it. Jobs that a rule opens come one after the other in this
/// distance. The least leaves time for the last answers within a second.
const REFRESH_SPREAD_EACH: Duration = Duration::from_micros(400);
const REFRESH_SPREAD_MIN: Duration = Duration::from_millis(800);
const REFRESH_SPREAD_MAX: Duration = Duration::from_secs(4);

/// A query that was not answered yet.
#[derive(Clone, Debug)]
struct Query {
    asked_at: Duration,
    /// Transmissions since the connection came up.
    attempts: u32,
    /// Somebody waits for the answer; otherwise it is a refresh.
    wanted: bool,
    /// The job changed after the question left: the answer may be old, so ask once more.
    again: bool,
}

#[derive(Clone, Debug)]
struct Held {
    row: Row,
    /// In the last answer.
    listed: bool,
    /// When it was last asked for because packets use it all the same.
    asked_at: Option<Duration>,
    /// What of it the cluster's signature was verified for, in short.
    verified: Option<[u8; 32]>,
}

#[derive(Clone, Debug)]
struct Job {
    name: ServiceName,
    /// An answer said that it exists.
    confirmed: bool,
    service_ips: Vec<ServiceAddress>,
    rules: Vec<Rule>,
    rows: BTreeMap<u32, Held>,
    /// By instance number, the epoch of the latest instance that was believed in.
    epochs: BTreeMap<u32, u64>,
    revision: Option<Revision>,
    /// The latest revision that an update spoke of.
    told: Option<Revision>,
    used_at: Duration,
    renewed_at: Duration,
    /// Numbers of the instances on this node; they keep the interest.
    local: BTreeSet<u32>,
    /// A legacy manager said that an instance is gone, not which: the next answer's missing ones are withdrawn.
    withdraw_missing: bool,
    /// In this session of the broker.
    subscribed: bool,
    /// Instances to which delivery fails, as far as the gateway said.
    suspects: BTreeSet<u32>,
    /// Numbers of the instances that live and that the last answer leaves out.
    unlisted: BTreeSet<u32>,
    /// Numbers of the instances that were asked for by name while answers left them out.
    named: BTreeSet<u32>,
    /// The manager was told of suspects once, and keeps believing that until it is told otherwise.
    has_told_suspects: bool,
}

impl Job {
    fn new(name: ServiceName, now: Duration) -> Self {
        Self {
            name,
            confirmed: false,
            service_ips: Vec::new(),
            rules: Vec::new(),
            rows: BTreeMap::new(),
            epochs: BTreeMap::new(),
            revision: None,
            told: None,
            used_at: now,
            renewed_at: now,
            local: BTreeSet::new(),
            withdraw_missing: false,
            subscribed: false,
            suspects: BTreeSet::new(),
            unlisted: BTreeSet::new(),
            named: BTreeSet::new(),
            has_told_suspects: false,
        }
    }

    /// Whether our event says what the key means: not for an instance that was pruned from the answers.
    fn tells(&self, key: &Key) -> bool {
        let Key::Address(ip) = key else { return true };
        let mut rows = self.rows.values();
        let held = rows.find(|held| held.row.instance_ip.iter().any(|own| own.ip() == *ip));
        held.is_none_or(|held| held.listed)
    }

    fn addresses(&self) -> BTreeSet<Ip> {
        let services = self
            .service_ips
            .iter()
            .flat_map(|address| address.ip.iter().map(ServiceIp::ip));
        let instances = self
            .rows
            .values()
            .flat_map(|held| held.row.instance_ip.iter().map(InstanceIp::ip));
        services.chain(instances).collect()
    }

    fn routes(&self) -> Routes {
        Routes {
            job: self.name.clone(),
            service_ips: self.service_ips.clone(),
            rules: self.rules.clone(),
            instances: self.listed().cloned().collect(),
            unlisted: self.unlisted.clone(),
        }
    }

    /// Answers leave instances out.
    fn is_pruned(&self) -> bool {
        !self.unlisted.is_empty()
    }

    /// The rows of the last answer.
    fn listed(&self) -> impl Iterator<Item = &Row> {
        let listed = self.rows.values().filter(|held| held.listed);
        listed.map(|held| &held.row)
    }

    fn event(&self) -> Event {
        let routes = self.routes();
        if routes.instances.iter().any(|row| row.place.is_some()) {
            Event::Routes(routes)
        } else {
            Event::Unavailable(routes)
        }
    }
}

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Timer {
    Query(Key),
    Absent(Key),
    /// Ask once, whether it is used or not.
    Refresh(ServiceName),
    Renew(ServiceName),
    Idle(ServiceName),
}

/// The gateway's side of the table query. See the module.
#[derive(Clone, Debug)]
pub struct Asker {
    settings: Settings,
    random: Random,
    connected: bool,
    /// Whose rows are believed; `None`: everybody's.
    cluster_key: Option<ClusterKey>,
    refused: Refused,
    /// When a manager last answered.
    heard_at: Option<Duration>,
    queries: BTreeMap<Key, Query>,
    /// Queries on addresses, on names, and on nodes.
    open: [usize; KINDS],
    absent: Absences,
    jobs: BTreeMap<ServiceName, Job>,
    addresses: BTreeMap<Ip, ServiceName>,
    /// Jobs that nothing used for long, as far as has been told.
    idle: BTreeSet<ServiceName>,
    timers: Timers<Timer>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

impl Asker {
    #[must_use]
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            settings,
            random: Random::new(seed),
            connected: false,
            cluster_key: None,
            refused: Refused::default(),
            heard_at: None,
            queries: BTreeMap::new(),
            open: [0; KINDS],
            absent: Absences::default(),
            jobs: BTreeMap::new(),
            addresses: BTreeMap::new(),
            idle: BTreeSet::new(),
            timers: Timers::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Somebody needs to know `key`. The answer is an event: at once when it is known, later otherwise. One query is on
    /// the way per key however often it is asked.
    pub fn handle_question(&mut self, key: &Key, now: Duration) {
        if let Some(job) = self.job_of(key)
            && let Some(job) = self.jobs.get_mut(&job)
        {
            job.used_at = now;
            if job.confirmed && job.tells(key) {
                self.events.push_back(job.event());
                return;
            }
        }
        if let Some(absent) = self.absent.get(key).filter(|absent| !absent.expired) {
            self.events.push_back(absent.event(key.clone()));
            return;
        }
        if let Some(query) = self.queries.get_mut(key) {
            if !query.wanted {
                query.wanted = true;
                query.asked_at = now;
                if matches!(key, Key::Address(_) | Key::Node(_)) {
                    // Unresolved a while ago: the managers may know by now.
                    query.attempts = 0;
                    self.transmit_query(key.clone(), now);
                } else {
                    let patience = now + self.settings.patience;
                    self.timers.set(Timer::Query(key.clone()), patience);
                }
            }
            return;
        }
        if self.open[kind(key)] >= self.settings.questions_max {
            self.events
                .push_back(Event::Unanswered { key: key.clone() });
            return;
        }
        self.ask(key.clone(), true, now);
    }

    /// A message on `nodes/N/net/tablequery/result`.
    ///
    /// # Errors
    /// When the answer names a job that no service can have; nothing changes then.
    pub fn handle_result(
        &mut self,
        result: &TableQueryResult,
        now: Duration,
    ) -> Result<(), NameError> {
        self.heard_at = Some(now);
        let key = Key::parse(&result.query_key);
        if result.unavailable {
            if let Some(key) = key {
                self.unresolved(key, now);
            }
            return Ok(());
        }
        if let Some(Key::Node(key)) = key {
            self.node_result(key, result, now);
            return Ok(());
        }
        let exists = !result.instance_list.is_empty()
            || result.service_ip_list.is_some()
            || (result.live.is_none() && self.is_confirmed(&result.app_name));
        if result.app_name.is_empty() || !exists {
            self.absent(key, result, now);
            return Ok(());
        }
        let name = ServiceName::parse(&result.app_name)?;
        self.present(name, key, result, now);
        Ok(())
    }

    /// A message on `jobs/J/updates_available`.
    pub fn handle_update_available(
        &mut self,
        job: &ServiceName,
        update: &UpdatesAvailable,
        now: Duration,
    ) {
        let Some(known) = self.jobs.get_mut(job) else {
            return;
        };
        if let (Some(told), Some(have)) = (update.revision, known.revision)
            && told.incarnation == have.incarnation
            && told.number <= have.number
        {
            return;
        }
        known.told = update.revision;
        if update.revision.is_none() && update.kind == Some(UpdateKind::Undeployment) {
            known.withdraw_missing = true;
        }
        let name = known.name.clone();
        self.refresh(name, now);
    }

    /// A packet, or a flow that lives, uses the job: its interest goes on.
    pub fn handle_used(&mut self, job: &ServiceName, now: Duration) {
        if let Some(job) = self.jobs.get_mut(job) {
            job.used_at = now;
        }
    }

    /// Forgets the jobs that became idle. To be called every now and then, and right after [`Asker::handle_used`] was for
    /// all that is used: a flow that began since the last time would end with its job otherwise.
    pub fn forget_idle(&mut self, now: Duration) {
        for job in std::mem::take(&mut self.idle) {
            self.judge_idle(job, now);
        }
    }

    /// An instance of the job runs on this node, or stopped. While one runs the interest in its job lives.
    pub fn handle_local(&mut self, job: &ServiceName, number: u32, runs: bool, now: Duration) {
        if !runs {
            if let Some(job) = self.jobs.get_mut(job) {
                job.local.remove(&number);
                job.used_at = now;
            }
            return;
        }
        let name = self.hold(job, now);
        let mut is_first = false;
        if let Some(job) = self.jobs.get_mut(&name) {
            is_first = job.local.is_empty();
            job.local.insert(number);
        }
        if is_first {
            // What did not exist for those who ran here before may exist for this one.
            self.forget_absent();
        }
        self.refresh(name, now);
    }

    /// The connection to the broker came up or was lost. After it comes up every job is subscribed and asked again, one
    /// after the other: a session may have ended, and changes may have passed by. Those that a rule opens to others come
    /// first: the rule may have been revoked meanwhile, and flows must not go on by it.
    pub fn handle_connection(&mut self, up: bool, now: Duration) {
        self.connected = up;
        if !up {
            return;
        }
        for job in self.jobs.values_mut() {
            job.subscribed = false;
        }
        self.refresh_all(now);
        let keys: Vec<_> = self.queries.keys().cloned().collect();
        for key in keys {
            if let Key::Name(name) = &key {
                self.subscribe(name);
            }
            if let Some(query) = self.queries.get_mut(&key) {
                query.attempts = 0;
            }
            self.transmit_query(key, now);
        }
    }

    /// Asks for every job anew, one after the other; first for those that a rule opens to others.
    fn refresh_all(&mut self, now: Duration) {
        let jobs = u32::try_from(self.jobs.len()).unwrap_or(u32::MAX);
        let spread = REFRESH_SPREAD_EACH
            .saturating_mul(jobs)
            .clamp(REFRESH_SPREAD_MIN, REFRESH_SPREAD_MAX);
        let mut opened = Vec::new();
        for job in self.jobs.values_mut() {
            if !job.rules.is_empty() {
                opened.push((job.used_at, job.name.clone()));
                continue;
            }
            let wait = self.random.part_of(spread);
            self.timers
                .set(Timer::Refresh(job.name.clone()), now + wait);
        }
        // What flows use before what nobody uses.
        opened.sort_by_key(|(used_at, _)| Reverse(*used_at));
        let mut at = now;
        for (_, job) in opened {
            self.timers.set(Timer::Refresh(job), at);
            at += REFRESH_SPREAD_EACH;
        }
    }

    /// Does what is due. Call it when [`Asker::poll_timeout`] says so; earlier or later is harmless.
    pub fn handle_timeout(&mut self, now: Duration) {
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Query(key) => self.query_due(key, now),
                Timer::Absent(key) => self.absent_due(key, now),
                Timer::Refresh(job) => self.refresh_due(job, now),
                Timer::Renew(job) => self.renew_due(job, now),
                Timer::Idle(job) => {
                    self.idle.insert(job);
                }
            }
        }
    }

    /// When [`Asker::handle_timeout`] is next due. Every `handle_*` may change it.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.timers.next()
    }

    /// The next thing to send. Every `handle_*` may add some.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next change. Every `handle_*` may add some.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What is known about a job.
    #[must_use]
    pub fn routes(&self, job: &ServiceName) -> Option<Routes> {
        self.jobs
            .get(job)
            .filter(|job| job.confirmed)
            .map(Job::routes)
    }

    /// The jobs that are known, in name order.
    pub fn jobs(&self) -> impl Iterator<Item = &ServiceName> {
        self.jobs
            .values()
            .filter(|job| job.confirmed)
            .map(|job| &job.name)
    }

    /// When a manager last answered anything.
    #[must_use]
    pub const fn heard_at(&self) -> Option<Duration> {
        self.heard_at
    }

    /// When the oldest question was asked that nobody has answered yet.
    #[must_use]
    pub fn unanswered_since(&self) -> Option<Duration> {
        self.queries.values().map(|query| query.asked_at).min()
    }

    /// Queries without an answer yet.
    #[must_use]
    pub fn queries(&self) -> usize {
        self.queries.len()
    }

    /// Everything known, to be kept on disk and given to [`Asker::restore`] after a restart.
    #[must_use]
    pub fn snapshot(&self) -> Vec<TableQueryResult> {
        let entries = |job: &Job| TableQueryResult {
            app_name: job.name.to_string(),
            query_key: String::new(),
            instance_list: job.rows.values().map(|held| held.row.entry()).collect(),
            service_ip_list: Some(job.service_ips.iter().map(ServiceAddress::entry).collect()),
            revision: job.revision,
            rules: job.rules.clone(),
            ..TableQueryResult::default()
        };
        self.jobs
            .values()
            .filter(|job| job.confirmed)
            .map(entries)
            .collect()
    }

    /// Takes over a snapshot of an earlier life. Its routes come out as events, and are asked anew once the managers
    /// can be reached. Jobs whose names are impossible are left out.
    pub fn restore(&mut self, snapshot: &[TableQueryResult], now: Duration) {
        for result in snapshot {
            if let Ok(name) = ServiceName::parse(&result.app_name) {
                let name = self.hold(&name, now);
                self.replace_rows(&name, result, belief::believed_before(result), now);
                if let Some(job) = self.jobs.get(&name) {
                    self.events.push_back(job.event());
                }
            }
        }
    }

    fn job_of(&self, key: &Key) -> Option<ServiceName> {
        match key {
            Key::Address(ip) => self.addresses.get(ip).cloned(),
            Key::Name(name) => Some(name.clone()),
            Key::Node(_) => None,
        }
    }

    fn is_confirmed(&self, name: &str) -> bool {
        ServiceName::parse(name)
            .is_ok_and(|name| self.jobs.get(&name).is_some_and(|job| job.confirmed))
    }

    /// Makes a job known as something we care about; returns its name as it is spelled from now on.
    fn hold(&mut self, name: &ServiceName, now: Duration) -> ServiceName {
        if let Some(job) = self.jobs.get(name) {
            return job.name.clone();
        }
        self.jobs.insert(name.clone(), Job::new(name.clone(), now));
        self.timers
            .set(Timer::Idle(name.clone()), now + self.settings.interest_idle);
        self.timers
            .set(Timer::Renew(name.clone()), now + self.settings.renew);
        self.subscribe(name);
        name.clone()
    }

    /// Hears of the job's changes, from before it is asked for.
    fn subscribe(&mut self, name: &ServiceName) {
        if let Some(job) = self.jobs.get_mut(name)
            && self.connected
            && !job.subscribed
        {
            job.subscribed = true;
            self.transmits
                .push_back(Transmit::Subscribe(job.name.clone()));
        }
    }

    /// Asks for a known job again, or once more after the answer that is on its way.
    fn refresh(&mut self, name: ServiceName, now: Duration) {
        let key = Key::Name(name);
        match self.queries.get_mut(&key) {
            Some(query) => query.again = true,
            None => self.ask(key, false, now),
        }
    }

    fn ask(&mut self, key: Key, wanted: bool, now: Duration) {
        if let Key::Name(name) = &key
            && let Some(job) = self.jobs.get_mut(name)
        {
            job.renewed_at = now;
        }
        let former = self.queries.insert(
            key.clone(),
            Query {
                asked_at: now,
                attempts: 0,
                wanted,
                again: false,
            },
        );
        if former.is_none() {
            self.open[kind(&key)] += 1;
        }
        self.transmit_query(key, now);
    }

    /// Sends a query if there is a connection, and sets the time of its repetition or its end.
    fn transmit_query(&mut self, key: Key, now: Duration) {
        let Some(query) = self.queries.get_mut(&key) else {
            return;
        };
        let refreshes = matches!(&key, Key::Name(name) if self.jobs.contains_key(name));
        let mut due = if query.wanted {
            Some(query.asked_at + self.settings.patience)
        } else {
            (!refreshes).then_some(query.asked_at + self.settings.answer_max)
        };
        if self.connected {
            query.attempts += 1;
            let backoff = Backoff {
                first: self.settings.retry_first,
                max: self.settings.retry_max,
            };
            let again = now + backoff.wait(query.attempts, &mut self.random);
            due = Some(due.map_or(again, |due| due.min(again)));
            let lifetime_s = self.settings.renew.as_secs().saturating_mul(3);
            let interest_s = u32::try_from(lifetime_s).unwrap_or(u32::MAX);
            let mut request = key.request(Some(interest_s));
            request.unreachable = self.unreachable(&key);
            request.instances = self.named(&key);
            self.transmits.push_back(Transmit::Query(request));
        }
        match due {
            Some(due) => self.timers.set(Timer::Query(key), due),
            None => self.timers.cancel(&Timer::Query(key)),
        }
    }

    fn query_due(&mut self, key: Key, now: Duration) {
        let Some(query) = self.queries.get(&key) else {
            return;
        };
        let asked_at = query.asked_at;
        if query.wanted && now >= asked_at + self.settings.patience {
            self.unresolved(key.clone(), now);
        }
        // Only the refresh of a job goes on until it is answered.
        let refreshes = matches!(&key, Key::Name(name) if self.jobs.contains_key(name));
        if !refreshes && now >= asked_at + self.settings.answer_max {
            self.answered(&key);
            return;
        }
        self.transmit_query(key, now);
    }

    /// Drops a job. `told`: the manager still has our interest and must be told.
    fn forget(&mut self, name: &ServiceName, told: bool) {
        let Some(job) = self.jobs.remove(name) else {
            return;
        };
        self.release_addresses(name, &job.addresses());
        self.timers.cancel(&Timer::Refresh(name.clone()));
        self.timers.cancel(&Timer::Renew(name.clone()));
        self.timers.cancel(&Timer::Idle(name.clone()));
        self.idle.remove(name);
        self.answered(&Key::Name(name.clone()));
        if told {
            self.transmits
                .push_back(Transmit::InterestRemove(name.clone()));
        }
        if self.connected && job.subscribed {
            self.transmits
                .push_back(Transmit::Unsubscribe(name.clone()));
        }
        if job.confirmed {
            self.events.push_back(Event::Forgotten { job: job.name });
        }
    }

    /// Asks again unless the same question is on its way.
    fn refresh_due(&mut self, name: ServiceName, now: Duration) {
        self.subscribe(&name);
        let key = Key::Name(name);
        if self.connected && !self.queries.contains_key(&key) {
            self.ask(key, false, now);
        }
    }

    fn renew_due(&mut self, name: ServiceName, now: Duration) {
        let Some(job) = self.jobs.get(&name) else {
            return;
        };
        let used = !job.local.is_empty() || job.used_at >= job.renewed_at;
        self.timers
            .set(Timer::Renew(name.clone()), now + self.settings.renew);
        if used {
            self.refresh_due(name, now);
        }
    }

    fn judge_idle(&mut self, name: ServiceName, now: Duration) {
        let Some(job) = self.jobs.get(&name) else {
            return;
        };
        let expires = job.used_at + self.settings.interest_idle;
        let heard = self
            .heard_at
            .is_some_and(|heard| now <= heard + HEARD_RECENTLY);
        let again = if now < expires {
            expires
        } else if !self.connected || !job.local.is_empty() {
            now + self.settings.interest_idle
        } else if heard {
            self.forget(&name, true);
            return;
        } else {
            self.refresh_due(name.clone(), now);
            now + PROBE
        };
        self.timers.set(Timer::Idle(name), again);
    }
}

#[cfg(test)]
mod tests;
