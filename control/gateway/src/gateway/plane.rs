//! The workers and their links, as control holds them: opened once this node has a name, woken when tables changed.

use super::offload::{Offloader, Redirect, Setup, finish_checksums};
use super::pins::Pins;
use super::xdp::XdpSide;
use super::{Error, key_log};
use crate::admin_api::{SocketRow, WorkerState};
use crate::config::{self, Fastpath};
use crate::node::devices::{Devices, LinkState};
use crate::node::{self, NodeError};
use ring::rand::{SecureRandom, SystemRandom};
use sluice_engine::{Counters, Engine, Limits, Settings, Shared};
use sluice_link::af_xdp::{Mac, XdpOffload};
use sluice_link::{Link, LinksSettings, choose, sys};
use sluice_managers::wall_clock;
use sluice_memory::{Accounts, FRAME_LEN_MAX, Pool};
use sluice_tables::{Publisher, Upcalls};
use sluice_tunnel::Speaker;
use sluice_tunnel::key::Identity;
use sluice_wire::{Dual, Ip, Subnet};
use sluice_worker::{Bell, Exit, Handle, Orders, Tunnel, Worker, spawn};
use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::sync::Arc;

/// Questions and observations that wait for control; above it workers count and go on.
const UPCALLS_MAX: usize = 4096;

/// What exists from the start, so that it can be looked at before the links are open.
pub(crate) struct Plane {
    config: Fastpath,
    tun: String,
    publisher: Publisher,
    tunnel: config::Tunnel,
    /// Who this node is to others; `None` speaks with all in plain.
    identity: Option<Identity>,
    orders: Option<Orders>,
    shared: Arc<Shared>,
    accounts: Arc<[Arc<Accounts>]>,
    /// What BPF programs forwarded or dropped before any worker: those of AF_XDP or of the offload.
    early: Arc<Accounts>,
    upcalls: Arc<Upcalls>,
    bell: Arc<Bell>,
    workers: Vec<Box<dyn Running>>,
    links: Vec<String>,
    sockets: Vec<SocketRow>,
    xdp: Option<XdpSide>,
    counters: Vec<Arc<Counters>>,
    offloader: Offloader,
    seed: u64,
}

/// A worker over any pair of links.
trait Running: Send {
    fn wake(&self);
    fn stop(&self);
    fn is_finished(&self) -> bool;
    fn core(&self) -> Option<usize>;
    /// Waits for its end and says why it ended.
    fn join(self: Box<Self>) -> Result<(), Exit>;
}

impl<S: Link + Send + 'static, U: Link + Send + 'static> Running for Handle<S, U> {
    fn wake(&self) {
        Self::wake(self);
    }

    fn stop(&self) {
        Self::stop(self);
    }

    fn is_finished(&self) -> bool {
        Self::is_finished(self)
    }

    fn core(&self) -> Option<usize> {
        Self::core(self)
    }

    fn join(self: Box<Self>) -> Result<(), Exit> {
        Self::join(*self).and_then(|ended| ended.result)
    }
}

