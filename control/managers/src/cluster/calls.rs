//! Requests to the root: a bounded number at a time, each with a deadline, outcomes in the order they arrive.

use crate::http::{Answer, CallError, Client, IDLE_MAX};
use crate::log_limit::warn_limited;
use hyper::Method;
use sluice_proto::table_query::answerer::{self, RootRequest};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// A request that takes longer, its turn included, is repeated by the answerer; below a second, so that waiting nodes
/// can be told in time.
const CALL_WAIT: Duration = Duration::from_millis(900);
/// Requests at a time; others wait their turn.
const RUNNING_MAX: usize = IDLE_MAX;
/// Requests that wait their turn: what a root that answers at all takes within [`CALL_WAIT`], and no more than a few MB.
const WAITING_MAX: usize = 4096;

/// What came of a request.
pub(super) type Outcome = Result<Answer, CallError>;

/// The requests that run and wait.
pub(super) struct Calls {
    client: Client,
    authority: String,
    running: JoinSet<(u64, Outcome)>,
    waiting: VecDeque<(RootRequest, Instant)>,
    /// Requests that did not leave.
    refused: VecDeque<u64>,
}

impl Calls {
    /// `authority` is the root's `host:port`.
    pub(super) fn new(client: Client, authority: &str) -> Self {
        Self {
            client,
            authority: authority.to_owned(),
            running: JoinSet::new(),
            waiting: VecDeque::new(),
            refused: VecDeque::new(),
        }
    }

    /// From now on says with every request that it belongs to this store of the root.
    pub(super) fn set_store(&mut self, identity: &str) {
        self.client.set_store(identity);
    }

    /// Calls as soon as there is room. The outcome comes from [`Calls::finished`]; it is [`CallError::Full`] for a request
    /// that did not leave, because there was no room or its turn did not come in time.
    pub(super) fn start(&mut self, request: RootRequest) {
        if self.waiting.len() >= WAITING_MAX {
            self.refuse(request.id);
            return;
        }
        self.waiting
            .push_back((request, Instant::now() + CALL_WAIT));
        self.fill();
    }

    /// The next outcome with the request's id; never, while nothing runs. Nothing is lost when the future is dropped.
    pub(super) async fn finished(&mut self) -> (u64, Outcome) {
        loop {
            if let Some(id) = self.refused.pop_front() {
                return (id, Err(CallError::Full));
            }
            match self.running.join_next().await {
                Some(Ok(finished)) => {
                    self.fill();
                    return finished;
                }
                // Only a panic ends a call without an outcome; its message was printed where it happened.
                Some(Err(_)) => self.fill(),
                None => std::future::pending().await,
            }
        }
    }

    fn refuse(&mut self, id: u64) {
        metrics::counter!("sluice_cluster_root_refused_total").increment(1);
        warn_limited!(
            waiting = self.waiting.len(),
            "a request to the root is put off: too many wait for it"
        );
        self.refused.push_back(id);
    }

    fn fill(&mut self) {
        while self.running.len() < RUNNING_MAX
            && let Some((request, due)) = self.waiting.pop_front()
        {
            let wait = due.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                self.refuse(request.id);
                continue;
            }
            let client = self.client.clone();
            let authority = self.authority.clone();
            let method = match request.method {
                answerer::Method::Get => Method::GET,
                answerer::Method::Post => Method::POST,
                answerer::Method::Delete => Method::DELETE,
            };
            self.running.spawn(async move {
                let body = request.body.unwrap_or_default();
                let outcome = client
                    .call(method, &authority, &request.path, body, wait)
                    .await;
                (request.id, outcome)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use tokio::net::TcpListener;

    fn request(id: u64) -> RootRequest {
        RootRequest {
            id,
            method: answerer::Method::Get,
            path: "/".to_owned(),
            body: None,
        }
    }

    /// A root that takes connections and says nothing: every request ends, none waits for ever, and what is more than
    /// may wait ends first.
    #[tokio::test]
    async fn a_silent_root_holds_a_bounded_number_of_requests_for_a_bounded_time() {
        let root = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = root.local_addr().unwrap().to_string();
        let mut calls = Calls::new(Client::new(None, CALL_WAIT), &address);
        let fitting = (RUNNING_MAX + WAITING_MAX) as u64;
        for id in 0..=fitting {
            calls.start(request(id));
        }
        let first = calls.finished().await;
        assert!(
            matches!(first, (id, Err(CallError::Full)) if id == fitting),
            "{first:?}"
        );
        let (mut silent, mut ended) = (0, BTreeSet::new());
        for _ in 0..fitting {
            let (id, outcome) = calls.finished().await;
            match outcome {
                Err(CallError::Timeout(_)) => silent += 1,
                Err(CallError::Full) => {}
                Ok(_) | Err(_) => panic!("{outcome:?}"),
            }
            ended.insert(id);
        }
        assert_eq!(ended.len() as u64, fitting);
        assert_eq!(silent, RUNNING_MAX, "the others never left");
    }
}
