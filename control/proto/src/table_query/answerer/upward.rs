//! Towards the root: jobs fetched, instances reported and allotted, subnets, the registration.

use super::{
    Absent, Answerer, Event, Fetch, Known, Outgoing, Placement, REQUEST_WAIT, Report, Timer,
    Transmit, UpdateKind, Waiter,
};
use crate::isolation::Rule;
use crate::message::{
    InstanceEntry, Job, NetDeployStatus, NodeId, ServiceIpEntry, TableQueryRequest,
    TableQueryResult, Verb, read, write,
};
use crate::names::ServiceName;
use crate::table_query::Key;
use sluice_wire::Ip;
use std::time::Duration;

/// An HTTP request to the root manager.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RootRequest {
    /// For [`Answerer::handle_root_reply`].
    pub id: u64,
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// A JSON body.
    pub body: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Method {
    Get,
    Post,
    Delete,
}

/// What a request on its way is for.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    Job(Key),
    Report(ServiceName, u32),
    Instance(NodeId, String),
    Interest(ServiceName),
    Subnet,
    Return(Ip),
    Register,
}

/// A request of which one at a time is on its way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Single {
    pub(super) attempts: u32,
    pub(super) sent: Option<u64>,
}

impl Answerer {
    /// The root answered a request with this status and body, or (`None`) could not be reached.
    pub fn handle_root_reply(&mut self, id: u64, reply: Option<(u16, &[u8])>, now: Duration) {
        let Some(asked) = self.asked.remove(&id) else {
            // Given up and repeated; the later request is answered too.
            return;
        };
        let Some((status, body)) = reply else {
            self.lose_root(now);
            self.repeat_later(asked, now);
            return;
        };
        if std::mem::take(&mut self.root_lost) {
            self.root_is_back(now);
        }
        match asked {
            Asked::Job(key) => self.job_replied(id, key, status, body, now),
            Asked::Report(job, number) => self.report_replied(id, (job, number), status, now),
            Asked::Instance(node, request) => {
                self.instance_replied((node, request), status, body, now);
            }
            Asked::Subnet => self.subnet_replied(status, body, now),
            Asked::Return(network) => self.return_replied(network, status, now),
            Asked::Register => self.register_replied(status, now),
            Asked::Interest(job) => self.interest_replied(job, now),
        }
    }

    /// The request came to nothing: it is repeated after a while.
    pub(super) fn repeat_later(&mut self, asked: Asked, now: Duration) {
        let backoff = self.backoff();
        let mut latest = None;
        let (attempts, timer) = match asked {
            Asked::Job(key) => {
                let Some(fetch) = self.fetches.get_mut(&key) else {
                    return;
                };
                fetch.sent = None;
                (fetch.attempts, Timer::Fetch(key))
            }
            Asked::Report(job, number) => {
                let key = (job, number);
                let Some(outgoing) = self.reports.get_mut(&key) else {
                    return;
                };
                outgoing.sent = None;
                (outgoing.attempts, Timer::Report(key.0, key.1))
            }
            Asked::Instance(node, request) => {
                let key = (node, request);
                let Some(ask) = self.instances.get_mut(&key) else {
                    return;
                };
                ask.sent = None;
                latest = Some(ask.deadline);
                (ask.attempts, Timer::Instance(key.0, key.1))
            }
            Asked::Interest(job) => return self.interest_replied(job, now),
            Asked::Subnet => (self.subnet.attempts, Timer::Subnet),
            Asked::Return(network) => {
                let Some(attempts) = self.return_failed(network) else {
                    return;
                };
                (attempts, Timer::Return(network))
            }
            Asked::Register => {
                self.register.sent = None;
                return self.look_for_root(now);
            }
        };
        let at = now + backoff.wait(attempts, &mut self.random);
        self.timers
            .set(timer, latest.map_or(at, |latest| at.min(latest)));
    }

    /// Whether an answer that the root gives from the store with this identity may be believed; to be asked before
    /// [`Answerer::handle_root_reply`], which gets `None` for one that may not.
    ///
    /// The first store that answers is this manager's for good. Another one does not know our services, which is no
    /// evidence that they were deleted, and gives addresses away that ours have: such a root counts as away.
    pub fn handle_root_store(&mut self, identity: &str) -> bool {
        match &self.root_store {
            Some(ours) => ours == identity,
            None => {
                self.root_store = Some(identity.to_owned());
                self.dirty.root_store();
                true
            }
        }
    }

