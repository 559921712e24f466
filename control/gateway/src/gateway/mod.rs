//! The gateway role: the one place where control, workers, node wiring and the cluster meet.
//!
//! [`run`] owns the sockets and the loop; [`core`] decides; [`plane`] holds the workers; [`sluice_routes`] writes the tables;
//! [`sluice_managers::mqtt`] speaks to the broker; [`probes`] to other gateways; [`state`] remembers; [`mod@leave`] ends it all.

mod core;
mod flows;
mod leave;
mod offload;
mod key_log;
pub(crate) mod path_mtu;
mod pins;
mod plane;
mod probes;
mod state;
mod trace;
mod xdp;

use crate::admin_api::{self, AdminSocket, GatewayState, GatewayView, SocketError};
use crate::config::{Config, LinkKind, RoleError, node_id_of_machine};
use crate::dns::Dns;
use crate::hardware::{Hardware, HardwareError};
use crate::node::hops::Changes;
use crate::node::watch::Watch;
use crate::node::{NodeError, Wiring};
use crate::{node_api, node_key, notify};
use core::Core;
pub use leave::{Heard, leave};
use pins::Pins;
use plane::{Plane, now};
use sluice_hw_profiles::Link;
use sluice_link::LinksError;
use sluice_managers::SecretFileError;
use sluice_proto::NameError;
use sluice_proto::message::{MessageError, TopicError};
use sluice_routes::Routes;
use sluice_tables::Writer;
use sluice_wire::plan::SubnetError;
use sluice_wire::{Dual, Ip};
pub use state::StateError;
pub(crate) use state::remembered;
use state::{StateFile, StateWriter};
use std::future::Future;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use thiserror::Error as ThisError;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::{Instant, sleep_until};

/// MTU of bridge, veths and TUN device in bytes: what legacy nodes use and send (OAKESTRA-WIRE section 4.2).
const DEVICE_MTU: u32 = 1450;
/// The broker's port when a registration names only a host (OAKESTRA-WIRE section 1.6).
const BROKER_PORT: u16 = 10003;
/// Requests of the HTTP interfaces that wait for the core.
const COMMANDS_MAX: usize = 64;
/// Messages of the broker that wait for the core.
const MESSAGES_MAX: usize = 256;
/// Questions of the name server handled before other events get their turn.
const NAMES_PER_TURN: usize = 64;
/// Upcalls handled before other events get their turn.
const UPCALLS_PER_TURN: usize = 256;

