//! Requests to the root: a bounded number at a time, each with a deadline, results in the order they arrive.

use crate::http::{Answer, CallError, Client};
use hyper::Method;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::task::JoinSet;

/// A node that waits gets an answer within a second whatever the root does, so the root gets a little less.
const CALL_WAIT: Duration = Duration::from_millis(900);
/// Requests at a time; others wait their turn.
const RUNNING_MAX: usize = 64;

/// One request to the root; `purpose` comes back with its outcome.
#[derive(Debug)]
pub(crate) struct Call<P> {
    pub(crate) purpose: P,
    pub(crate) method: Method,
    /// Begins with `/`, without a query.
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
}

/// What came of a call.
pub(crate) type Outcome = Result<Answer, CallError>;

/// The requests that run and wait.
pub(crate) struct Calls<P> {
    client: Client,
    authority: String,
    /// Says which cluster asks; any number of clusters may share an address.
    query: String,
    running: JoinSet<(P, Outcome)>,
    waiting: VecDeque<Call<P>>,
}

impl<P: Send + 'static> Calls<P> {
    pub(crate) fn new(client: Client, authority: &str, cluster_id: &str) -> Self {
        Self {
            client,
            authority: authority.to_owned(),
            query: format!("?cluster_id={cluster_id}"),
            running: JoinSet::new(),
            waiting: VecDeque::new(),
        }
    }

    pub(crate) fn start(&mut self, call: Call<P>) {
        self.waiting.push_back(call);
        self.fill();
    }

    /// The next outcome; never, while nothing runs. Nothing is lost when the future is dropped.
    pub(crate) async fn finished(&mut self) -> (P, Outcome) {
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
            && let Some(call) = self.waiting.pop_front()
        {
            let client = self.client.clone();
            let authority = self.authority.clone();
            let path = format!("{}{}", call.path, self.query);
            self.running.spawn(async move {
                let outcome = client
                    .call(call.method, &authority, &path, call.body, CALL_WAIT)
                    .await;
                (call.purpose, outcome)
            });
        }
    }
}
