//! The server: queries in, replies out, and what is needed from others in between.
//!
//! A query about a service that is not known yet is held until the next snapshot of the names answers it, or until
//! [`Settings::wait`] is over; a query about somebody else's name, until its exchange with an upstream resolver ends.
//! How many are open, in all and for each source, is bounded; so is how many unknown services a source may ask about.

use super::allowance::Allowances;
use super::decide::{Decision, Question, absent, decide};
use super::names::{Known, Names, Service};
use super::outcome::{Counts, Outcome};
use super::repeated::Repeated;
use super::reply::{self, Body, HEADER};
use super::upstream::Exchange;
use super::zone::{Subject, Zones};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use sluice_wire::Ip;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// The longest query, in bytes: one question and its EDNS options take far less.
const QUERY_MAX: usize = 4096;
/// The longest message over TCP, in bytes: its length takes two of them (RFC 1035 section 4.2.2).
const TCP_MAX: usize = u16::MAX as usize;

/// What bounds the server.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a query waits for the managers.
    pub wait: Duration,
    /// Queries that wait for managers or upstream resolvers, in all and from one source.
    pub open_max: usize,
    pub open_per_source_max: usize,
    /// Services not known yet that one source may ask about: so many at once, and then one in each period.
    pub unknown_burst: u32,
    pub unknown_every: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            // A name that nobody can tell fails within a second.
            wait: Duration::from_millis(900),
            // Each may have a socket of its own, and a process may have 1,024 files unless it is told otherwise.
            open_max: 512,
            open_per_source_max: 128,
            // More services than an application calls; and invented names cost the managers little.
            unknown_burst: 256,
            unknown_every: Duration::from_millis(100),
        }
    }
}

/// Over what a query came, and its answer goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// A message for whoever asked.
#[derive(Debug)]
pub struct Reply<T> {
    pub to: T,
    pub bytes: Vec<u8>,
}

/// A query that is held.
#[derive(Debug)]
struct Held<T> {
    query: Message,
    from: Ip,
    over: Transport,
    to: T,
    until: Duration,
}

/// A query on its way to an upstream resolver; [`Server::handle_forwarded`] takes it back.
#[derive(Debug)]
pub struct Forward<T> {
    held: Held<T>,
    /// The question as it is in a message.
    question: Vec<u8>,
}

impl<T> Forward<T> {
    /// The exchange that this query needs, with these resolvers.
    #[must_use]
    pub fn exchange(&self, servers: &[SocketAddr], now: Duration) -> Exchange {
        let asked = &self.held.query;
        let mut query = Message::new(0, MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = asked.metadata.recursion_desired;
        query.metadata.checking_disabled = asked.metadata.checking_disabled;
        query.metadata.authentic_data = asked.metadata.authentic_data;
        query.queries.clone_from(&asked.queries);
        if let Some(asked) = &asked.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(reply::UDP_MAX);
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            query.edns = Some(edns);
        }
        let bytes = query.to_vec().unwrap_or_default();
        Exchange::new(bytes, self.question.len(), servers, now)
    }
}

/// See the module. `T` says where a reply goes.
#[derive(Debug)]
pub struct Server<T> {
    zones: Zones,
    settings: Settings,
    names: Arc<Names>,
    repeated: Repeated,
    counts: Arc<Counts>,
    waiting: BTreeMap<Question, VecDeque<Held<T>>>,
    /// Open queries of each source.
    open: BTreeMap<Ip, usize>,
    open_in_all: usize,
    allowances: Allowances,
    replies: VecDeque<Reply<T>>,
    questions: VecDeque<Question>,
    forwards: VecDeque<Forward<T>>,
}

impl<T> Server<T> {
    #[must_use]
    pub fn new(zones: Zones, settings: Settings, counts: Arc<Counts>) -> Self {
        Self {
            zones,
            settings,
            names: Arc::default(),
            repeated: Repeated::default(),
            counts,
            waiting: BTreeMap::new(),
            open: BTreeMap::new(),
            open_in_all: 0,
            allowances: Allowances::default(),
            replies: VecDeque::new(),
            questions: VecDeque::new(),
            forwards: VecDeque::new(),
        }
    }