/// Why the gateway cannot start or go on.
#[derive(Debug, ThisError)]
pub enum Error {
    #[error(transparent)]
    Role(#[from] RoleError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Key(#[from] SecretFileError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    NodeApi(#[from] node_api::SocketError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("wiring the node panicked; the log has the place")]
    NodePanicked,
    #[error(transparent)]
    Hardware(#[from] HardwareError),
    #[error(transparent)]
    Links(#[from] LinksError),
    #[error(transparent)]
    Xdp(#[from] sluice_link::af_xdp::XskError),
    #[error("{0} is down, or no Ethernet device; name another as `hardware.interface`")]
    NoEthernet(String),
    #[error("no device {}; set `hardware.interface` to the NIC towards other nodes", underlay_text(.name.as_ref(), *.own))]
    NoUnderlay { name: Option<String>, own: Ip },
    #[error(
        "a device of the gateway was replaced, or has another address; the gateway opens it anew when it restarts"
    )]
    UnderlayChanged,
    #[error(transparent)]
    Engine(#[from] sluice_engine::SharedError),
    #[error(transparent)]
    Pool(#[from] sluice_memory::PoolError),
    #[error(transparent)]
    Spawn(#[from] sluice_worker::SpawnError),
    #[error(transparent)]
    Worker(#[from] sluice_worker::Exit),
    #[error("a gateway answers on {path}; stop it first", path = .0.display())]
    Running(PathBuf),
    #[error(
        "this node is cleared, but the cluster at {cluster} does not know yet that it has left ({why}): its subnet stays taken, and its instances stay in the tables; `sluice gateway --remove` tells it again"
    )]
    Unheard { cluster: String, why: String },
    #[error("worker {0} ended without being told to")]
    WorkerEnded(usize),
    #[error("the node id of this machine: /etc/machine-id: {0}; set `gateway.node_id`")]
    MachineId(io::Error),
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("the cluster gave an impossible subnet: {0}")]
    Subnet(#[from] SubnetError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Runs the gateway until `shutdown` completes. The node's wiring stays, so that the next start adopts it.
///
/// # Errors
/// When it cannot start, or a worker lost its link.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let token = config.gateway_token()?;
    let (mut file, state) = StateFile::open(&config.gateway.state_dir)?;
    let state = leave::finish(&config, &mut file, state).await?;
    let key_file = node_key::file(&config);
    let identity = node_key::identity(&key_file.read_or_make()?);
    tracing::info!(public_key = %identity.public(), "the node's key");
    let state = (StateWriter::start(file)?, state);
    // Before the links open: a NIC may stop for a moment while its queues or rings change.
    let hardware = Arc::new(Hardware::start(
        &config,
        match config.fastpath.link {
            LinkKind::Tun => Link::Tun,
            LinkKind::AfXdp | LinkKind::Auto => Link::AfXdp,
        },
    )?);
    let writer = Writer::new(config.plan, Dual::default());
    let publisher = writer.publisher();
    let plane = Plane::new(
        &config.fastpath,
        &config.gateway.tun,
        Pins::of(&config.gateway.state_dir),
        publisher.clone(),
        (&config.tunnel, &identity),
    )?;
    // SAFETY: the bell owns one eventfd from its birth to its end, and the `Arc` in the `AsyncFd` keeps it alive.
    let bell = unsafe { AsyncFd::register_with_interest(plane.bell(), Interest::READABLE) };
    let (bell, upcalls) = (bell.map_err(io::Error::from)?, plane.upcalls());
    let is_past_kernel = config.fastpath.link != LinkKind::Tun || config.fastpath.offload;
    let changes = is_past_kernel
        .then(|| -> io::Result<_> {
            // SAFETY: the socket owns its descriptor and never changes it.
            let changes = unsafe { AsyncFd::register(Changes::watch()?) };
            changes.map_err(io::Error::from)
        })
        .transpose()?;
    let (commands, mut command_queue) = mpsc::channel(COMMANDS_MAX);
    let (mqtt_events, mut mqtt_queue) = mpsc::channel(MESSAGES_MAX);
    let (found, mut found_queue) = mpsc::channel(COMMANDS_MAX);
    let (probe_results, mut probe_queue) = mpsc::channel(MESSAGES_MAX);
    let (watch, mut gone) = Watch::start()?;
    let (dns, mut name_questions) = Dns::start(&config.names, now)?;
    let (view_state, shown) = watch::channel(GatewayState {
        not_ready: "starting".to_owned(),
        ..GatewayState::default()
    });
    let view = GatewayView {
        state: shown,
        publisher,
        accounts: plane.accounts(),
        early: {
            let (offloader, early) = (plane.offloader().clone(), plane.early());
            Arc::new(move || {
                offloader.count();
                Arc::clone(&early)
            })
        },
        commands: commands.clone(),
        now_s: || u32::try_from(now().as_secs()).unwrap_or(u32::MAX),
        flows: flows::lister(plane.shared(), plane.publisher().clone()),
        hardware: {
            let hardware = Arc::clone(&hardware);
            Arc::new(move || hardware.status())
        },
        trace: trace::follower(plane.shared(), plane.offloader().clone()),
        key_file: Arc::new(Mutex::new(key_file)),
        names: dns.watcher(),
    };
    let admin = AdminSocket::bind(&config.gateway.admin_socket).await?;
    // Aborted at the end; nothing is left unfinished by that.
    let admin = tokio::spawn(admin.serve(admin_api::router(view)));

    let node_socket = node_api::bind(&config.gateway.node_socket)?;
    let node_api = tokio::spawn(node_api::serve(node_socket, commands));

    let mut routes = Routes::new(writer, path_mtu::inner_mtu_to);
    routes.set_formats(config.tunnel.formats());
    routes.set_isolation(config.gateway.isolation);
    routes.set_sent_on_s(config.gateway.moved_sent_on_s);
    let mut core = Core::new(
        config,
        (token, identity),
        state,
        (plane, routes, dns),
        (watch, mqtt_events, found, probe_results),
        view_state,
        now(),
    );
    core.start(now()).await?;
    core.settle(now());
    core.detach_withdrawn(now()).await;
    // Ready to be registered: a node engine starts us first and registers then.
    notify::ready();
    tokio::pin!(shutdown);
    let result = loop {
        let due = Instant::from_std(instant_of(core.poll_timeout()));
        tokio::select! {
            () = &mut shutdown => break Ok(()),
            Some(command) = command_queue.recv() => core.handle_command(command, now()).await,
            Some(event) = mqtt_queue.recv() => core.handle_mqtt(event, now()).await,
            Some(found) = found_queue.recv() => core.handle_found(found, now()).await,
            Some(question) = name_questions.recv() => {
                core.handle_name_question(&question, now());
                for _ in 1..NAMES_PER_TURN {
                    let Ok(question) = name_questions.try_recv() else { break };
                    core.handle_name_question(&question, now());
                }
            }
            Some(result) = probe_queue.recv() => core.handle_probe(result, now()),
            Some(instance) = gone.recv() => core.handle_gone(instance, now()).await,
            () = changed(changes.as_ref()) => core.handle_changes(),
            ready = bell.readable() => {
                if let Ok(mut ready) = ready {
                    ready.clear_ready();
                }
                bell.get_ref().answer();
                for _ in 0..UPCALLS_PER_TURN {
                    let Some(upcall) = upcalls.pop() else { break };
                    core.handle_upcall(upcall, now());
                }
                bell.get_ref().ring_again();
            }
            () = sleep_until(due) => core.handle_timeout(now()),
        }
        core.settle(now());
        core.detach_withdrawn(now()).await;
        if let Some(error) = core.worker_exit() {
            break Err(error);
        }
    };
    notify::stopping();
    core.stop(now());
    admin.abort();
    node_api.abort();
    hardware.stop();
    result
}

/// Completes when the kernel's links, addresses, routes or neighbours have changed; never without a socket.
async fn changed(changes: Option<&AsyncFd<Changes>>) {
    let Some(changes) = changes else {
        return std::future::pending().await;
    };
    if let Ok(mut ready) = changes.readable().await {
        ready.clear_ready();
    }
    changes.get_ref().drain();
}

/// What the configuration says about the node's devices.
fn wiring(config: &Config) -> Wiring {
    let gateway = &config.gateway;
    Wiring {
        bridge: gateway.bridge.clone(),
        uplink: gateway.uplink.clone(),
        tun: gateway.tun.clone(),
        uplink_queues: match config.fastpath.link {
            LinkKind::Tun => 1,
            LinkKind::AfXdp | LinkKind::Auto => u32::try_from(config.fastpath.workers).unwrap_or(1),
        },
        lan: config.fastpath.service.lan().map(str::to_owned),
        mtu: DEVICE_MTU,
        inner_mtu: u32::from(config.fastpath.inner_mtu),
        plan: config.plan,
        rest: std::time::Duration::from_secs(gateway.ns_ip_rest_s),
        state_dir: gateway.state_dir.clone(),
    }
}

/// Which underlay device was looked for.
fn underlay_text(name: Option<&String>, own: Ip) -> String {
    name.map_or_else(
        || format!("has the address {own}"),
        |name| format!("is named {name}"),
    )
}

/// The node id of this machine when none is configured.
fn machine_node_id() -> Result<String, Error> {
    let machine_id = std::fs::read_to_string("/etc/machine-id").map_err(Error::MachineId)?;
    Ok(node_id_of_machine(machine_id.trim()))
}

/// The source address of packets towards `peer`, or of the default route of either family; nothing is sent.
pub(crate) fn source_towards(peer: Option<IpAddr>) -> Option<Ip> {
    // Documentation addresses (RFC 5737, RFC 3849): only a default route leads there.
    let anywhere = [
        IpAddr::from([192, 0, 2, 1]),
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
    ];
    let peers = peer.map_or_else(|| anywhere.to_vec(), |peer| vec![peer]);
    peers.into_iter().find_map(|peer| {
        let any: IpAddr = if peer.is_ipv4() {
            [0; 4].into()
        } else {
            [0; 16].into()
        };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((peer, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip().into())
    })
}

/// The workers' clock as tokio's.
#[expect(
    clippy::disallowed_methods,
    reason = "the shell's timer needs the clock that tokio reads"
)]
fn instant_of(at: std::time::Duration) -> std::time::Instant {
    std::time::Instant::now() + at.saturating_sub(now())
}