impl Plane {
    /// # Errors
    /// When memory for the flows cannot be mapped.
    pub(crate) fn new(
        config: &Fastpath,
        tun: &str,
        pins: Pins,
        publisher: Publisher,
        (tunnel, identity): (&config::Tunnel, &Identity),
    ) -> Result<Self, Error> {
        let limits = Limits {
            flows_max: u32::try_from(config.flows_max).unwrap_or(u32::MAX),
            fragments_max: u32::try_from(config.fragments_max).unwrap_or(u32::MAX),
            ..Limits::default()
        };
        let upcalls = Arc::new(Upcalls::new(UPCALLS_MAX));
        let shared = Shared::new(&limits)?;
        let accounts = (0..config.workers).map(|_| Arc::default()).collect();
        let early = Arc::<Accounts>::default();
        let wanted = match (config.offload, config.one_packet_per_syscall) {
            (false, _) => Err("`fastpath.offload` is false".to_owned()),
            (true, true) => Err("`fastpath.one_packet_per_syscall` is true".to_owned()),
            (true, false) => Ok(()),
        };
        let offloader = Offloader::new(Setup {
            wanted,
            flows_max: u32::try_from(config.offload_flows_max).unwrap_or(u32::MAX),
            tunnel_port: config.tunnel_port,
            workers: config.workers,
            pins,
            shared: Arc::clone(&shared),
            publisher: publisher.clone(),
            accounts: Arc::clone(&early),
        });
        Ok(Self {
            config: config.clone(),
            tun: tun.to_owned(),
            publisher,
            tunnel: tunnel.clone(),
            identity: tunnel.encrypt.then(|| identity.clone()),
            orders: None,
            shared,
            accounts,
            offloader,
            early,
            bell: Arc::new(Bell::new(Arc::clone(&upcalls))?),
            upcalls,
            workers: Vec::new(),
            links: Vec::new(),
            sockets: Vec::new(),
            xdp: None,
            counters: Vec::new(),
            // The standard library's keys come from the operating system.
            seed: std::collections::hash_map::RandomState::new().hash_one(0),
        })
    }

    /// Opens TUN device and UDP sockets and starts the workers; does nothing when workers run.
    ///
    /// # Errors
    /// Names the device or port that cannot be had.
    pub(crate) fn start_tun(&mut self) -> Result<(), Error> {
        if !self.workers.is_empty() {
            return Ok(());
        }
        self.offloader.take_over();
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
        let (buffers, inner_mtu) = (config.buffers, config.inner_mtu);
        let tunnels = self.open_tunnels()?;
        for ((service, underlay), tunnel) in links.pairs.into_iter().zip(tunnels) {
            let pool = Pool::new(buffers, FRAME_LEN_MAX)?;
            self.start_worker(service, underlay, pool, inner_mtu, tunnel)?;
        }
        tracing::info!(links = ?self.links, "workers run");
        Ok(())
    }

    /// Opens AF_XDP sockets on the service side's device and on the underlay's device, made as `sockets` says, and starts the workers;
    /// does nothing when workers run.
    ///
    /// # Errors
    /// Names the device and what it, the kernel or our privileges lack.
    pub(crate) fn start_xdp(
        &mut self,
        service: LinkState,
        service_ranges: Dual<Subnet>,
        underlay: LinkState,
        sockets: &sluice_hw_profiles::Settings,
    ) -> Result<(), Error> {
        if !self.workers.is_empty() {
            return Ok(());
        }
        let port = match self.config.service.lan() {
            Some(_) => None,
            None => Devices::open()
                .and_then(|mut devices| devices.link(&node::port_name(&service.name)))
                .map_err(NodeError::from)?,
        };
        let offload = self.offloader.wanted().map(|flows_max| XdpOffload {
            flows_max,
            port: port.as_ref().map(|port| (port.name.clone(), port.index)),
        });
        let is_wanted = offload.is_some();
        let pins = self.offloader.take_over();
        let (mut side, pairs, redirected) = XdpSide::open(
            &self.config,
            (service.clone(), self.config.service.lan().is_some()),
            service_ranges,
            underlay.clone(),
            sockets,
            offload,
        )?;
        if let Some(dir) = &pins {
            side.survive(dir)?;
        }
        match redirected {
            Some(redirected) => {
                finish_checksums(&underlay.name).unwrap_or_else(|reason| {
                    tracing::warn!(reason, "checksums of super-frames");
                });
                let port = port.as_ref().map(|port| &*port.name);
                let (redirect, programs) = Redirect::between(&service, &underlay, port, redirected);
                self.offloader
                    .start_redirect(&service.name, redirect, programs);
            }
            None if is_wanted => self.offloader.decline("XDP is not in the driver"),
            None => {}
        }
        self.links = side.links();
        self.sockets = side.sockets();
        self.xdp = Some(side);
        // Hosts on a narrow LAN are told by connections' MSS.
        let inner_mtu = (self.config.inner_mtu).min(u16::try_from(service.mtu).unwrap_or(u16::MAX));
        let tunnels = self.open_tunnels()?;
        let started = pairs
            .into_iter()
            .zip(tunnels)
            .try_for_each(|(pair, tunnel)| {
                self.start_worker(pair.service, pair.underlay, pair.pool, inner_mtu, tunnel)
            });
        if started.is_err() {
            self.undo_start();
        }
        started?;
        tracing::info!(links = ?self.links, "workers run");
        Ok(())
    }

