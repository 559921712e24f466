//! Requests to the root: a bounded number at a time, each with a deadline, outcomes in the order they arrive.

use crate::http::{Answer, CallError, Client};
use hyper::Method;
use sluice_proto::table_query::answerer::{self, RootRequest};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::task::JoinSet;

/// A request that takes longer is repeated by the answerer; below a second, so that waiting nodes can be told in time.
const CALL_WAIT: Duration = Duration::from_millis(900);
/// Requests at a time; others wait their turn.
const RUNNING_MAX: usize = 64;

/// What came of a request.
pub(super) type Outcome = Result<Answer, CallError>;

/// The requests that run and wait.
pub(super) struct Calls {
    client: Client,
    authority: String,
    running: JoinSet<(u64, Outcome)>,
    waiting: VecDeque<RootRequest>,
}

impl Calls {
    /// `authority` is the root's `host:port`.
    pub(super) fn new(client: Client, authority: &str) -> Self {
        Self {
            client,
            authority: authority.to_owned(),
            running: JoinSet::new(),
            waiting: VecDeque::new(),
        }
    }

    pub(super) fn start(&mut self, request: RootRequest) {
        self.waiting.push_back(request);
        self.fill();
    }

    /// The next outcome with the request's id; never, while nothing runs. Nothing is lost when the future is dropped.
    pub(super) async fn finished(&mut self) -> (u64, Outcome) {
        loop {
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

    fn fill(&mut self) {
        while self.running.len() < RUNNING_MAX
            && let Some(request) = self.waiting.pop_front()
        {
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
                    .call(method, &authority, &request.path, body, CALL_WAIT)
                    .await;
                (request.id, outcome)
            });
        }
    }
}
