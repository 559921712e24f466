//! Configuration in two steps: text becomes [`RawConfig`] (syntax), which becomes [`Config`] (meaning; only ever valid).

mod place;
mod raw;
mod rests;
mod check;
mod names;
mod tunnel;
mod roles;
mod show;

pub use raw::{
    RawBroker, RawCluster, RawConfig, RawFastpath, RawGateway, RawHardware, RawLog, RawNames,
    RawPlan, RawRoot, RawTunnel, RawXdp,
};
pub use roles::RoleError;
pub use show::rows;
pub use tunnel::Tunnel;

use sluice_hw_profiles::{Key, Settings};
use sluice_proto::alloc::Rests;
use sluice_proto::dns::Zones;
use sluice_proto::isolation::Isolation;
use sluice_proto::signature::ClusterKey;
use sluice_wire::{AddressPlan, Ip, Subnet};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Where a role looks when no `--config` is given; without it, everything is default.
pub const DEFAULT_PATH: &str = "/etc/sluice/sluice.toml";

/// A valid configuration of all roles. Tokens are named by file; a role reads its own.
#[derive(Clone, Debug)]
pub struct Config {
    pub plan: AddressPlan,
    pub log: Log,
    pub root: Root,
    pub cluster: Cluster,
    pub gateway: Gateway,
    pub fastpath: Fastpath,
    pub tunnel: Tunnel,
    pub hardware: Hardware,
    pub names: NameServer,
}

/// What to log, and how.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Log {
    /// A `tracing` filter: a level, or `target=level` pairs.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogFormat {
    Text,
    /// One JSON object per line.
    Json,
}

/// The root manager.
#[derive(Clone, Debug)]
pub struct Root {
    pub listen: SocketAddr,
    pub data_dir: PathBuf,
    pub admin_socket: PathBuf,
    pub token_file: Option<PathBuf>,
    /// Callers from here need no token.
    pub allow_without_token: Vec<Subnet>,
    /// Whose key signs the tokens of Oakestra's web interface; `None` serves it nothing.
    pub jwt_key_server: Option<HostPort>,
    pub rests: Rests,
}

/// The cluster manager.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub id: String,
    pub listen: SocketAddr,
    pub root: HostPort,
    pub root_token_file: Option<PathBuf>,
    /// Where the root calls this cluster; `None` is `listen`, or the source address of its own requests.
    pub advertise: Option<SocketAddr>,
    pub data_dir: PathBuf,
    pub admin_socket: PathBuf,
    pub token_file: Option<PathBuf>,
    /// Callers from here need no token.
    pub allow_without_token: Vec<Subnet>,
    /// Whether nodes are told only what their instances may know.
    pub isolation: Isolation,
    /// Rows per service that a node is shown.
    pub instances_max: usize,
    /// Host, port and path that events are posted to.
    pub event_webhook: Option<(HostPort, String)>,
    pub event_token_file: Option<PathBuf>,
    pub broker: Broker,
}

/// The MQTT broker between a cluster manager and its gateways.
#[derive(Clone, Debug)]
pub enum Broker {
    Embedded {
        listen: SocketAddr,
        /// The password every client gives; with `node_credentials`, those that are no nodes. A node's user name is its node id.
        token_file: Option<PathBuf>,
        /// Every node gives a password of its own (`sluice node credential`).
        node_credentials: bool,
    },
    External {
        address: HostPort,
        user: String,
        /// The user's password.
        token_file: Option<PathBuf>,
    },
}

/// The gateway's control side.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// 24 hexadecimal digits; `None` derives it from the machine (see [`node_id_of_machine`]).
    pub node_id: Option<String>,
    /// The cluster's broker; `None` waits for `POST /register` on the node socket.
    pub cluster: Option<HostPort>,
    pub cluster_token_file: Option<PathBuf>,
    /// The cluster manager's REST interface, which says with which key it signs; `None` is its usual port on the broker's host.
    pub cluster_api: Option<HostPort>,
    /// The key whose rows are believed; `None` takes the one that the cluster manager says.
    pub cluster_key: Option<ClusterKey>,
    /// A connection to the broker on which its machine acknowledges nothing for about so long is made anew; milliseconds.
    pub broker_silence_ms: u32,
    pub node_socket: PathBuf,
    pub admin_socket: PathBuf,
    pub state_dir: PathBuf,
    /// Holds the node's private key.
    pub key_file: PathBuf,
    /// Where other nodes reach this one; `None` takes the source address of the default route.
    pub node_address: Option<Ip>,
    /// The port other nodes send to; differs from the bound one behind a NAT.
    pub exposed_port: u16,
    /// The node's subnet comes with `POST /api/register` and not from the managers.
    pub subnet_by_caller: bool,
    /// Of an NsIP between two instances; seconds.
    pub ns_ip_rest_s: u64,
    /// For how long a node sends on what comes for an instance that moved away; seconds, the same on all nodes.
    pub moved_sent_on_s: u32,
    /// Names of the bridge, the uplink and the TUN device.
    pub bridge: String,
    pub uplink: String,
    pub tun: String,
    /// What becomes of calls across namespaces that no rule allows.
    pub isolation: Isolation,
}

