//! The one task that owns a cluster manager's state: messages, requests and time in, messages and requests out.

use super::api::{Ask, Resolution, View};
use super::bus::Bus;
use super::calls::{Calls, Outcome};
use super::views;
use super::webhook::Webhook;
use crate::broker::{Broker, Message};
use crate::clock::Clock;
use crate::http::{Answer, CallError, INCARNATION, REVOCATIONS, STORE, stopped};
use crate::log_limit::warn_limited;
use crate::store::{Store, StoreError, Ticket, Waiter};
use sluice_proto::message::{Topic, Verb};
use sluice_proto::table_query::answerer::{Answerer, Event, PublishError, Transmit};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// See the module.
pub(super) struct Site {
    pub(super) answerer: Answerer,
    pub(super) bus: Bus,
    /// The embedded broker, to see which nodes are connected.
    pub(super) broker: Option<Broker>,
    calls: Calls,
    webhook: Webhook,
    store: Store,
    waiter: Waiter,
    pub(super) clock: Clock,
    /// What waits for the disk, in the order in which it will be sent.
    outgoing: VecDeque<(Ticket, Outgoing)>,
    /// The last write that what is sent has to wait for.
    awaited: Ticket,
    /// Requests of table queries: their answers are not worth a sync (see [`Site::flush`]).
    queries: BTreeSet<u64>,
    /// Who asked that a key be revoked, or allowed, and the answer.
    keys_changed: Vec<(oneshot::Sender<Option<usize>>, Option<usize>)>,
    deployments: BTreeMap<u64, oneshot::Sender<Resolution>>,
    deployments_asked: u64,
    /// Of the root, when it last accepted our registration.
    root_incarnation: Option<Vec<u8>>,
    /// The root has answered in this life.
    root_seen: bool,
    /// Since when it has not answered.
    root_lost_at: Option<Duration>,
    ready: watch::Sender<bool>,
}

/// What waits for the disk.
enum Outgoing {
    Send(Transmit),
    Answer(oneshot::Sender<Option<usize>>, Option<usize>),
}

/// Messages taken before other events get their turn.
const MESSAGES_PER_TURN: usize = 64;

/// Why something is to be sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Cause {
    /// Somebody wants to know something.
    Query,
    /// Something has changed.
    Change,
}

impl Site {
    pub(super) fn new(
        answerer: Answerer,
        clock: Clock,
        (bus, broker): (Bus, Option<Broker>),
        (mut calls, webhook): (Calls, Webhook),
        store: Store,
        ready: watch::Sender<bool>,
    ) -> Self {
        if let Some(identity) = answerer.root_store() {
            calls.set_store(identity);
        }
        Self {
            answerer,
            bus,
            broker,
            calls,
            webhook,
            waiter: store.waiter(),
            awaited: store.written(),
            store,
            clock,
            outgoing: VecDeque::new(),
            queries: BTreeSet::new(),
            keys_changed: Vec::new(),
            deployments: BTreeMap::new(),
            deployments_asked: 0,
            root_incarnation: None,
            root_seen: false,
            root_lost_at: None,
            ready,
        }
    }

    /// Serves until `stop`.
    pub(super) async fn run(
        mut self,
        mut asks: mpsc::Receiver<Ask>,
        stop: watch::Receiver<bool>,
    ) -> Result<(), StoreError> {
        loop {
            let gate = self.outgoing.front().map(|(ticket, _)| *ticket);
            let retry_at = self.webhook.poll_timeout();
            let cause = tokio::select! {
                message = self.bus.receive() => self.take_messages(&message),
                (id, outcome) = self.calls.finished() => self.take_outcome(id, &outcome),
                Some(ask) = asks.recv() => self.take_ask(ask),
                (vacancy, answer) = self.webhook.finished() => {
                    if self.webhook.is_told(&vacancy, &answer, self.clock.now()) {
                        self.answerer.handle_told(&vacancy);
                    }
                    Cause::Change
                }
                () = self.clock.reaches(retry_at) => Cause::Query,
                () = self.clock.reaches(self.answerer.poll_timeout()) => {
                    self.answerer.handle_timeout(self.clock.now());
                    Cause::Query
                }
                durable = durable(&self.waiter, gate) => {
                    durable?;
                    Cause::Query
                }
                () = stopped(stop.clone()) => return Ok(()),
            };
            self.flush(cause);
            self.show_root();
            self.tell_webhook();
            self.ready.send_if_modified(|ready| {
                let is = self.root_seen && self.bus.is_connected();
                std::mem::replace(ready, is) != is
            });
        }
    }