    /// The root answers, but is not the one that answered before: it may have lost notices and interests on the way.
    pub fn handle_root_restarted(&mut self, now: Duration) {
        self.root_is_back(now);
    }

    /// Changes may have passed by while the root was away: every job is asked again. What was to be repeated some time
    /// is repeated soon.
    fn root_is_back(&mut self, now: Duration) {
        let soon = self.settings.retry_first / 2;
        let reports = self.reports.iter().filter(|(_, it)| it.sent.is_none());
        let reports: Vec<_> = reports.map(|(key, _)| key.clone()).collect();
        for (job, number) in reports {
            let at = now + self.random.part_of(soon);
            self.timers.set(Timer::Report(job, number), at);
        }
        let fetches = self.fetches.iter().filter(|(_, it)| it.sent.is_none());
        let fetches: Vec<_> = fetches.map(|(key, _)| key.clone()).collect();
        for key in fetches {
            let at = now + self.random.part_of(soon);
            self.timers.set(Timer::Fetch(key), at);
        }
        let names: Vec<_> = self.jobs.keys().cloned().collect();
        for name in names {
            let spread = self.random.part_of(self.settings.retry_first);
            let key = Key::Name(name);
            if !self.fetches.contains_key(&key) {
                self.fetches.insert(key.clone(), Fetch::default());
                self.timers.set(Timer::Fetch(key), now + spread);
            }
        }
    }

    pub(super) fn send(
        &mut self,
        asked: Asked,
        method: Method,
        path: String,
        body: Option<Vec<u8>>,
    ) -> u64 {
        self.requests += 1;
        let id = self.requests;
        self.asked.insert(id, asked);
        self.transmits.push_back(Transmit::Root(RootRequest {
            id,
            method,
            path,
            body,
        }));
        id
    }

    pub(super) fn as_cluster(&self) -> String {
        format!("?cluster_id={}", escaped(&self.settings.cluster_id))
    }

    /// Asks the root for a job, unless that is on its way already.
    pub(super) fn fetch(&mut self, key: Key, waiter: Option<Waiter>, now: Duration) {
        let fetch = self.fetches.entry(key.clone()).or_default();
        let is_new = fetch.attempts == 0;
        let waiter = waiter.filter(|waiter| !fetch.waiters.contains(waiter));
        match waiter {
            Some(Waiter::Node { node, request } | Waiter::Caller { node, request })
                if fetch.waiters.len() >= self.settings.keys_max =>
            {
                self.answer_unavailable(&node, &request);
            }
            waiter => fetch.waiters.extend(waiter),
        }
        if is_new {
            self.send_fetch(&key, now);
        }
    }

    /// Asks again even when the question is on its way: its answer may be older than what we just heard.
    pub(super) fn refetch(&mut self, key: Key, now: Duration) {
        match self.fetches.get_mut(&key) {
            Some(fetch) if fetch.sent.is_some() => fetch.again = true,
            _ => self.fetch(key, None, now),
        }
    }

    pub(super) fn send_fetch(&mut self, key: &Key, now: Duration) {
        let path = match key {
            Key::Address(ip) if ip.is_v4() => {
                format!("ip/{}", ip.to_string().replace('.', "_"))
            }
            Key::Address(ip) => format!("ip/{ip}"),
            Key::Name(name) => name.as_str().replace('.', "_"),
        };
        let path = format!("/api/net/service/{path}/instances{}", self.as_cluster());
        let Some(fetch) = self.fetches.get_mut(key) else {
            return;
        };
        fetch.attempts = fetch.attempts.saturating_add(1);
        fetch.again = false;
        if let Some(id) = fetch.sent.take() {
            self.asked.remove(&id);
        }
        let id = self.send(Asked::Job(key.clone()), Method::Get, path, None);
        if let Some(fetch) = self.fetches.get_mut(key) {
            fetch.sent = Some(id);
        }
        self.timers
            .set(Timer::Fetch(key.clone()), now + REQUEST_WAIT);
    }

