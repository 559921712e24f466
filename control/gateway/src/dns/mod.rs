//! The name server of this node: `sluice_proto::dns` with sockets, on a thread of its own.
//!
//! Answers come from a snapshot of the names that control publishes, so that a cached one never waits for control.
//! Services that the snapshot lacks go to control as questions; its next snapshot answers them.

mod serve;
mod stream;
mod upstream;

use crate::config::NameServer;
use serde_json::{Value, json};
use sluice_proto::dns::{Counts, Names, Outcome, Question};
use sluice_wire::{Dual, Ip};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// The port of DNS.
pub(crate) const PORT: u16 = 53;
/// Services that wait to be asked about by control; the server itself never has more of them open.
const QUESTIONS_MAX: usize = 1024;

/// What the thread tells others.
#[derive(Debug, Default)]
struct Shared {
    counts: Arc<Counts>,
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    listening: Vec<String>,
    /// Why it does not answer everywhere it should, in words; empty when it does.
    problem: String,
}

/// How the server does, for status and metrics.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watcher(Option<Arc<Shared>>);

impl Watcher {
    /// `names` of `/v1/status`.
    pub(crate) fn status(&self) -> Value {
        let Some(shared) = &self.0 else {
            return json!({"listening": [], "problem": "off: `names.enabled` = false"});
        };
        let state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut row = json!({"listening": state.listening, "problem": state.problem});
        for (outcome, count) in self.counts() {
            row[outcome] = json!(count);
        }
        row
    }

    /// Queries by how they ended.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.0.as_ref().map(|shared| Arc::clone(&shared.counts));
        Outcome::ALL.into_iter().filter_map(move |outcome| {
            let count = counts.as_ref()?.of(outcome);
            Some((outcome.name(), count))
        })
    }
}

/// The running server. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Dns {
    shared: Option<Arc<Shared>>,
    names: watch::Sender<Arc<Names>>,
    /// Where to listen; closing it ends the thread.
    listen: Option<watch::Sender<Dual<Ip>>>,
    thread: Option<JoinHandle<()>>,
}

impl Dns {
    /// Starts the thread, which listens nowhere yet. Without `names.enabled` nothing is started.
    ///
    /// # Errors
    /// When the kernel gives no thread or no poll descriptor.
    pub(crate) fn start(
        config: &NameServer,
        clock: fn() -> Duration,
    ) -> io::Result<(Self, mpsc::Receiver<Question>)> {
        let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
        let (names, seen) = watch::channel(Arc::default());
        let (listen, addresses) = watch::channel(Dual::default());
        let mut dns = Self {
            shared: None,
            names,
            listen: Some(listen),
            thread: None,
        };
        if config.enabled {
            let shared = Arc::<Shared>::default();
            dns.shared = Some(Arc::clone(&shared));
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let serving = serve::Serving::new(config, shared, questions, clock);
            dns.thread = Some(
                std::thread::Builder::new()
                    .name("dns".to_owned())
                    .spawn(move || runtime.block_on(serving.run(seen, addresses)))?,
            );
        }
        Ok((dns, asked))
    }

    /// Listens on these addresses from now on.
    pub(crate) fn listen(&self, addresses: Dual<Ip>) {
        if let Some(listen) = &self.listen {
            listen.send_replace(addresses);
        }
    }

    /// Answers from this snapshot from now on.
    pub(crate) fn publish(&self, names: Names) {
        self.names.send_replace(Arc::new(names));
    }

    /// Whether there is a server at all.
    pub(crate) const fn is_enabled(&self) -> bool {
        self.shared.is_some()
    }

    pub(crate) fn watcher(&self) -> Watcher {
        Watcher(self.shared.clone())
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.listen = None;
        if let Some(thread) = self.thread.take() {
            // A panic of it has been said; nothing of it is needed any more.
            let _ = thread.join();
        }
    }
}
