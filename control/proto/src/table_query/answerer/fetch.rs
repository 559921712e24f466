//! Jobs fetched from the root: who waits for one, what an answer changes, and who is told that there is none now.

use super::upward::{Asked, Method};
use super::{
    Answerer, Event, Fetch, Known, Placement, REQUEST_WAIT, Report, Timer, UpdateKind, Waiter,
};
use crate::isolation::Rule;
use crate::message::{
    InstanceEntry, Job, NodeId, ServiceIpEntry, TableQueryRequest, TableQueryResult, Verb, read,
    write,
};
use crate::names::ServiceName;
use crate::table_query::Key;
use std::time::Duration;

impl Answerer {
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
            // Its gateway says so again every 5 s for 30 s, and the fetch may be over by then.
            Some(Waiter::Ended { .. }) if fetch.waiters.len() >= self.settings.keys_max => {}
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
            Key::Node(_) => unreachable!("nodes are asked for in another way"),
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

    pub(super) fn job_replied(
        &mut self,
        id: u64,
        key: Key,
        status: u16,
        body: &[u8],
        now: Duration,
    ) {
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
                self.tell_waiting(&key, now);
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
    fn learn(&mut self, request: u64, key: &Key, mut job: Job, now: Duration) {
        self.revoked.strike(&mut job);
        let name = job.job_name.clone();
        let mut ended = self.end_absences([Key::Name(name.clone())]);
        let record = self.record(&name);
        let cluster_id = self.settings.cluster_id.clone();
        let is_new = !self.jobs.contains_key(&name);
        let known = self
            .jobs
            .entry(name.clone())
            .or_insert_with(|| Known::new(job.clone(), now));
        known.fetched_at = now;
        if is_new {
            known.revision = self.forgotten_revision + 1;
        }
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
        let former = known.addresses();
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
        let suspended = &mut known.suspended;
        suspended.retain(|number, _| entry_of(*number).is_some_and(is_ours));
        known.left.retain(|number| entry_of(number).is_some());
        known.sending_on.retain(|number| entry_of(number).is_some());
        known.learn_attached(is_ours);
        let addresses = known.addresses();
        let after = shown(known);
        for ip in former.difference(&addresses) {
            if self.addresses.get(ip) == Some(&name) {
                self.addresses.remove(ip);
            }
        }
        for ip in addresses {
            self.addresses.insert(ip, name.clone());
            ended.extend(self.end_absences([Key::Address(ip)]));
        }
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
        self.await_all_taking(&name, now);
        self.note_residents(&name);
        self.note_node_keys(&name);
        self.note_vacancy(&name);
        // Most answers say what is known: a refresh of all jobs is not to keep the disk busy.
        if self.record(&name) != record {
            self.dirty.job(&name);
        }
        self.tell_standings(standings);
        self.tell_ended(&name, ended, now);
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
                .range((name.clone(), 0)..=(name.clone(), u32::MAX))
                .map(|(key, _)| key.clone())
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
                Waiter::Node { node, request } => self.tell_absent(&node, &request, now),
                Waiter::Caller { node, request } => self.handle_request(&node, &request, now),
                Waiter::Deployment(ticket) => self.events.push_back(Event::Deployment {
                    ticket,
                    stored: false,
                }),
                Waiter::Ended { .. } => {}
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

    fn satisfy(&mut self, name: &ServiceName, waiter: Waiter, now: Duration) {
        match waiter {
            Waiter::Node { node, request } => {
                let Some(key) = Key::parse(request.key()) else {
                    return;
                };
                if self.awaits_resident(name, &node, &request, now) {
                    return;
                }
                self.interest(name, &node, &key, &request, now);
                self.answer(name, &node, &request, now);
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
            Waiter::Ended { node, undeployed } => self.undeploy(name, &node, &undeployed, now),
        }
    }

    /// The nodes that wait for `key` hear, once each, that it cannot be asked now. They go on waiting.
    pub(super) fn tell_waiting(&mut self, key: &Key, now: Duration) {
        let Some(fetch) = self.fetches.get_mut(key) else {
            return;
        };
        let untold = fetch.waiters[fetch.told..].to_vec();
        fetch.told = fetch.waiters.len();
        for waiter in untold {
            match waiter {
                Waiter::Node { node, request } => {
                    match Key::parse(request.key()).and_then(|key| self.name_of(&key)) {
                        Some(name) => self.answer(&name, &node, &request, now),
                        None => self.answer_unavailable(&node, &request),
                    }
                }
                Waiter::Caller { node, request } => self.answer_unavailable(&node, &request),
                Waiter::Deployment(_) | Waiter::Instance(..) | Waiter::Ended { .. } => {}
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

    pub(super) fn refresh_due(&mut self, name: ServiceName, now: Duration) {
        if self.jobs.contains_key(&name) {
            let every = self.settings.refresh_every;
            self.timers.set(Timer::Refresh(name.clone()), now + every);
            self.resync(name);
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