    fn job_replied(&mut self, id: u64, key: Key, status: u16, body: &[u8], now: Duration) {
        if !(200..300).contains(&status) {
            // The root does not know this cluster (400), or has a problem: register, and let the timer ask again.
            if status == 400 {
                self.timers.set(Timer::Register, now);
            }
            // A registration takes a moment only, so that the first refusal for want of one is not worth telling.
            let repeated = self
                .fetches
                .get(&key)
                .is_some_and(|fetch| fetch.attempts > 1);
            if status != 400 || repeated {
                self.tell_waiting(&key);
            }
            self.repeat_later(Asked::Job(key), now);
            return;
        }
        let Some(fetch) = self.fetches.remove(&key) else {
            return;
        };
        self.timers.cancel(&Timer::Fetch(key.clone()));
        match read::<Job>("job", body) {
            Ok(job) => {
                let name = job.job_name.clone();
                self.learn(id, &key, job, now);
                self.send_waiting_reports(&name, now);
                for waiter in fetch.waiters {
                    self.satisfy(&name, waiter, now);
                }
                if fetch.again {
                    self.refetch(Key::Name(name), now);
                } else {
                    self.drop_unused(&name);
                }
            }
            Err(_) => {
                if fetch.again {
                    self.fetches.insert(
                        key.clone(),
                        Fetch {
                            waiters: fetch.waiters,
                            ..Fetch::default()
                        },
                    );
                    self.send_fetch(&key, now);
                } else {
                    self.learn_absent(key, fetch.waiters, now);
                }
            }
        }
    }

    /// Lays a job of the root under what our nodes said. `request` is the one that it answers.
    fn learn(&mut self, request: u64, key: &Key, job: Job, now: Duration) {
        let name = job.job_name.clone();
        self.absent.remove(&Key::Name(name.clone()));
        let cluster_id = self.settings.cluster_id.clone();
        let is_new = !self.jobs.contains_key(&name);
        let known = self
            .jobs
            .entry(name.clone())
            .or_insert_with(|| Known::new(job.clone(), now));
        known.fetched_at = now;
        // Questions by name come back in order; one by address may have been overtaken.
        if matches!(key, Key::Address(_)) && job.revision < known.job.revision {
            return;
        }
        if is_new {
            self.timers.set(
                Timer::Refresh(name.clone()),
                now + self.settings.refresh_every,
            );
            for ((_, number), outgoing) in self
                .reports
                .range((name.clone(), 0)..=(name.clone(), u32::MAX))
            {
                known.placements.extend(
                    placement_of(&outgoing.report, self.requests)
                        .map(|placement| (*number, placement)),
                );
            }
        }
        let before = shown(known);
        let rules_change = before.rules != job.rules;
        let standings = if rules_change {
            self.standings_beside(&name)
        } else {
            Vec::new()
        };
        let Some(known) = self.jobs.get_mut(&name) else {
            return;
        };
        known.job = job;
        let entries = &known.job.instance_list;
        let is_ours =
            |entry: &InstanceEntry| entry.cluster_id.as_ref().is_none_or(|id| *id == cluster_id);
        let entry_of = |number: u32| entries.iter().find(|entry| entry.instance_number == number);
        known.removed.retain(|number, (epoch, after)| {
            let is_known = request <= *after;
            // What ended here may have moved to another cluster before: there it lives on.
            let hides = |entry: &InstanceEntry| *epoch != 0 && is_ours(entry);
            entry_of(*number).map_or(is_known, |entry| {
                entry.epoch <= *epoch && (is_known || hides(entry))
            })
        });
        known.placements.retain(|number, placement| {
            let Some(entry) = entry_of(*number) else {
                return request <= placement.after;
            };
            if placement.epoch == 0 {
                placement.epoch = entry.epoch;
            }
            let is_known = request <= placement.after;
            if is_known {
                return true;
            }
            // Given to another cluster, it runs with us until it runs there.
            let status = &placement.status;
            let is_here = is_ours(entry)
                || entry.host_ip == status.host_ip && entry.host_port == Some(status.host_port);
            if entry.epoch == placement.epoch && !is_here {
                known.left.insert(*number, &placement.node);
            }
            entry.epoch == placement.epoch && is_here
        });
        // Where it ends now, it is deleted; here, it has only left.
        known
            .attached
            .retain(|number, it| entry_of(*number).is_some_and(is_ours) || request <= it.after);
        known.left.retain(|number| entry_of(number).is_some());
        let addresses = known.addresses();
        let after = shown(known);
        self.addresses
            .retain(|ip, owner| *owner != name || addresses.contains(ip));
        for ip in addresses {
            self.addresses.insert(ip, name.clone());
            self.absent.remove(&Key::Address(ip));
        }
        self.dirty.job(&name);
        if !is_new && before != after {
            let fewer = after.entries.len() < before.entries.len();
            self.changed(
                &name,
                if fewer {
                    UpdateKind::Undeployment
                } else {
                    UpdateKind::Deployment
                },
            );
        }
        self.note_residents(&name);
        self.note_vacancy(&name);
        self.tell_standings(standings);
    }