/// The fast path's limits and switches.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fastpath {
    /// 1..=64.
    pub workers: usize,
    /// One core per worker, or empty: the kernel's choice of the first ones allowed.
    pub cores: Vec<usize>,
    /// How long an idle worker looks for packets before it sleeps; microseconds.
    pub spin_us: u32,
    /// Buffers of 64 KB per worker.
    pub buffers: usize,
    pub flows_max: usize,
    pub fragments_max: usize,
    /// The UDP port bound for tunnels.
    pub tunnel_port: u16,
    pub tunnels_max: usize,
    pub tunnel_idle_s: u32,
    /// The longest inner packet sent to another node; bytes.
    pub inner_mtu: u16,
    pub tun_offload: bool,
    pub udp_gso: bool,
    pub one_packet_per_syscall: bool,
    /// The kernel forwards established flows by itself.
    pub offload: bool,
    /// 1..=1048576.
    pub offload_flows_max: usize,
    pub link: LinkKind,
    pub service: ServiceSide,
    pub xdp: Xdp,
}

/// The name server of the gateway.
#[derive(Clone, Debug)]
pub struct NameServer {
    pub enabled: bool,
    /// Beside `local`.
    pub suffix: Option<String>,
    /// The suffixes as the server needs them.
    pub zones: Zones,
    /// Who answers other names; empty: the resolvers of this host.
    pub upstream: Vec<SocketAddr>,
}

/// What the workers' links are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LinkKind {
    /// A TUN device and UDP sockets.
    Tun,
    /// AF_XDP on the uplink and on the underlay's NIC.
    AfXdp,
    /// AF_XDP where it works, else TUN.
    Auto,
}

impl LinkKind {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tun => "tun",
            Self::AfXdp => "af_xdp",
            Self::Auto => "auto",
        }
    }
}

/// Where instances are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ServiceSide {
    /// In network namespaces of this machine, joined by a bridge.
    Bridge,
    /// On hosts that this device leads to.
    Lan(String),
}

impl ServiceSide {
    /// The device, where it is one.
    #[must_use]
    pub fn lan(&self) -> Option<&str> {
        match self {
            Self::Bridge => None,
            Self::Lan(device) => Some(device),
        }
    }
}

/// What the XDP programs do. How the sockets are made is in [`Hardware`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Xdp {
    /// Try the driver's own XDP first.
    pub native: bool,
    pub blocked_sources: Vec<Subnet>,
    /// Tunnel datagrams per second and source prefix; 0 is no limit.
    pub source_rate: u32,
    pub source_burst: u32,
}

/// Which hardware profile is applied, to which interface, and what is set differently.
#[derive(Clone, Debug, PartialEq)]
pub struct Hardware {
    pub profile: ProfileChoice,
    /// The underlay interface; `None` takes the one with the node's address.
    pub interface: Option<String>,
    /// Profiles of the operator, which win over shipped ones of their name.
    pub profiles_dir: PathBuf,
    /// What stays as the kernel has it, whatever the profile says.
    pub keep: Vec<Key>,
    /// Values in place of the profile's.
    pub set: Settings,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ProfileChoice {
    /// Nothing is changed but what [`Hardware::set`] says.
    None,
    /// The one that fits the interface best.
    Auto,
    Named(String),
}

/// A host name or address with a port, as dialled.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Why a configuration is refused: the place, the key, the value and what was expected.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum ConfigError {
    #[error("{file}: cannot be read: {reason}")]
    Read { file: String, reason: String },
    #[error("{file}:{line}: {message}")]
    Syntax {
        file: String,
        line: usize,
        message: String,
    },
    #[error("{file}:{line}: `{key}` is not a known key{}", did_you_mean(suggestion.as_ref()))]
    UnknownKey {
        file: String,
        line: usize,
        key: String,
        suggestion: Option<String>,
    },
    #[error("{file}{}: `{key}` = {value}: expected {expected}", line_suffix(*line))]
    Value {
        file: String,
        /// `None` when the value is a default that does not fit another key.
        line: Option<usize>,
        key: String,
        value: String,
        expected: String,
    },
}

