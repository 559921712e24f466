//! The configuration as text says it: one struct per section, every key with its default.

use serde::{Deserialize, Serialize};
use sluice_hw_profiles::Settings;
use sluice_proto::alloc::Rests;
use sluice_tables::SENT_ON_S;

/// A configuration file, syntax only. An empty text or `"auto"`-like value keeps the default that
/// [`Config`](super::Config) works out.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    pub plan: RawPlan,
    pub log: RawLog,
    pub root: RawRoot,
    pub cluster: RawCluster,
    pub gateway: RawGateway,
    pub fastpath: RawFastpath,
    pub tunnel: RawTunnel,
    pub hardware: RawHardware,
    pub names: RawNames,
}

/// `[plan]`: a preset, of which single ranges may be replaced.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawPlan {
    pub preset: String,
    pub semantic_v4: String,
    pub semantic_v6: String,
    pub nodes_v4: String,
    pub nodes_v6: String,
    /// 0 keeps the preset's.
    pub node_length_v4: i64,
    pub node_length_v6: i64,
}

/// `[log]`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLog {
    pub level: String,
    pub format: String,
}

/// `[root]`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawRoot {
    pub listen: String,
    pub data_dir: String,
    pub admin_socket: String,
    pub token_file: String,
    pub allow_without_token: Vec<String>,
    pub jwt_key_server: String,
    pub address_rest_s: i64,
    pub subnet_rest_s: i64,
}

/// `[cluster]`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawCluster {
    pub id: String,
    pub listen: String,
    pub root: String,
    pub root_token_file: String,
    pub advertise: String,
    pub data_dir: String,
    pub admin_socket: String,
    pub token_file: String,
    pub allow_without_token: Vec<String>,
    pub isolation: String,
    pub instances_max: i64,
    pub event_webhook: String,
    pub event_token_file: String,
    pub broker: RawBroker,
}

/// `[cluster.broker]`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawBroker {
    pub mode: String,
    pub listen: String,
    pub address: String,
    pub user: String,
    pub token_file: String,
    pub node_credentials: bool,
}

/// `[gateway]`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawGateway {
    pub node_id: String,
    pub cluster: String,
    pub cluster_token_file: String,
    pub cluster_api: String,
    pub cluster_key: String,
    pub broker_silence_ms: i64,
    pub node_socket: String,
    pub admin_socket: String,
    pub state_dir: String,
    pub key_file: String,
    pub node_address: String,
    pub exposed_port: i64,
    pub subnet_by_caller: bool,
    pub ns_ip_rest_s: i64,
    pub moved_sent_on_s: i64,
    pub bridge: String,
    pub uplink: String,
    pub tun: String,
    pub isolation: String,
}

/// `[fastpath]`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawFastpath {
    pub workers: i64,
    pub cores: Vec<i64>,
    pub spin_us: i64,
    pub buffers: i64,
    pub flows_max: i64,
    pub fragments_max: i64,
    pub tunnel_port: i64,
    pub tunnels_max: i64,
    pub tunnel_idle_s: i64,
    pub inner_mtu: i64,
    pub tun_offload: bool,
    pub udp_gso: bool,
    pub one_packet_per_syscall: bool,
    pub offload: bool,
    pub offload_flows_max: i64,
    pub link: String,
    pub service: String,
    pub xdp: RawXdp,
}

/// `[tunnel]`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawTunnel {
    pub encrypt: bool,
    pub plain_peers: Vec<String>,
    pub dscp: i64,
    pub copy_dscp: bool,
    pub key_log: String,
}

/// `[fastpath.xdp]`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawXdp {
    pub mode: String,
    pub blocked_sources: Vec<String>,
    pub source_rate: i64,
    pub source_burst: i64,
}

/// `[hardware]`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawHardware {
    pub profile: String,
    pub interface: String,
    pub profiles_dir: String,
    pub keep: Vec<String>,
    /// `[hardware.set]`: keys of [`Settings`], none by default.
    pub set: Settings,
}

/// `[names]`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawNames {
    pub enabled: bool,
    pub suffix: String,
    pub upstream: Vec<String>,
}

impl Default for RawNames {
    fn default() -> Self {
        Self {
            enabled: true,
            suffix: String::new(),
            upstream: Vec::new(),
        }
    }
}

impl Default for RawPlan {
    fn default() -> Self {
        Self {
            preset: "oakestra".into(),
            semantic_v4: String::new(),
            semantic_v6: String::new(),
            nodes_v4: String::new(),
            nodes_v6: String::new(),
            node_length_v4: 0,
            node_length_v6: 0,
        }
    }
}

impl Default for RawLog {
    fn default() -> Self {
        Self {
            level: "info".into(),
            format: "text".into(),
        }
    }
}

