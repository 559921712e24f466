//! The loop around a turn: work while there is work, spin a while after it, then sleep until something comes.

use crate::cores::{CoreError, check, pin};
use crate::tunnel::Tunnel;
use crate::turn::{Ready, Worker};
use sluice_engine::Now;
use sluice_link::sys::{Event, monotonic_ns, wait_readable};
use sluice_link::{Health, Link, LinkDown};
use sluice_memory::Accounts;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use thiserror::Error;

/// A link that holds something back without announcing it is asked again after so long.
const PENDING_WAIT_NS: u64 = 1_000_000;

/// How a worker runs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Settings {
    /// The core it is pinned to; `None` lets the kernel choose.
    pub core: Option<usize>,
    /// It goes on asking its links for so long after the last frame before it sleeps. 0 sleeps at once.
    pub spin_us: u32,
}

#[derive(Debug, Error)]
pub enum SpawnError {
    #[error(transparent)]
    Core(#[from] CoreError),
    #[error("starting a worker thread failed: {0}; raise the limits of threads and open files")]
    Thread(#[from] io::Error),
}

/// Why a worker ended.
#[derive(Debug, Error)]
pub enum Exit {
    #[error(transparent)]
    LinkDown(#[from] LinkDown),
    #[error("waiting for frames failed: {0}")]
    Wait(#[from] io::Error),
    #[error("a worker panicked; the process log has the place")]
    Panicked,
}

/// A worker after its end.
#[derive(Debug)]
pub struct Ended<S, U> {
    pub worker: Worker<S, U>,
    /// Why it ended; `Ok` when it was told to.
    pub result: Result<(), Exit>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    wake: Event,
}

/// Control's side of a worker. Dropping it leaves the worker running.
#[derive(Debug)]
pub struct Handle<S, U> {
    shared: Arc<Shared>,
    accounts: Arc<Accounts>,
    service: Arc<Health>,
    underlay: Arc<Health>,
    core: Option<usize>,
    thread: JoinHandle<Ended<S, U>>,
}

impl<S: Link, U: Link> Handle<S, U> {
    /// Makes the worker look: at new tables, at a stop. Any thread.
    pub fn wake(&self) {
        self.shared.wake.notify();
    }

    /// Tells the worker to end after its turn.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.wake();
    }

    /// It ended: stopped, or by itself (then [`Handle::join`] says why).
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end and takes its belongings back.
    ///
    /// # Errors
    /// When it panicked; then its belongings are lost.
    pub fn join(self) -> Result<Ended<S, U>, Exit> {
        self.thread.join().map_err(|_| Exit::Panicked)
    }

    #[must_use]
    pub const fn accounts(&self) -> &Arc<Accounts> {
        &self.accounts
    }

    #[must_use]
    pub const fn service_health(&self) -> &Arc<Health> {
        &self.service
    }

    #[must_use]
    pub const fn underlay_health(&self) -> &Arc<Health> {
        &self.underlay
    }

    /// The core it is pinned to.
    #[must_use]
    pub const fn core(&self) -> Option<usize> {
        self.core
    }
}

/// Starts `worker` on a thread of its own, named `name`, and returns once it is pinned.
///
/// # Errors
/// When the core does not exist or no thread can be made.
pub fn spawn<S, U>(
    name: String,
    mut worker: Worker<S, U>,
    settings: Settings,
) -> Result<Handle<S, U>, SpawnError>
where
    S: Link + Send + 'static,
    U: Link + Send + 'static,
{
    if let Some(core) = settings.core {
        check(core)?;
    }
    let shared = Arc::new(Shared {
        stop: AtomicBool::new(false),
        wake: Event::new()?,
    });
    let accounts = Arc::clone(&worker.accounts);
    let (service, underlay) = (worker.service.health(), worker.underlay.health());
    let (pinned, is_pinned) = mpsc::sync_channel(1);
    let inside = Arc::clone(&shared);
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        let result = settings.core.map_or(Ok(()), pin);
        let failed = result.is_err();
        // The receiver waits below; it cannot be gone.
        let _ = pinned.send(result);
        if failed {
            return Ended {
                worker,
                result: Ok(()),
            };
        }
        let result = run(&mut worker, &inside, settings.spin_us);
        Ended { worker, result }
    })?;
    is_pinned
        .recv()
        .map_err(|_| io::Error::other("the thread ended before it began"))??;
    Ok(Handle {
        shared,
        accounts,
        service,
        underlay,
        core: settings.core,
        thread,
    })
}

/// Works until it is stopped or a link is gone.
fn run<S: Link, U: Link>(
    worker: &mut Worker<S, U>,
    shared: &Shared,
    spin_us: u32,
) -> Result<(), Exit> {
    let spin_ns = u64::from(spin_us) * 1000;
    let mut ready = Ready::BOTH;
    let mut now_ns = monotonic_ns();
    let mut worked_ns = now_ns;
    while !shared.stop.load(Ordering::Acquire) {
        let turn = worker.turn(ready, Now { ns: now_ns })?;
        if turn.received > 0 {
            worked_ns = now_ns;
        }
        if turn.more.service || turn.more.underlay {
            // Both: the other link may have become ready, and asking costs less than poll(2).
            ready = Ready::BOTH;
            now_ns = monotonic_ns();
            continue;
        }
        if spin_ns > 0 {
            now_ns = monotonic_ns();
            if now_ns.saturating_sub(worked_ns) < spin_ns {
                std::hint::spin_loop();
                ready = Ready::BOTH;
                continue;
            }
        }
        ready = sleep(worker, shared, now_ns)?;
        now_ns = monotonic_ns();
    }
    Ok(())
}

/// Sleeps until a link has something, control or another worker wakes it, or the engine wants to be called.
fn sleep<S: Link, U: Link>(
    worker: &Worker<S, U>,
    shared: &Shared,
    now_ns: u64,
) -> Result<Ready, Exit> {
    let mut timeout = worker.poll_timeout().map(|at| at.ns.saturating_sub(now_ns));
    let (service, underlay) = (worker.service.fd(), worker.underlay.fd());
    if service.is_none()
        || underlay.is_none()
        || worker.service.pending()
        || worker.underlay.pending()
    {
        timeout = Some(timeout.map_or(PENDING_WAIT_NS, |ns| ns.min(PENDING_WAIT_NS)));
    }
    // A link without a descriptor is stood for by the wake-up, so that positions keep their meaning.
    let wake = shared.wake.as_fd();
    let tunnel = worker.tunnel();
    let others = tunnel.map_or(wake, Tunnel::fd);
    let fds = [
        service.unwrap_or(wake),
        underlay.unwrap_or(wake),
        wake,
        others,
    ];
    let bits = wait_readable(&fds, timeout)?;
    if bits & 4 != 0 {
        shared.wake.clear();
    }
    if bits & 8 != 0
        && let Some(tunnel) = tunnel
    {
        tunnel.hear();
    }
    Ok(Ready {
        service: bits & 1 != 0 || service.is_none() || worker.service.pending(),
        underlay: bits & 2 != 0 || underlay.is_none() || worker.underlay.pending(),
    })
}
