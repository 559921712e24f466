//! Towards the root: requests and whose replies they are, repetition, and the root that is away or another one.

use super::{Answerer, Timer, Transmit};
use crate::message::{NodeId, NodeKey};
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
    Revoked,
    Node(NodeKey),
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
        self.resynced(&asked);
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
            Asked::Node(key) => self.node_replied(key, status, body, now),
            Asked::Revoked => self.revoked_replied(status, body, now),
            Asked::Report(job, number) => self.report_replied(id, (job, number), status, now),
            Asked::Instance(node, request) => {
                self.instance_replied((node, request), status, body, now);
            }
            Asked::Subnet => self.subnet_replied(status, body, now),
            Asked::Return(network) => self.return_replied(network, status, now),
            Asked::Register => self.register_replied(status, now),
            Asked::Interest(job) => self.interest_replied(job, now),
        }
        self.go_on_resyncing(now);
    }

    /// A request did not leave, because too many are on their way: it is repeated after a while. That says nothing of
    /// the root.
    pub fn handle_root_busy(&mut self, id: u64, now: Duration) {
        let Some(asked) = self.asked.remove(&id) else {
            return;
        };
        self.resynced(&asked);
        if let Asked::Job(key) = &asked {
            self.tell_waiting(key, now);
        }
        self.repeat_later(asked, now);
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
            Asked::Node(key) => return self.node_unsaid(&key),
            Asked::Revoked => return self.revoked_unsaid(),
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

    /// The root's store that this manager belongs to, once it is known.
    #[must_use]
    pub fn root_store(&self) -> Option<&str> {
        self.root_store.as_deref()
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
        self.resync_all(now);
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

    /// The root cannot be asked now: everybody who waits for it hears that.
    pub(super) fn lose_root(&mut self, now: Duration) {
        if !std::mem::replace(&mut self.root_lost, true) {
            if self.register.sent.is_none() {
                self.look_for_root(now);
            }
            let keys: Vec<Key> = self.fetches.keys().cloned().collect();
            for key in keys {
                self.tell_waiting(&key, now);
            }
        }
    }

    /// One small request after the other finds out when the root is back; everything else waits for that, or longer.
    fn look_for_root(&mut self, now: Duration) {
        let pause = self.backoff().wait(1, &mut self.random) / 2;
        self.timers.set(Timer::Register, now + pause);
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
