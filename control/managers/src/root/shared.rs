//! The root's state behind its lock, and the rule that an answer waits for the disk.

use super::strangers::Strangers;
use crate::clock::{Clock, clocks, incarnation};
use crate::reply::Reply;
use crate::store::{Batch, Store, StoreError, Ticket, Waiter};
use axum::http::{HeaderValue, StatusCode};
use sluice_proto::alloc::Calendar;
use sluice_proto::message::{JobUpdate, UpdateKind};
use sluice_proto::record::{Change, RestoreError, read};
use sluice_proto::table_query::notifier::Notifier;
use sluice_proto::table_query::root::{self, Applied, Command, Effect, Root};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The record of the calendar. All others are the root's.
const CALENDAR: &str = "calendar";

/// See the module.
pub(crate) struct Shared {
    state: Mutex<State>,
    waiter: Waiter,
    /// Another number in every life: a cluster that sees it change asks again for what it may have missed.
    pub(super) incarnation: u64,
    /// The store's identity, as it is told (see [`crate::http::STORE`]).
    pub(super) store_identity: HeaderValue,
    /// Wakes the task that tells clusters (see [`super::notices`]).
    pub(super) told: Notify,
    pub(super) clock: Clock,
}

pub(super) struct State {
    pub(super) root: Root,
    pub(super) notifier: Notifier,
    /// What rests does so by it.
    calendar: Calendar,
    pub(super) strangers: Strangers,
    store: Store,
    /// The last write that answers have to wait for.
    awaited: Ticket,
}

impl Shared {
    /// Every interest of an earlier life is told once: a notice may have been lost with that process.
    pub(super) fn new(root: Root, calendar: Calendar, mut store: Store) -> Self {
        // Before anything rests by it.
        let mut batch = Batch::default();
        batch.push(Change::put(CALENDAR.to_owned(), &calendar));
        store.write(batch);
        let incarnation = incarnation();
        let mut notifier = Notifier::new(incarnation);
        for (job, cluster) in root.interests() {
            let update = JobUpdate {
                job_name: job.clone(),
                instance_number: -1,
                kind: UpdateKind::Deployment,
            };
            notifier.handle_update(cluster, &update);
        }
        let identity = format!("{:032x}", store.identity());
        Self {
            store_identity: HeaderValue::from_str(&identity).expect("digits fit a header"),
            waiter: store.waiter(),
            state: Mutex::new(State {
                root,
                notifier,
                calendar,
                strangers: Strangers::default(),
                awaited: store.written(),
                store,
            }),
            incarnation,
            told: Notify::new(),
            clock: Clock::start(),
        }
    }

    /// Does what a request says and returns the answer once everything it may show is on disk: what this request
    /// changed, and what earlier ones changed and are still writing.
    pub(super) async fn answer(&self, command: impl FnOnce(&Root) -> Command) -> Reply {
        self.answer_all(|state| {
            let command = command(&state.root);
            let reply = state.apply(&command);
            Reply::from(reply)
        })
        .await
    }

    /// The same for a request that takes several commands; they become durable one after the other.
    pub(super) async fn answer_all(&self, decide: impl FnOnce(&mut State) -> Reply) -> Reply {
        let (reply, ticket) = {
            let mut state = self.lock();
            let reply = decide(&mut state);
            (reply, state.awaited)
        };
        self.told.notify_one();
        match self.waiter.durable(ticket).await {
            Ok(()) => reply,
            Err(error) => Reply::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }

    /// Returns when a write has failed.
    pub(super) async fn failed(&self) -> StoreError {
        self.waiter.failed().await
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the calendar out of a store's records; a new store begins one.
pub(super) fn calendar_of(
    records: &mut BTreeMap<String, Vec<u8>>,
) -> Result<Calendar, RestoreError> {
    let now = clocks();
    let Some(kept) = records.remove(CALENDAR) else {
        return Ok(Calendar::new(now));
    };
    let mut calendar: Calendar = read(CALENDAR, &kept)?;
    calendar.now(now);
    Ok(calendar)
}

impl State {
    /// The calendar's time in seconds.
    pub(super) fn now_s(&mut self) -> u64 {
        self.calendar.now(clocks()).as_secs()
    }

    pub(super) fn apply(&mut self, command: &Command) -> root::Reply {
        let now_s = self.now_s();
        let Applied {
            reply,
            effects,
            changes,
        } = self.root.apply(command, now_s);
        // A new interest need not be on disk before the answer: a root that dies in between starts with another
        // incarnation, and the cluster asks again. It would cost every first packet a sync.
        let waits = changes
            .iter()
            .any(|change| !change.key().starts_with("interest/"));
        let mut batch = Batch::default();
        for change in changes {
            batch.push(change);
        }
        if waits {
            // What begins to rest must not find an older one after a reboot.
            batch.push(Change::put(CALENDAR.to_owned(), &self.calendar));
        }
        let ticket = self.store.write(batch);
        if waits {
            self.awaited = ticket;
        }
        for effect in effects {
            match effect {
                Effect::Notify { cluster, update } => {
                    self.notifier.handle_update(&cluster, &update);
                }
                Effect::NoInstanceLeft { job } => {
                    metrics::counter!("sluice_root_no_instance_left_total").increment(1);
                    tracing::warn!(%job, "no instance of a service is left");
                }
            }
        }
        if let (Command::ClusterRegister(registration), 200) = (command, reply.status) {
            self.notifier.handle_registered(&registration.cluster_id);
        }
        reply
    }
}

impl From<root::Reply> for Reply {
    fn from(reply: root::Reply) -> Self {
        let status =
            StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        match reply.body {
            root::Body::Text(text) => Self::text(status, text),
            root::Body::Json(value) => Self::json_with(status, &value),
        }
    }
}