    /// As before a start that failed half way: programs detached, sockets closed, so that other links can be opened.
    fn undo_start(&mut self) {
        self.offloader.stop();
        self.stop();
        self.counters.clear();
        self.links.clear();
        self.sockets.clear();
        self.xdp = None;
    }

    fn start_worker<S, U>(
        &mut self,
        service: S,
        underlay: U,
        pool: Pool,
        inner_mtu: u16,
        tunnel: Option<Tunnel>,
    ) -> Result<(), Error>
    where
        S: Link + Send + 'static,
        U: Link + Send + 'static,
    {
        let config = &self.config;
        let index = self.workers.len();
        let settings = Settings {
            inner_mtu,
            tunnels_max: config.tunnels_max,
            tunnel_idle_s: config.tunnel_idle_s,
            offload: config.offload && !config.one_packet_per_syscall,
            ..Settings::default()
        };
        let engine = Engine::new(
            Arc::clone(&self.shared),
            Arc::clone(&self.upcalls),
            &settings,
            self.seed.wrapping_add(index as u64),
        );
        self.counters.push(engine.counters());
        let worker = Worker::new(
            service,
            underlay,
            engine,
            self.publisher.reader(),
            Arc::clone(&self.bell),
            pool,
            Arc::clone(&self.accounts[index]),
        );
        let worker = match tunnel {
            Some(tunnel) => worker.with_tunnel(tunnel),
            None => worker,
        };
        let settings = sluice_worker::Settings {
            core: config.cores.get(index).copied(),
            spin_us: config.spin_us,
        };
        let handle = spawn(format!("sluice-{index}"), worker, settings)?;
        self.workers.push(Box::new(handle));
        Ok(())
    }

    /// The workers' parts of the encrypted tunnel, one for each.
    fn open_tunnels(&mut self) -> Result<Vec<Option<Tunnel>>, Error> {
        let workers = self.config.workers;
        let Some(identity) = &self.identity else {
            return Ok((0..workers).map(|_| None).collect());
        };
        let mut speaker = Speaker::new(identity.clone(), random(), wall_clock(), now());
        if let Some(path) = &self.tunnel.key_log {
            speaker.set_key_log(key_log::open(path)?);
        }
        let upcalls = Arc::clone(&self.upcalls);
        let (orders, tunnels) = Tunnel::of_workers(speaker, workers, upcalls)?;
        self.orders = Some(orders);
        let dscp = self.tunnel.dscp;
        let tunnels = tunnels.into_iter().map(|tunnel| tunnel.with_dscp(dscp));
        Ok(tunnels.map(Some).collect())
    }

    /// The node goes on with another key.
    pub(crate) fn set_identity(&mut self, identity: &Identity) {
        if self.identity.is_none() {
            return;
        }
        self.identity = Some(identity.clone());
        if let Some(orders) = &self.orders {
            orders.set_identity(identity.clone());
        }
    }

    /// The links take frames from devices themselves, so that neighbours and next hops are ours to know.
    pub(crate) const fn follows(&self) -> bool {
        self.xdp.is_some()
    }

    /// Tells Ethernet links where local instances are. Comes before the tables that name them.
    pub(crate) fn set_neighbours(&mut self, neighbours: BTreeMap<Ip, Mac>) {
        if let Some(xdp) = &mut self.xdp {
            xdp.set_neighbours(neighbours);
            self.shared.set_service_mtu(xdp.service_mtu());
            self.offloader.set_ways(xdp.neighbours(), xdp.next_hops());
        }
    }