    /// Takes what has come meanwhile, too: what is due and what is to be sent is looked at once for all.
    fn take_messages(&mut self, first: &Message) -> Cause {
        let mut cause = self.take_message(first);
        for _ in 1..MESSAGES_PER_TURN {
            let Some(message) = self.bus.try_receive() else {
                break;
            };
            if self.take_message(&message) == Cause::Change {
                cause = Cause::Change;
            }
        }
        cause
    }

    fn take_message(&mut self, message: &Message) -> Cause {
        let now = self.clock.now();
        metrics::counter!("sluice_cluster_messages_total").increment(1);
        if let Err(error) = self
            .answerer
            .handle_publish(&message.topic, &message.payload, now)
        {
            let counter = match error {
                PublishError::Revoked { .. } => "sluice_cluster_revoked_total",
                PublishError::Topic(_)
                | PublishError::Message(_)
                | PublishError::Name(_)
                | PublishError::NoPlace { .. } => "sluice_cluster_malformed_total",
            };
            metrics::counter!(counter).increment(1);
            warn_limited!(topic = &*message.topic, %error, "a message was refused");
        }
        match Topic::parse(&message.topic) {
            Ok(Topic::Node {
                verb: Verb::TableQueryRequest,
                ..
            }) => Cause::Query,
            Ok(_) | Err(_) => Cause::Change,
        }
    }

    fn take_outcome(&mut self, id: u64, outcome: &Outcome) -> Cause {
        let now = self.clock.now();
        let cause = if self.queries.remove(&id) {
            Cause::Query
        } else {
            Cause::Change
        };
        match outcome {
            Ok(answer) if !self.is_of_our_root(answer) => {
                metrics::counter!("sluice_cluster_root_strange_total").increment(1);
                warn_limited!(
                    "the root has another store than the one this cluster's services are from, and is not believed: bring \
                     that store back, or begin anew without the `data_dir` of clusters, too"
                );
                self.answerer.handle_root_reply(id, None, now);
            }
            Ok(answer) => {
                self.root_seen = true;
                if answer.status.is_server_error() {
                    // It names what is wrong there, such as a range that is used up.
                    let said = String::from_utf8_lossy(&answer.body);
                    warn_limited!(status = answer.status.as_u16(), %said, "the root refused a request");
                }
                let reply = Some((answer.status.as_u16(), &answer.body[..]));
                self.answerer.handle_root_reply(id, reply, now);
                let revocations = answer.headers.get(REVOCATIONS);
                let revocations = revocations.and_then(|it| it.to_str().ok()?.parse().ok());
                if let Some(revocations) = revocations {
                    self.answerer.handle_revocations(revocations, now);
                }
                if let Some(incarnation) = answer.headers.get(INCARNATION) {
                    self.take_incarnation(incarnation.as_bytes());
                }
            }
            Err(CallError::Full) => self.answerer.handle_root_busy(id, now),
            Err(error) => {
                metrics::counter!("sluice_cluster_root_failures_total").increment(1);
                warn_limited!(%error, "the root is away");
                self.answerer.handle_root_reply(id, None, now);
            }
        }
        cause
    }

    /// A root that does not say which store it has, such as Oakestra's, is believed.
    fn is_of_our_root(&mut self, answer: &Answer) -> bool {
        let identity = answer.headers.get(STORE);
        identity.is_none_or(|identity| {
            let identity = String::from_utf8_lossy(identity.as_bytes());
            if self.answerer.root_store().is_none() {
                self.calls.set_store(&identity);
            }
            self.answerer.handle_root_store(&identity)
        })
    }

    /// The root accepted our registration. One that started anew may have lost what it had to tell us.
    fn take_incarnation(&mut self, incarnation: &[u8]) {
        match &self.root_incarnation {
            Some(known) if known == incarnation => return,
            Some(_) => {
                tracing::info!("the root has started anew: every service is asked again");
                self.answerer.handle_root_restarted(self.clock.now());
            }
            None => tracing::info!("registered at the root"),
        }
        self.root_incarnation = Some(incarnation.to_vec());
    }