fn did_you_mean(suggestion: Option<&String>) -> String {
    suggestion.map_or_else(
        || "; `sluice.example.toml` lists all keys".to_owned(),
        |key| format!("; did you mean `{key}`?"),
    )
}

fn line_suffix(line: Option<usize>) -> String {
    line.map_or_else(String::new, |line| format!(":{line}"))
}

impl Config {
    /// Reads the file, or [`DEFAULT_PATH`] when none is named and it exists, or takes the defaults.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let path = match path {
            Some(path) => path,
            None if Path::new(DEFAULT_PATH).exists() => Path::new(DEFAULT_PATH),
            None => return Self::parse("", "defaults"),
        };
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read {
            file: file.clone(),
            reason: error.to_string(),
        })?;
        Self::parse(&text, &file)
    }

    /// Parses and checks a text; `file` only names it in errors.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn parse(text: &str, file: &str) -> Result<Self, ConfigError> {
        check::config(&parse_raw(text, file)?, text, file)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::parse("", "defaults").expect("the defaults are valid")
    }
}

/// The syntax step: unknown keys and wrong types are named with line and key.
///
/// # Errors
/// [`ConfigError::Syntax`], [`ConfigError::UnknownKey`] or, for a value of the wrong type, [`ConfigError::Value`].
pub fn parse_raw(text: &str, file: &str) -> Result<RawConfig, ConfigError> {
    if let Some(unknown) = place::unknown(text, &known()) {
        return Err(ConfigError::UnknownKey {
            file: file.to_owned(),
            line: unknown.line,
            key: unknown.key,
            suggestion: unknown.suggestion,
        });
    }
    toml::from_str(text).map_err(|error| {
        let at = error.span().unwrap_or(0..0);
        match place::key_at(text, &at) {
            Some((key, place)) => ConfigError::Value {
                file: file.to_owned(),
                line: Some(place.line),
                key,
                value: place.value,
                expected: expected(error.message()),
            },
            None => ConfigError::Syntax {
                file: file.to_owned(),
                line: place::line(text, at.start),
                message: error.message().to_owned(),
            },
        }
    })
}

/// A table with every key that a file may have.
fn known() -> toml::Table {
    let mut known = toml::Table::try_from(RawConfig::default()).expect("the defaults are a table");
    let settings = Key::ALL
        .iter()
        .map(|key| (key.name().to_owned(), toml::Value::Boolean(true)));
    let hardware = known
        .get_mut("hardware")
        .and_then(toml::Value::as_table_mut);
    if let Some(hardware) = hardware {
        // None of them has a default: a profile has.
        hardware.insert("set".to_owned(), toml::Value::Table(settings.collect()));
    }
    known
}

/// What a type error of the deserializer asks for, in words of a configuration file.
fn expected(message: &str) -> String {
    match message.split_once("expected ").map(|(_, rest)| rest) {
        Some("i64") => "a whole number".to_owned(),
        Some("a boolean") => "true or false".to_owned(),
        Some("a string") => "a text in quotes".to_owned(),
        Some("a sequence") => "a list in brackets".to_owned(),
        Some(rest) => rest.to_owned(),
        None => message.to_owned(),
    }
}

/// All dotted keys of a configuration file that have a default, without the section names.
#[must_use]
pub fn keys() -> Vec<String> {
    let known = toml::Table::try_from(RawConfig::default()).expect("the defaults are a table");
    let mut keys = Vec::new();
    place::flatten(&known, "", &mut keys);
    keys.retain(|key| !matches!(known_value(&known, key), Some(toml::Value::Table(_))));
    keys.sort();
    keys
}

fn known_value<'a>(table: &'a toml::Table, key: &str) -> Option<&'a toml::Value> {
    let (first, rest) = key.split_once('.').unwrap_or((key, ""));
    let value = table.get(first)?;
    match (rest, value) {
        ("", _) => Some(value),
        (_, toml::Value::Table(inner)) => known_value(inner, rest),
        _ => None,
    }
}

/// The node id of a machine: 24 hexadecimal digits, a keyed hash of `/etc/machine-id`, because machine-id(5) asks
/// not to show the id itself on a network.
#[must_use]
pub fn node_id_of_machine(machine_id: &str) -> String {
    use siphasher::sip128::{Hasher128, SipHasher13};
    use std::hash::Hasher;
    let mut hasher = SipHasher13::new_with_keys(0x736c_7569_6365, 0x6e6f_6465_2d69_6400);
    hasher.write(machine_id.trim().as_bytes());
    let mut id = format!("{:032x}", hasher.finish128().as_u128());
    id.truncate(24);
    id
}

#[cfg(test)]
mod tests;
