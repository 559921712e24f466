//! Which established flows the kernel forwards by itself: installed when a worker says one is worth it, taken out before
//! the tables it was made from change, and read back into the flow table every second.
//!
//! Three things take a flow out: a packet that begins or ends a connection (the program does that itself, before the worker
//! sees the packet), a changed row ([`Offloader::revoke`], before publishing), and silence of this process (the lease).

mod running;
mod instances;
mod peers;
mod underlays;
mod redirect;

pub(super) use redirect::Redirect;
pub(super) use underlays::finish_checksums;

use super::pins::Pins;
use running::Running;
use sluice_engine::Shared;
use sluice_engine::flow::Offloading;
use sluice_link::af_xdp::{Hop, Neighbour};
use sluice_link::offload::Offload;
use sluice_memory::Accounts;
use sluice_routes::Veth;
use sluice_tables::{Publisher, Tables};
use sluice_wire::Ip;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The offload, as the core, the routes and the traces share it.
#[derive(Clone, Debug)]
pub(crate) struct Offloader(Arc<Mutex<Held>>);

/// What it needs of the gateway.
#[derive(Debug)]
pub(crate) struct Setup {
    /// Or why it is switched off.
    pub(crate) wanted: Result<(), String>,
    pub(crate) flows_max: u32,
    pub(crate) tunnel_port: u16,
    pub(crate) workers: usize,
    pub(crate) pins: Pins,
    pub(crate) shared: Arc<Shared>,
    pub(crate) publisher: Publisher,
    pub(crate) accounts: Arc<Accounts>,
}

#[derive(Debug)]
struct Held {
    setup: Setup,
    running: Option<Running>,
    /// Why it does not run, in words.
    idle: String,
}

impl Offloader {
    pub(crate) fn new(setup: Setup) -> Self {
        let idle = setup.wanted.clone().err().unwrap_or_default();
        Self(Arc::new(Mutex::new(Held {
            setup,
            running: None,
            idle,
        })))
    }

    /// Attaches to the uplink, once it is there. What stands in the way is logged: everything works without.
    pub(crate) fn start(&self, uplink: &str) {
        let mut held = self.held();
        if held.setup.wanted.is_err() || held.running.is_some() {
            return;
        }
        match Running::beside_tun(&held.setup, uplink) {
            Ok(mut running) => {
                if let Some(dir) = held.setup.pins.dir()
                    && let Err(error) = running.programs.survive(dir)
                {
                    tracing::warn!(%error, "the offload ends with this process");
                }
                tracing::info!(uplink, "established flows are offloaded to the kernel");
                held.idle.clear();
                held.running = Some(running);
            }
            Err(reason) => {
                tracing::warn!(
                    reason,
                    "no offload of established flows: workers carry them"
                );
                held.idle = reason;
            }
        }
    }

    /// Detaches what an earlier process left attached, and says where ours can be pinned.
    pub(crate) fn take_over(&self) -> Option<PathBuf> {
        let pins = &mut self.held().setup.pins;
        pins.prepare();
        pins.dir().map(Path::to_owned)
    }

    /// What the programs of AF_XDP links need for the offload; `None` when it is switched off.
    pub(crate) fn wanted(&self) -> Option<u32> {
        let held = self.held();
        let Setup {
            wanted, flows_max, ..
        } = &held.setup;
        wanted.is_ok().then_some(*flows_max)
    }

    /// The programs of AF_XDP links are attached, and take these flows.
    pub(crate) fn start_redirect(&self, uplink: &str, redirect: Redirect, programs: Offload) {
        let mut held = self.held();
        let running = Running::over(programs, uplink, Some(redirect));
        tracing::info!(
            how = running.text(),
            "established flows are offloaded to the kernel"
        );
        held.idle.clear();
        held.running = Some(running);
    }

    /// Tells the Ethernet addresses of local instances and the next hops towards nodes as they are known now. Flows that
    /// were made for others are taken out.
    pub(crate) fn set_ways(&self, neighbours: BTreeMap<Ip, Neighbour>, hops: BTreeMap<Ip, Hop>) {
        let mut held = self.held();
        let Held { setup, running, .. } = &mut *held;
        if let Some(running) = running
            && let Some(redirect) = &mut running.redirect
            && redirect.set_ways(neighbours, hops)
        {
            running.renew();
            running.follow_routes();
            running.follow_neighbours(setup);
        }
    }

