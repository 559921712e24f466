//! The workers and their links, as control holds them: opened once this node has a name, woken when tables changed.

use super::Error;
use crate::admin_api::WorkerState;
use crate::config::Fastpath;
use sluice_engine::{Counters, Engine, Limits, Settings, Shared};
use sluice_link::{LinksSettings, TunLink, UdpLink, choose, sys};
use sluice_memory::{Account, FRAME_LEN_MAX, Pool};
use sluice_tables::{Publisher, Upcalls};
use sluice_worker::{Bell, Handle, Worker, spawn};
use std::hash::BuildHasher;
use std::sync::Arc;

/// Questions and observations that wait for control; above it workers count and go on.
const UPCALLS_MAX: usize = 4096;

/// What exists from the start, so that it can be looked at before the links are open.
#[derive(Debug)]
pub(crate) struct Plane {
    config: Fastpath,
    tun: String,
    publisher: Publisher,
    shared: Arc<Shared>,
    accounts: Arc<[Arc<Account>]>,
    upcalls: Arc<Upcalls>,
    bell: Arc<Bell>,
    workers: Vec<Handle<TunLink, UdpLink>>,
    links: Vec<String>,
    counters: Vec<Arc<Counters>>,
    seed: u64,
}

impl Plane {
    /// # Errors
    /// When memory for the flows cannot be mapped.
    pub(crate) fn new(config: &Fastpath, tun: &str, publisher: Publisher) -> Result<Self, Error> {
        let limits = Limits {
            flows_max: u32::try_from(config.flows_max).unwrap_or(u32::MAX),
            fragments_max: u32::try_from(config.fragments_max).unwrap_or(u32::MAX),
            ..Limits::default()
        };
        let upcalls = Arc::new(Upcalls::new(UPCALLS_MAX));
        Ok(Self {
            config: config.clone(),
            tun: tun.to_owned(),
            publisher,
            shared: Shared::new(&limits)?,
            accounts: (0..config.workers).map(|_| Arc::default()).collect(),
            bell: Arc::new(Bell::new(Arc::clone(&upcalls))?),
            upcalls,
            workers: Vec::new(),
            links: Vec::new(),
            counters: Vec::new(),
            // The standard library's keys come from the operating system.
            seed: std::collections::hash_map::RandomState::new().hash_one(0),
        })
    }

    /// Opens the links and starts the workers; does nothing when they run.
    ///
    /// # Errors
    /// Names the device or port that cannot be had.
    pub(crate) fn start(&mut self) -> Result<(), Error> {
        if !self.workers.is_empty() {
            return Ok(());
        }
        let config = &self.config;
        let links = choose::open(&LinksSettings {
            tun: self.tun.clone(),
            // It outlives the process with its routes, so that a restart adopts them.
            persistent: true,
            address: None,
            tunnel_port: config.tunnel_port,
            workers: config.workers,
            tun_offload: config.tun_offload,
            udp_gso: config.udp_gso,
            one_packet_per_syscall: config.one_packet_per_syscall,
        })?;
        self.links = vec![
            format!("tun {} ({})", self.tun, links.chosen.tun_text()),
            format!("udp {} ({})", config.tunnel_port, links.chosen.udp_text()),
        ];
        let settings = Settings {
            inner_mtu: config.inner_mtu,
            tunnels_max: config.tunnels_max,
            tunnel_idle_s: config.tunnel_idle_s,
            ..Settings::default()
        };
        for (index, (service, underlay)) in links.pairs.into_iter().enumerate() {
            let seed = self.seed.wrapping_add(index as u64);
            let engine = Engine::new(
                Arc::clone(&self.shared),
                Arc::clone(&self.upcalls),
                &settings,
                seed,
            );
            self.counters.push(engine.counters());
            let worker = Worker::new(
                service,
                underlay,
                engine,
                self.publisher.reader(),
                Arc::clone(&self.bell),
                Pool::new(config.buffers, FRAME_LEN_MAX)?,
                Arc::clone(&self.accounts[index]),
            );
            let settings = sluice_worker::Settings {
                core: config.cores.get(index).copied(),
                spin_us: config.spin_us,
            };
            self.workers
                .push(spawn(format!("sluice-{index}"), worker, settings)?);
        }
        tracing::info!(links = ?self.links, "workers run");
        Ok(())
    }

    /// Makes the workers look at new tables.
    pub(crate) fn wake(&self) {
        for worker in &self.workers {
            worker.wake();
        }
    }

    /// Ends the workers; frames they hold are lost.
    pub(crate) fn stop(&mut self) {
        for worker in &self.workers {
            worker.stop();
        }
        for worker in self.workers.drain(..) {
            if let Err(error) = worker.join() {
                tracing::error!(%error, "stopping");
            }
        }
    }

    /// The reason, when a worker ended by itself.
    pub(crate) fn take_exit(&mut self) -> Option<Error> {
        let index = self.workers.iter().position(Handle::is_finished)?;
        let ended = self
            .workers
            .swap_remove(index)
            .join()
            .and_then(|ended| ended.result);
        Some(ended.map_or_else(Error::from, |()| Error::WorkerEnded(index)))
    }

    pub(crate) fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }

    pub(crate) fn upcalls(&self) -> Arc<Upcalls> {
        Arc::clone(&self.upcalls)
    }

    pub(crate) fn accounts(&self) -> Arc<[Arc<Account>]> {
        Arc::clone(&self.accounts)
    }

    pub(crate) const fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// A random number of this run.
    pub(crate) const fn seed(&self) -> u64 {
        self.seed
    }

    /// Active tunnels of all workers.
    pub(crate) fn tunnels(&self) -> usize {
        self.counters
            .iter()
            .map(|counters| usize::try_from(counters.tunnels.value()).unwrap_or(0))
            .sum()
    }

    pub(crate) fn workers(&self) -> Vec<WorkerState> {
        self.workers
            .iter()
            .map(|worker| WorkerState {
                core: worker.core(),
                links: self.links.clone(),
            })
            .collect()
    }
}

/// The workers' clock.
#[must_use]
pub(crate) fn now() -> std::time::Duration {
    std::time::Duration::from_nanos(sys::monotonic_ns())
}