    /// Whether the host at this address is one that may ask.
    #[must_use]
    pub fn serves(&self, from: Ip) -> bool {
        self.names.caller(from).is_some()
    }

    /// What arrived from the host at `from`.
    pub fn handle_query(&mut self, bytes: &[u8], from: Ip, over: Transport, to: T, now: Duration) {
        if let Some(bytes) = self.repeated.answer(bytes, from) {
            self.counts.add(Outcome::Answered);
            self.replies.push_back(Reply { to, bytes });
            return;
        }
        let parsed = (bytes.len() <= QUERY_MAX)
            .then(|| Message::from_vec(bytes).ok())
            .flatten();
        let Some(query) = parsed else {
            self.counts.add(Outcome::Malformed);
            // Strangers learn nothing, and get nothing that could be turned against others.
            if let Some(bytes) = reply::not_understood(bytes)
                && self.serves(from)
            {
                self.replies.push_back(Reply { to, bytes });
            }
            return;
        };
        if query.metadata.message_type == MessageType::Response {
            self.counts.add(Outcome::Malformed);
            return;
        }
        let until = now + self.settings.wait;
        let held = Held {
            query,
            from,
            over,
            to,
            until,
        };
        match decide(&self.zones, &self.names, from, &held.query) {
            Decision::Answer(outcome, body) => {
                let service = self.service_of(&held.query, outcome);
                self.answer(held, outcome, &body);
                if let Some(service) = service
                    && let Some(reply) = self.replies.back()
                {
                    self.repeated.keep(bytes, from, &reply.bytes, &service);
                }
            }
            Decision::Ask(question) => {
                let is_asked = self.waiting.contains_key(&question);
                if !is_asked && !self.allows(from, now) {
                    let body = Body::error(ResponseCode::ServFail);
                    self.answer(held, Outcome::Limited, &body);
                } else if let Some(held) = self.admit(held) {
                    self.wait(question, held);
                }
            }
            Decision::Forward => {
                if let Some(held) = self.admit(held) {
                    let question = question_bytes(&held.query);
                    self.forwards.push_back(Forward { held, question });
                }
            }
        }
    }

    /// The managers said something, or local instances came or went.
    pub fn handle_names(&mut self, names: Arc<Names>) {
        self.names = names;
        self.repeated.clear();
        let names = &self.names;
        self.allowances.retain(|from| names.caller(from).is_some());
        for (asked, group) in std::mem::take(&mut self.waiting) {
            for held in group {
                match decide(&self.zones, &self.names, held.from, &held.query) {
                    Decision::Answer(outcome, body) => {
                        self.close(held.from);
                        self.answer(held, outcome, &body);
                    }
                    // The managers have answered, and it is none of the caller's business.
                    Decision::Ask(next) if next.service != asked.service => {
                        self.close(held.from);
                        let (outcome, body) = absent(&self.zones, &held.query);
                        self.answer(held, outcome, &body);
                    }
                    Decision::Ask(next) if next != asked => self.wait(next, held),
                    Decision::Ask(_) | Decision::Forward => {
                        let waiting = self.waiting.entry(asked.clone()).or_default();
                        waiting.push_back(held);
                    }
                }
            }
        }
    }

    /// An exchange with upstream resolvers ended, with an answer that [`Exchange`] checked or with none.
    pub fn handle_forwarded(&mut self, forward: Forward<T>, answer: Option<Vec<u8>>) {
        let Forward { held, question } = forward;
        self.close(held.from);
        let Some(answer) = answer else {
            let body = Body::error(ResponseCode::ServFail);
            self.answer(held, Outcome::ForwardFailed, &body);
            return;
        };
        self.counts.add(Outcome::Forwarded);
        let limit = match held.over {
            Transport::Udp => reply::udp_limit(&held.query).into(),
            Transport::Tcp => TCP_MAX,
        };
        let bytes = reply::relayed(&held.query, &question, answer, limit);
        self.replies.push_back(Reply { to: held.to, bytes });
    }