    /// Which hosts on the LAN are instances, or were and may be again.
    pub(crate) fn set_hosts(&mut self, hosts: Vec<Ip>) {
        if let Some(xdp) = &mut self.xdp {
            xdp.set_hosts(hosts);
        }
    }

    /// Whether a host on the LAN is where the kernel believes it to be.
    pub(crate) fn answers(&self, host: Ip) -> bool {
        self.xdp.as_ref().is_some_and(|xdp| xdp.answers(host))
    }

    /// Tells Ethernet links the way to `nodes` as the kernel has it now.
    pub(crate) fn follow(&mut self, nodes: &[Ip]) {
        if let Some(xdp) = &mut self.xdp {
            xdp.follow(nodes);
            self.shared.set_service_mtu(xdp.service_mtu());
            self.offloader.set_ways(xdp.neighbours(), xdp.next_hops());
        } else {
            self.offloader.follow();
        }
    }

    /// What is due every second: the workers hear the wall clock, next hops are kept fresh, the programs' counters read.
    pub(crate) fn tick(&mut self) {
        if let Some(orders) = &self.orders {
            let now = sluice_engine::Now {
                ns: sys::monotonic_ns(),
            };
            orders.set_wall_clock(wall_clock(), now);
        }
        let Some(xdp) = &mut self.xdp else { return };
        xdp.confirm();
        self.links = xdp.links();
        self.sockets = xdp.sockets();
        xdp.count(&self.early.underlay);
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
        if self.xdp.as_ref().is_some_and(XdpSide::is_over) {
            return Some(Error::UnderlayChanged);
        }
        let index = self.workers.iter().position(|it| it.is_finished())?;
        let ended = self.workers.swap_remove(index).join();
        Some(ended.map_or_else(Error::from, |()| Error::WorkerEnded(index)))
    }

    /// Lets the kernel forward established flows that come in on the uplink, where the links leave it to the kernel.
    pub(crate) fn offload(&self, uplink: &str) {
        if self.xdp.is_none() {
            self.offloader.start(uplink);
        }
    }

    pub(crate) const fn offloader(&self) -> &Offloader {
        &self.offloader
    }

    pub(crate) fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }

    pub(crate) fn upcalls(&self) -> Arc<Upcalls> {
        Arc::clone(&self.upcalls)
    }

    pub(crate) fn accounts(&self) -> Arc<[Arc<Accounts>]> {
        Arc::clone(&self.accounts)
    }

    pub(crate) fn early(&self) -> Arc<Accounts> {
        Arc::clone(&self.early)
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

    /// Flows begun that no rule allows, where that is only observed.
    pub(crate) fn observed(&self) -> u64 {
        let counters = self.counters.iter();
        counters.map(|counters| counters.observed.value()).sum()
    }

    /// Frames sent on to where their instance moved, and answers to them.
    pub(crate) fn relayed(&self) -> u64 {
        let counters = self.counters.iter();
        counters.map(|counters| counters.relayed.value()).sum()
    }

    /// AF_XDP sockets as they were when last looked at.
    pub(crate) fn sockets(&self) -> &[SocketRow] {
        &self.sockets
    }

    pub(crate) fn workers(&self) -> Vec<WorkerState> {
        let workers = self.workers.iter().map(|worker| WorkerState {
            core: worker.core(),
            links: self.links.clone(),
        });
        let programs = match self.xdp {
            Some(_) => Some("XDP programs"),
            None => self
                .offloader
                .is_running()
                .then_some("established flows in the kernel"),
        };
        let programs = programs.map(|name| WorkerState {
            core: None,
            links: vec![name.to_owned()],
        });
        workers.chain(programs).collect()
    }
}

/// Random bytes that nobody can predict, from the operating system.
fn random() -> sluice_tunnel::entropy::Fill {
    let source = SystemRandom::new();
    Box::new(move |bytes| {
        if source.fill(bytes).is_err() {
            unreachable!("Linux has given random bytes since the process started");
        }
    })
}

/// The workers' clock.
#[must_use]
pub(crate) fn now() -> std::time::Duration {
    std::time::Duration::from_nanos(sys::monotonic_ns())
}