    /// Reports that waited for the job's id.
    fn send_waiting_reports(&mut self, name: &ServiceName, now: Duration) {
        let waiting: Vec<_> = self
            .reports
            .range((name.clone(), 0)..=(name.clone(), u32::MAX))
            .filter(|(_, outgoing)| outgoing.sent.is_none())
            .map(|(key, _)| key.clone())
            .collect();
        for key in waiting {
            self.send_report(&key, now);
        }
    }

    fn learn_absent(&mut self, key: Key, waiters: Vec<Waiter>, now: Duration) {
        if let Key::Name(name) = &key
            && let Some(known) = self.jobs.get(name)
        {
            // It was deleted: everybody who had it hears that nothing of it lives.
            let told: Vec<NodeId> = known
                .interests
                .iter()
                .filter(|(_, interest)| interest.until.is_some())
                .map(|(node, _)| node.clone())
                .collect();
            let result = TableQueryResult::gone(name);
            for node in told {
                self.publish(&node, Verb::TableQueryResult, write(&result));
            }
            self.broadcast(name, UpdateKind::Undeployment, None);
            self.forget(name);
            let name = name.clone();
            let void: Vec<_> = self
                .reports
                .keys()
                .filter(|(job, _)| *job == name)
                .cloned()
                .collect();
            for key in void {
                self.reports.remove(&key);
                self.dirty.report(&key);
                self.timers.cancel(&Timer::Report(key.0, key.1));
            }
            self.note_residents(&name);
        }
        self.remember_absent(key, now);
        for waiter in waiters {
            match waiter {
                Waiter::Node { node, request } => self.answer_absent(&node, &request),
                Waiter::Caller { node, request } => self.handle_request(&node, &request, now),
                Waiter::Deployment(ticket) => self.events.push_back(Event::Deployment {
                    ticket,
                    stored: false,
                }),
                Waiter::Instance(node, request_id) => {
                    let request = (node, request_id);
                    if let Some(ask) = self.instances.remove(&request) {
                        let service = ask.request.service;
                        let error = format!("service {service} does not exist; apply it first");
                        self.timers
                            .cancel(&Timer::Instance(request.0.clone(), request.1.clone()));
                        self.instance_failed(&request.0, &request.1, &error, false);
                    }
                }
            }
        }
    }

    fn remember_absent(&mut self, key: Key, now: Duration) {
        if self.absent.len() >= self.settings.keys_max && !self.absent.contains_key(&key) {
            self.absent.retain(|_, absent| now < absent.until);
            if self.absent.len() >= self.settings.keys_max {
                self.absent.pop_first();
            }
        }
        let strikes = self
            .absent
            .get(&key)
            .map_or(1, |absent| absent.strikes.saturating_add(1));
        let backoff = super::Backoff {
            first: self.settings.absent_first,
            max: self.settings.absent_max,
        };
        let until = now + backoff.wait(strikes, &mut self.random);
        self.absent.insert(key, Absent { until, strikes });
    }