    /// Ends what has waited long enough.
    pub fn handle_timeout(&mut self, now: Duration) {
        let mut late = Vec::new();
        let questions = &mut self.questions;
        self.waiting.retain(|question, group| {
            let due = group.partition_point(|held| held.until <= now);
            late.extend(group.drain(..due));
            // The question may have been lost, and the next query asks only when nobody waits.
            if due > 0 && !group.is_empty() {
                questions.push_back(question.clone());
            }
            !group.is_empty()
        });
        for held in late {
            self.close(held.from);
            self.answer(
                held,
                Outcome::Unresolved,
                &Body::error(ResponseCode::ServFail),
            );
        }
    }

    /// When [`Server::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let first = |group: &VecDeque<Held<T>>| group.front().map(|held| held.until);
        self.waiting.values().filter_map(first).min()
    }

    /// The next reply to send.
    pub fn poll_reply(&mut self) -> Option<Reply<T>> {
        self.replies.pop_front()
    }

    /// The next question to the managers.
    pub fn poll_question(&mut self) -> Option<Question> {
        self.questions.pop_front()
    }

    /// The next query to pass on.
    pub fn poll_forward(&mut self) -> Option<Forward<T>> {
        self.forwards.pop_front()
    }

    /// Queries that wait for somebody else.
    #[must_use]
    pub const fn open(&self) -> usize {
        self.open_in_all
    }

    /// The service whose address was the answer, if that is what it was.
    fn service_of(&self, query: &Message, outcome: Outcome) -> Option<Arc<Service>> {
        let question = query.queries.first()?;
        if outcome == Outcome::Answered
            && let Subject::Service { service, .. } = self.zones.subject(question.name())
            && let Some(Known::Service(service)) = self.names.look_up(&service)
        {
            return Some(Arc::clone(service));
        }
        None
    }

    fn answer(&mut self, held: Held<T>, outcome: Outcome, body: &Body) {
        self.counts.add(outcome);
        let bytes = reply::write(&held.query, body);
        self.replies.push_back(Reply { to: held.to, bytes });
    }

    /// Holds a query until its question is answered; the first one asks it.
    fn wait(&mut self, question: Question, held: Held<T>) {
        let waiting = self.waiting.entry(question.clone()).or_default();
        if waiting.is_empty() {
            self.questions.push_back(question);
        }
        // One that has waited for another answer before is due sooner than some that came later.
        let place = waiting.partition_point(|it| it.until <= held.until);
        waiting.insert(place, held);
    }

    /// Whether the source may cause one more question to the managers.
    fn allows(&mut self, from: Ip, now: Duration) -> bool {
        let Settings {
            unknown_burst,
            unknown_every,
            ..
        } = self.settings;
        self.allowances
            .take(from, unknown_burst, unknown_every, now)
    }

    /// Gives the query back if it may be held, else answers it.
    fn admit(&mut self, held: Held<T>) -> Option<Held<T>> {
        let here = self.open.get(&held.from).copied().unwrap_or_default();
        if self.open_in_all >= self.settings.open_max || here >= self.settings.open_per_source_max {
            self.answer(
                held,
                Outcome::Overloaded,
                &Body::error(ResponseCode::ServFail),
            );
            return None;
        }
        self.open.insert(held.from, here + 1);
        self.open_in_all += 1;
        Some(held)
    }

    fn close(&mut self, from: Ip) {
        self.open_in_all -= 1;
        if let Some(count) = self.open.get_mut(&from) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&from);
            }
        }
    }
}

/// The question as it stands in a message: name, type, class.
fn question_bytes(query: &Message) -> Vec<u8> {
    let mut alone = Message::new(0, MessageType::Query, OpCode::Query);
    alone.queries.clone_from(&query.queries);
    let mut bytes = alone.to_vec().unwrap_or_default();
    bytes.split_off(HEADER.min(bytes.len()))
}

#[cfg(test)]
mod tests;
