//! The thread that owns the node's wiring, and the handle by which async code asks it.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use tokio::sync::oneshot;

use super::attach::{Attachment, Request};
use super::namespace::Workload;
use super::{NodeError, NodeNet};
use crate::command::InstanceName;
use sluice_managers::clocks;
use sluice_wire::Family;

/// How often foreign FORWARD chains are looked at: Docker rewrites them when it starts.
const RECHECK: Duration = Duration::from_secs(5);

type Work = Box<dyn FnOnce(&mut NodeNet) + Send>;

enum Job {
    Work(Work),
    Teardown(oneshot::Sender<Result<(), NodeError>>),
}

/// Asks the thread; jobs run one after the other. When the last handle is dropped the thread ends and leaves the
/// wiring as it is, for the next gateway to adopt.
#[derive(Clone, Debug)]
pub struct Node {
    jobs: Sender<Job>,
}

impl Node {
    /// Starts the thread in the caller's network namespace.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(mut net: NodeNet) -> std::io::Result<Self> {
        let (jobs, queue) = channel();
        std::thread::Builder::new()
            .name("sluice-node".to_owned())
            .spawn(move || {
                let mut in_the_way = Vec::new();
                loop {
                    tell_of_legacy(&net, &mut in_the_way);
                    match queue.recv_timeout(RECHECK) {
                        Ok(Job::Work(work)) => work(&mut net),
                        Ok(Job::Teardown(reply)) => {
                            let _ = reply.send(net.teardown());
                            return;
                        }
                        Err(RecvTimeoutError::Timeout) => recheck(&net),
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                }
            })?;
        Ok(Self { jobs })
    }

    /// Runs `work` on the thread and gives its result.
    ///
    /// # Errors
    /// [`NodeError::Stopped`] after [`Node::teardown`].
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut NodeNet) -> T + Send + 'static,
    ) -> Result<T, NodeError> {
        let (reply, answer) = oneshot::channel();
        self.jobs
            .send(Job::Work(Box::new(move |net| {
                let _ = reply.send(work(net));
            })))
            .map_err(|_| NodeError::Stopped)?;
        answer.await.map_err(|_| NodeError::Stopped)
    }

    /// [`NodeNet::attach`] on the thread.
    ///
    /// # Errors
    /// As there.
    pub async fn attach(
        &self,
        request: Request,
        workload: Workload,
    ) -> Result<Attachment, NodeError> {
        let now = clocks();
        self.run(move |net| net.attach(request, &workload, &now).cloned())
            .await?
    }

    /// [`NodeNet::attach_unikernel`] on the thread.
    ///
    /// # Errors
    /// As there.
    pub async fn attach_unikernel(&self, request: Request) -> Result<Attachment, NodeError> {
        let now = clocks();
        self.run(move |net| net.attach_unikernel(request, &now))
            .await?
    }

    /// [`NodeNet::detach`] on the thread.
    ///
    /// # Errors
    /// As there.
    pub async fn detach(&self, instance: InstanceName) -> Result<Option<Attachment>, NodeError> {
        let now = clocks();
        self.run(move |net| net.detach(&instance, &now)).await?
    }

    /// [`NodeNet::wire_tun`] on the thread.
    ///
    /// # Errors
    /// As there.
    pub async fn wire_tun(&self) -> Result<(), NodeError> {
        self.run(|net| net.wire_tun()).await?
    }

    /// [`NodeNet::wire_xdp`] on the thread.
    ///
    /// # Errors
    /// As there.
    pub async fn wire_xdp(&self) -> Result<(), NodeError> {
        self.run(|net| net.wire_xdp()).await?
    }

    /// [`NodeNet::teardown`] on the thread, which ends with it.
    ///
    /// # Errors
    /// As there.
    pub async fn teardown(self) -> Result<(), NodeError> {
        let (reply, answer) = oneshot::channel();
        self.jobs
            .send(Job::Teardown(reply))
            .map_err(|_| NodeError::Stopped)?;
        answer.await.map_err(|_| NodeError::Stopped)?
    }
}

/// Says so when a FORWARD chain of the legacy iptables backend begins or ends to drop our packets.
fn tell_of_legacy(net: &NodeNet, before: &mut Vec<Family>) {
    let now = net.legacy_in_the_way();
    for family in [Family::V4, Family::V6] {
        let command = match family {
            Family::V4 => "iptables-legacy",
            Family::V6 => "ip6tables-legacy",
        };
        match (before.contains(&family), now.contains(&family)) {
            (false, true) => tracing::warn!(
                "the FORWARD chain of {command} drops forwarded packets, ours too: accept our devices in it, both ways \
                 (`sluice doctor` prints the commands)"
            ),
            (true, false) => tracing::info!("{command} no longer drops our packets"),
            (false, false) | (true, true) => {}
        }
    }
    *before = now;
}

fn recheck(net: &NodeNet) {
    match net.recheck() {
        Ok(0) => (),
        Ok(chains) => tracing::info!(chains, "accepted our devices in FORWARD chains again"),
        Err(error) => tracing::warn!(%error, "looking at FORWARD chains"),
    }
}