    fn satisfy(&mut self, name: &ServiceName, waiter: Waiter, now: Duration) {
        match waiter {
            Waiter::Node { node, request } => {
                let Some(key) = Key::parse(request.key()) else {
                    return;
                };
                if self.awaits_resident(name, &node, &request, now) {
                    return;
                }
                self.interest(name, &node, &key, request.interest_s, now);
                self.answer(name, &node, &request);
            }
            Waiter::Caller { node, request } => self.handle_request(&node, &request, now),
            Waiter::Deployment(ticket) => {
                if let Some(known) = self.jobs.get_mut(name) {
                    known.scheduled = true;
                }
                self.events.push_back(Event::Deployment {
                    ticket,
                    stored: true,
                });
            }
            Waiter::Instance(node, request) => self.ask_instance(&(node, request)),
        }
    }

    /// The root cannot be asked now: everybody who waits for it hears that.
    pub(super) fn lose_root(&mut self, now: Duration) {
        if !std::mem::replace(&mut self.root_lost, true) {
            if self.register.sent.is_none() {
                self.look_for_root(now);
            }
            let keys: Vec<Key> = self.fetches.keys().cloned().collect();
            for key in keys {
                self.tell_waiting(&key);
            }
        }
    }

    /// One small request after the other finds out when the root is back; everything else waits for that, or longer.
    fn look_for_root(&mut self, now: Duration) {
        let pause = self.backoff().wait(1, &mut self.random) / 2;
        self.timers.set(Timer::Register, now + pause);
    }

    /// The nodes that wait for `key` hear, once each, that it cannot be asked now. They go on waiting.
    fn tell_waiting(&mut self, key: &Key) {
        let Some(fetch) = self.fetches.get_mut(key) else {
            return;
        };
        let untold = fetch.waiters[fetch.told..].to_vec();
        fetch.told = fetch.waiters.len();
        for waiter in untold {
            match waiter {
                Waiter::Node { node, request } => {
                    match Key::parse(request.key()).and_then(|key| self.name_of(&key)) {
                        Some(name) => self.answer(&name, &node, &request),
                        None => self.answer_unavailable(&node, &request),
                    }
                }
                Waiter::Caller { node, request } => self.answer_unavailable(&node, &request),
                Waiter::Deployment(_) | Waiter::Instance(..) => {}
            }
        }
    }

    /// Answers a question that was put to the waiting ones at once when it is known that the root cannot be asked now.
    pub(super) fn answer_while_lost(
        &mut self,
        key: &Key,
        node: &NodeId,
        request: &TableQueryRequest,
    ) {
        if let Some(fetch) = self.fetches.get_mut(key)
            && (self.root_lost || fetch.told > 0)
        {
            fetch.told = fetch.waiters.len();
            self.answer_unavailable(node, request);
        }
    }

    /// Nobody here can say what this is, and the root is away.
    pub(super) fn answer_unavailable(&mut self, node: &NodeId, request: &TableQueryRequest) {
        let result = TableQueryResult {
            query_key: request.key().to_owned(),
            unavailable: true,
            ..TableQueryResult::default()
        };
        self.publish(node, Verb::TableQueryResult, write(&result));
    }

    /// The root need not tell us of a job any more. Lost, it costs one needless notice, which is answered by this again.
    pub(super) fn remove_interest(&mut self, name: &ServiceName) {
        let path = format!("/api/net/interest/{name}{}", self.as_cluster());
        self.send(Asked::Interest(name.clone()), Method::Delete, path, None);
    }

    /// A question asked meanwhile may have reached the root before the removal: it is asked once more.
    fn interest_replied(&mut self, name: ServiceName, now: Duration) {
        if self.jobs.contains_key(&name) {
            self.refetch(Key::Name(name), now);
        }
    }

    pub(super) fn refresh_due(&mut self, name: ServiceName, now: Duration) {
        if self.jobs.contains_key(&name) {
            let every = self.settings.refresh_every;
            self.timers.set(Timer::Refresh(name.clone()), now + every);
            self.fetch(Key::Name(name), None, now);
        }
    }

    /// Tells the root about an instance until it acknowledges; a newer report replaces an older one.
    pub(super) fn report(&mut self, job: ServiceName, number: u32, report: Report, now: Duration) {
        let key = (job, number);
        self.dirty.report(&key);
        if let Some(outgoing) = self.reports.get_mut(&key) {
            outgoing.report = report;
            if outgoing.sent.is_some() {
                // Two at a time could overtake each other.
                outgoing.again = true;
                return;
            }
        } else {
            let outgoing = Outgoing {
                report,
                attempts: 0,
                sent: None,
                again: false,
            };
            self.reports.insert(key.clone(), outgoing);
            self.note_residents(&key.0);
        }
        self.send_report(&key, now);
    }