impl Default for RawRoot {
    fn default() -> Self {
        let rests = Rests::default();
        Self {
            // Oakestra's root service manager listens there.
            listen: "127.0.0.1:10099".into(),
            data_dir: "/var/lib/sluice/root".into(),
            admin_socket: "/run/sluice/root.sock".into(),
            token_file: String::new(),
            allow_without_token: Vec::new(),
            jwt_key_server: String::new(),
            address_rest_s: rests.addresses_s.cast_signed(),
            subnet_rest_s: rests.subnets_s.cast_signed(),
        }
    }
}

impl Default for RawCluster {
    fn default() -> Self {
        Self {
            id: "default".into(),
            // Oakestra's cluster service manager listens there.
            listen: "127.0.0.1:10110".into(),
            root: "127.0.0.1:10099".into(),
            root_token_file: String::new(),
            advertise: String::new(),
            data_dir: "/var/lib/sluice/cluster".into(),
            admin_socket: "/run/sluice/cluster.sock".into(),
            token_file: String::new(),
            allow_without_token: Vec::new(),
            // What Oakestra never did, but tenants must be able to rely on.
            isolation: "enforce".into(),
            // Thesis 3.6.6: "in the order of the dozens".
            instances_max: 24,
            event_webhook: String::new(),
            event_token_file: String::new(),
            broker: RawBroker::default(),
        }
    }
}

impl Default for RawBroker {
    fn default() -> Self {
        Self {
            mode: "embedded".into(),
            // Oakestra's cluster broker listens there.
            listen: "127.0.0.1:10003".into(),
            address: String::new(),
            user: String::new(),
            token_file: String::new(),
            // Oakestra's nodes have none.
            node_credentials: false,
        }
    }
}

impl Default for RawGateway {
    fn default() -> Self {
        Self {
            node_id: String::new(),
            cluster: String::new(),
            cluster_token_file: String::new(),
            cluster_api: String::new(),
            // The cluster manager itself is asked.
            cluster_key: String::new(),
            // A revoked rule is to end flows within a second of healing; a way that loses three packets in a row is kept.
            broker_silence_ms: 1000,
            // Oakestra's NodeEngine dials this path.
            node_socket: "/etc/netmanager/netmanager.sock".into(),
            admin_socket: "/run/sluice/gateway.sock".into(),
            state_dir: "/var/lib/sluice/gateway".into(),
            key_file: String::new(),
            node_address: String::new(),
            exposed_port: 0,
            // The managers know which subnets are free.
            subnet_by_caller: false,
            ns_ip_rest_s: 600,
            // Callers' nodes are told of a move in far less.
            moved_sent_on_s: SENT_ON_S.into(),
            bridge: "sluicebr0".into(),
            uplink: "sluice0".into(),
            tun: "sluicetun0".into(),
            // Tenants must be able to rely on it; "observe" is for those who come from a network without.
            isolation: "enforce".into(),
        }
    }
}

impl Default for RawFastpath {
    fn default() -> Self {
        Self {
            // A small edge node: one core forwards, the rest is for services.
            workers: 1,
            cores: Vec::new(),
            // Sleeping costs a wake-up per burst, spinning a core.
            spin_us: 0,
            // 64 KB each, so that a super-frame fits: 32 MB at most, touched only when used.
            buffers: 512,
            // 1 Mi entries; pages are touched only when used.
            flows_max: 1 << 20,
            fragments_max: 4096,
            // Oakestra's tunnel port.
            tunnel_port: 50103,
            tunnels_max: 1024,
            tunnel_idle_s: 300,
            // An encrypted datagram over IPv4 or IPv6 still fits an underlay of 1500.
            inner_mtu: 1420,
            tun_offload: true,
            udp_gso: true,
            one_packet_per_syscall: false,
            offload: true,
            // 350 bytes of kernel memory each while used.
            offload_flows_max: 65_536,
            // Runs everywhere, and keeps super-frames whole.
            link: "tun".into(),
            // The instances of this machine.
            service: "bridge".into(),
            xdp: RawXdp::default(),
        }
    }
}

impl Default for RawTunnel {
    fn default() -> Self {
        Self {
            encrypt: true,
            // Whoever can write into a plain tunnel is believed.
            plain_peers: Vec::new(),
            // Nobody on the way learns what kind of packet is inside.
            dscp: 0,
            copy_dscp: false,
            // Who has it can read everything.
            key_log: String::new(),
        }
    }
}

impl Default for RawXdp {
    fn default() -> Self {
        Self {
            mode: "auto".into(),
            blocked_sources: Vec::new(),
            source_rate: 0,
            source_burst: 64,
        }
    }
}

impl Default for RawHardware {
    fn default() -> Self {
        Self {
            profile: "auto".into(),
            interface: String::new(),
            profiles_dir: "/etc/sluice/profiles".into(),
            keep: Vec::new(),
            set: Settings::default(),
        }
    }
}