    fn take_ask(&mut self, ask: Ask) -> Cause {
        let now = self.clock.now();
        match ask {
            Ask::Deployment(job, sender) => {
                self.deployments_asked += 1;
                self.deployments.retain(|_, sender| !sender.is_closed());
                self.deployments.insert(self.deployments_asked, sender);
                self.answerer
                    .handle_deployment(self.deployments_asked, &job, now);
            }
            Ask::Remove(job) => self.answerer.handle_deployment_removed(&job),
            Ask::Update(update) => self.answerer.handle_job_update(&update, now),
            Ask::Key(key, is_revoked, sender) => {
                let withdrawn = if is_revoked {
                    Some(self.answerer.handle_key_revoked(key, now))
                } else {
                    self.answerer.handle_key_allowed(&key).then_some(0)
                };
                self.keys_changed.push((sender, withdrawn));
            }
            Ask::Look(view, sender) => {
                let list = match view {
                    View::Nodes => views::nodes(self),
                    View::Jobs => views::jobs(self),
                    View::Instances => views::instances(self),
                    View::RevokedKeys => views::revoked_keys(self),
                    View::Status => views::status(self),
                };
                // Whoever asked may have gone away.
                let _ = sender.send(list);
                return Cause::Query;
            }
        }
        Cause::Change
    }

    /// Writes what changed and sends what may be sent.
    ///
    /// What a query changes (the asker's interest, a service learnt from the root) is written but not waited for: a
    /// sync would be the longest part of a first packet's way, and a manager that dies in between is asked again by
    /// everybody once the connections come back. Subnets are waited for always: each is given once.
    fn flush(&mut self, cause: Cause) {
        let mut batch = crate::store::Batch::default();
        let mut waits = cause == Cause::Change;
        while let Some(change) = self.answerer.poll_change() {
            waits |= !change.key().starts_with("job/");
            batch.push(change);
        }
        // Without changes there is nothing to wait for, above all not what earlier queries wrote.
        waits &= !batch.is_empty();
        let ticket = self.store.write(batch);
        if waits {
            self.awaited = ticket;
        }
        while let Some(transmit) = self.answerer.poll_transmit() {
            let sent = Outgoing::Send(transmit);
            self.outgoing.push_back((self.awaited, sent));
        }
        for (sender, withdrawn) in self.keys_changed.drain(..) {
            let answer = Outgoing::Answer(sender, withdrawn);
            self.outgoing.push_back((self.awaited, answer));
        }
        while let Some((ticket, _)) = self.outgoing.front()
            && self.waiter.is_durable(*ticket)
            && let Some((_, outgoing)) = self.outgoing.pop_front()
        {
            match outgoing {
                Outgoing::Send(transmit) => self.send(transmit),
                // The caller may have given up.
                Outgoing::Answer(sender, withdrawn) => drop(sender.send(withdrawn)),
            }
        }
        while let Some(event) = self.answerer.poll_event() {
            match event {
                Event::Deployment { ticket, stored } => {
                    if let Some(sender) = self.deployments.remove(&ticket) {
                        // The caller may have given up.
                        let _ = sender.send(if stored {
                            Resolution::Stored
                        } else {
                            Resolution::Failed
                        });
                    }
                }
                Event::NoInstanceLeft(vacancy) => {
                    tracing::warn!(service = %vacancy.service, "a service has no instance left");
                    let body = self.answerer.vacancy_body(&vacancy);
                    self.bus.publish(&vacancy.topic(), body);
                    if !self.webhook.is_wanted() {
                        self.answerer.handle_told(&vacancy);
                    }
                }
            }
        }
    }

    /// For how long the root has not answered: what this manager says of other clusters may be that old.
    fn show_root(&mut self) {
        if self.answerer.root_answers() && self.root_lost_at.is_none() {
            return;
        }
        let now = self.clock.now();
        let silence = now.saturating_sub(*self.root_lost_at.get_or_insert(now));
        metrics::gauge!("sluice_cluster_root_silence_seconds").set(silence.as_secs_f64());
        if self.answerer.root_answers() {
            self.root_lost_at = None;
            metrics::gauge!("sluice_cluster_root_silence_seconds").set(0.0);
        }
    }

    /// Tells the webhook the next event that it has not taken.
    fn tell_webhook(&mut self) {
        if self.webhook.is_free(self.clock.now())
            && let Some(vacancy) = self.answerer.untold(self.webhook.refused())
        {
            let body = self.answerer.vacancy_body(&vacancy);
            self.webhook.send(vacancy, body);
        }
    }

    fn send(&mut self, transmit: Transmit) {
        match transmit {
            Transmit::Publish { topic, payload } => self.bus.publish(&topic, payload),
            Transmit::Root(request) => {
                if request.path.contains("/instances?") {
                    self.queries.insert(request.id);
                }
                self.calls.start(request);
            }
        }
    }
}

/// Returns when `gate` is on disk; never, without one.
async fn durable(waiter: &Waiter, gate: Option<Ticket>) -> Result<(), StoreError> {
    match gate {
        Some(gate) => waiter.durable(gate).await,
        // A failed write must end the manager even when nothing waits for it.
        None => Err(waiter.failed().await),
    }
}