    /// The node's instance ended before the root could be told that it runs.
    pub(super) fn unsay(&mut self, key: &(ServiceName, u32), node: &NodeId) {
        let outgoing = self.reports.get(key);
        let is_said = outgoing.is_some_and(|outgoing| match &outgoing.report {
            Report::Placed(status) => status.worker_id.as_deref() == Some(node.as_str()),
            Report::Removed { .. } => false,
        });
        if is_said {
            self.reports.remove(key);
            self.dirty.report(key);
            self.timers.cancel(&Timer::Report(key.0.clone(), key.1));
            self.note_residents(&key.0);
        }
    }

    pub(super) fn send_report(&mut self, key: &(ServiceName, u32), now: Duration) {
        let (job, number) = key;
        let id = self.jobs.get(job).map(|known| known.job.id.clone());
        let Some(outgoing) = self.reports.get_mut(key) else {
            return;
        };
        outgoing.attempts = outgoing.attempts.saturating_add(1);
        outgoing.again = false;
        let report = outgoing.report.clone();
        if let Some(sent) = outgoing.sent.take() {
            self.asked.remove(&sent);
        }
        self.timers
            .set(Timer::Report(job.clone(), *number), now + REQUEST_WAIT);
        let Some(id) = id else {
            // The root names its jobs by id; it is being asked for it.
            self.fetch(Key::Name(job.clone()), None, now);
            return;
        };
        let asked = Asked::Report(job.clone(), *number);
        let sent = match report {
            Report::Placed(status) => {
                let body = write(&NetDeployStatus {
                    job_id: id,
                    instances: vec![status],
                    cluster_id: Some(self.settings.cluster_id.clone()),
                });
                let path = format!("/api/net/service/net_deploy_status{}", self.as_cluster());
                self.send(asked, Method::Post, path, Some(body))
            }
            Report::Removed { epoch } => {
                let only = if epoch == 0 {
                    String::new()
                } else {
                    format!("&epoch={epoch}")
                };
                let path = format!("/api/net/{id}/{number}{}{only}", self.as_cluster());
                self.send(asked, Method::Delete, path, None)
            }
        };
        if let Some(outgoing) = self.reports.get_mut(key) {
            outgoing.sent = Some(sent);
        }
    }

    fn report_replied(&mut self, id: u64, key: (ServiceName, u32), status: u16, now: Duration) {
        let Some(outgoing) = self
            .reports
            .get_mut(&key)
            .filter(|out| out.sent == Some(id))
        else {
            return;
        };
        if outgoing.again {
            outgoing.sent = None;
            self.send_report(&key, now);
            return;
        }
        if status >= 500 {
            self.repeat_later(Asked::Report(key.0, key.1), now);
            return;
        }
        self.reports.remove(&key);
        self.dirty.report(&key);
        self.timers.cancel(&Timer::Report(key.0.clone(), key.1));
        if !(200..300).contains(&status) {
            // The root does not know the instance (any more); its own word about the job decides.
            self.refetch(Key::Name(key.0), now);
        }
    }
}

/// What of a job shows in an answer.
#[derive(PartialEq)]
struct Shown {
    name: String,
    service_ips: Vec<ServiceIpEntry>,
    rules: Vec<Rule>,
    entries: Vec<InstanceEntry>,
}

fn shown(known: &Known) -> Shown {
    Shown {
        name: known.job.job_name.to_string(),
        service_ips: known.job.service_ip_list.clone(),
        rules: known.job.rules.clone(),
        entries: known.entries(),
    }
}

/// What a node said about an instance of a job that is only now known.
fn placement_of(report: &Report, after: u64) -> Option<Placement> {
    let Report::Placed(status) = report else {
        return None;
    };
    let node = NodeId::new(status.worker_id.clone()?).ok()?;
    Some(Placement {
        status: status.clone(),
        node,
        epoch: 0,
        after,
    })
}

/// A text as a value in a URL's query.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}