    /// The kernel's routes or policies have changed.
    pub(crate) fn follow(&self) {
        if let Some(running) = &mut self.held().running {
            running.follow_routes();
        }
    }

    /// It cannot be here, for that reason.
    pub(crate) fn decline(&self, reason: &str) {
        let mut held = self.held();
        if held.setup.wanted.is_ok() {
            reason.clone_into(&mut held.idle);
        }
    }

    /// Takes the programs away. Flows go on with the workers.
    pub(crate) fn stop(&self) {
        let mut held = self.held();
        let Held { setup, running, .. } = &mut *held;
        if let Some(mut running) = running.take() {
            running.read_back(setup);
            for (flow, _) in running.flows.values() {
                setup.shared.flows().set_offloading(flow, Offloading::No);
            }
        }
    }

    /// A worker says that a flow is worth it.
    pub(crate) fn install(&self, index: u32, generation: u16) {
        let mut held = self.held();
        let Held { setup, running, .. } = &mut *held;
        let flows = setup.shared.flows();
        let (Some(running), Some(flow)) = (running, flows.at(index, generation)) else {
            return;
        };
        match running.install(&flow, setup) {
            Ok(()) => {
                // It may have ended while it was installed.
                let still = flows.at(index, generation);
                if !still.is_some_and(|flow| flow.state.is_established() && !flow.state.is_closed())
                    || !flows.set_offloading(&flow, Offloading::Done)
                {
                    running.take_out((index, generation));
                }
            }
            Err(Refused { reason, for_now }) => {
                tracing::debug!(?flow, reason, "a flow stays with the worker");
                if for_now {
                    running.refused.push((index, generation));
                }
            }
        }
    }

    /// Takes out the flows that `next`, or `veths`, say something new about. To be called before workers see it, and
    /// before a device is removed.
    pub(crate) fn revoke(&self, next: &Tables, veths: BTreeMap<Ip, Veth>) {
        if let Some(running) = &mut self.held().running {
            running.revoke(next, veths);
        }
    }

    /// Ends the flows that these tables do not allow any more, offloaded ones first here. Returns how many.
    pub(crate) fn end_forbidden(&self, tables: &Tables) -> usize {
        let mut held = self.held();
        let Held { setup, running, .. } = &mut *held;
        setup.shared.end_forbidden(tables, |flow| {
            if let Some(running) = running {
                running.take_out((flow.index, flow.state.generation()));
            }
        })
    }

    /// While paused, workers see every packet.
    pub(crate) fn pause(&self, paused: bool) {
        if let Some(running) = &mut self.held().running {
            running.paused = paused;
            running.renew();
        }
    }

    /// To be called every second: renews the lease, follows the kernel's routes, and reads back what went by.
    pub(crate) fn tick(&self) {
        let mut held = self.held();
        let Held { setup, running, .. } = &mut *held;
        if let Some(running) = running {
            running.renew();
            running.follow_routes();
            running.meet_peers(&setup.publisher.snapshot());
            running.read_back(setup);
        }
    }

    /// Brings the account up to date.
    pub(crate) fn count(&self) {
        let mut held = self.held();
        let Held { setup, running, .. } = &mut *held;
        if let Some(running) = running {
            running.count(&setup.accounts.engine);
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.held().running.is_some()
    }

    /// The line of `sluice status`, and how many flows are offloaded.
    pub(crate) fn status(&self) -> (String, usize) {
        let held = self.held();
        let Some(running) = &held.running else {
            return (format!("off: {}", held.idle), 0);
        };
        let text = running.text();
        let text = match held.setup.pins.missing() {
            Some(reason) => format!("{text}, ends with the process: {reason}"),
            None => text,
        };
        (text, running.flows.len())
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a flow stays with the worker.
#[derive(Clone, Copy, Debug)]
struct Refused {
    reason: &'static str,
    /// It may ask again.
    for_now: bool,
}

const fn for_good(reason: &'static str) -> Refused {
    let for_now = false;
    Refused { reason, for_now }
}

const fn for_now(reason: &'static str) -> Refused {
    let for_now = true;
    Refused { reason, for_now }
}
