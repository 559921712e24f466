//! The second step: each raw value gets its meaning, or an error that names it.

use super::raw::{
    RawBroker, RawCluster, RawConfig, RawFastpath, RawGateway, RawHardware, RawPlan, RawXdp,
};
use super::{
    Broker, Cluster, Config, ConfigError, Fastpath, Gateway, Hardware, HostPort, LinkKind, Log,
    LogFormat, ProfileChoice, Root, ServiceSide, Xdp, place,
};
use sluice_hw_profiles::Key;
use sluice_proto::alloc::Rests;
use sluice_proto::isolation::Isolation;
use sluice_proto::signature::ClusterKey;
use sluice_tables::SENT_ON_S_MAX;
use sluice_wire::{AddressPlan, Dual, Ip, Subnet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// How to make a token.
pub(super) const MAKE_TOKEN: &str =
    "install -m 600 /dev/null FILE && head -c 32 /dev/urandom | base64 > FILE";

/// The node's private key, in the state directory unless configured.
const KEY_FILE: &str = "node.key";

/// The longest name of a network device (IFNAMSIZ without the final zero).
const DEVICE_NAME_MAX: usize = 15;

pub(super) fn config(raw: &RawConfig, text: &str, file: &str) -> Result<Config, ConfigError> {
    let check = Check { text, file };
    let plan = check.plan(&raw.plan)?;
    let root = &raw.root;
    let cluster = &raw.cluster;
    let config = Config {
        plan,
        log: Log {
            level: check.level(&raw.log.level)?,
            format: match raw.log.format.as_str() {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                other => {
                    return Err(check.value("log.format", quoted(other), "\"text\" or \"json\""));
                }
            },
        },
        root: Root {
            listen: check.socket("root.listen", &root.listen)?,
            data_dir: check.path("root.data_dir", &root.data_dir)?,
            admin_socket: check.path("root.admin_socket", &root.admin_socket)?,
            token_file: check.optional_path("root.token_file", &root.token_file)?,
            allow_without_token: check
                .subnets("root.allow_without_token", &root.allow_without_token)?,
            jwt_key_server: check
                .optional_host_port("root.jwt_key_server", &root.jwt_key_server)?,
            rests: Rests {
                addresses_s: check.rest("root.address_rest_s", root.address_rest_s)?,
                subnets_s: check.rest("root.subnet_rest_s", root.subnet_rest_s)?,
            },
        },
        cluster: check.cluster(cluster)?,
        gateway: check.gateway(&raw.gateway, raw.fastpath.tunnel_port)?,
        fastpath: check.fastpath(&raw.fastpath)?,
        tunnel: check.tunnel(&raw.tunnel)?,
        hardware: check.hardware(&raw.hardware)?,
        names: check.names(&raw.names)?,
    };
    check.guarded(
        "root",
        config.root.listen,
        config.root.token_file.is_some() || !config.root.allow_without_token.is_empty(),
    )?;
    check.guarded(
        "cluster",
        config.cluster.listen,
        config.cluster.token_file.is_some() || !config.cluster.allow_without_token.is_empty(),
    )?;
    if let Broker::Embedded {
        listen,
        token_file,
        node_credentials: false,
    } = &config.cluster.broker
    {
        check.guarded(
            "cluster.broker",
            *listen,
            token_file.is_some() || !config.cluster.allow_without_token.is_empty(),
        )?;
    }
    Ok(config)
}

pub(super) struct Check<'a> {
    text: &'a str,
    file: &'a str,
}

impl Check<'_> {
    pub(super) fn value(
        &self,
        key: &str,
        value: impl Into<String>,
        expected: impl Into<String>,
    ) -> ConfigError {
        ConfigError::Value {
            file: self.file.to_owned(),
            line: place::find(self.text, key).map(|place| place.line),
            key: key.to_owned(),
            value: value.into(),
            expected: expected.into(),
        }
    }

    /// A number of a range.
    pub(super) fn number<T: TryFrom<i64> + PartialOrd + std::fmt::Display + Copy>(
        &self,
        key: &str,
        value: i64,
        range: std::ops::RangeInclusive<T>,
    ) -> Result<T, ConfigError> {
        T::try_from(value)
            .ok()
            .filter(|value| range.contains(value))
            .ok_or_else(|| {
                self.value(
                    key,
                    value.to_string(),
                    format!("a number from {} to {}", range.start(), range.end()),
                )
            })
    }

    fn socket(&self, key: &str, value: &str) -> Result<SocketAddr, ConfigError> {
        value.parse().map_err(|_| {
            self.value(
                key,
                quoted(value),
                "an address with port, like \"127.0.0.1:10099\" or \"[::1]:10099\"",
            )
        })
    }

    fn path(&self, key: &str, value: &str) -> Result<PathBuf, ConfigError> {
        self.optional_path(key, value)?
            .ok_or_else(|| self.value(key, quoted(value), "an absolute path"))
    }

    pub(super) fn optional_path(
        &self,
        key: &str,
        value: &str,
    ) -> Result<Option<PathBuf>, ConfigError> {
        let path = PathBuf::from(value);
        match value {
            "" => Ok(None),
            _ if path.is_absolute() => Ok(Some(path)),
            _ => Err(self.value(key, quoted(value), "an absolute path")),
        }
    }

    fn host_port(&self, key: &str, value: &str) -> Result<HostPort, ConfigError> {
        let error = || {
            self.value(
                key,
                quoted(value),
                "a host and a port, like \"10.0.0.1:10003\" or \"cluster.example:10003\"",
            )
        };
        let (host, port) = value.rsplit_once(':').ok_or_else(error)?;
        let port: u16 = port.parse().map_err(|_| error())?;
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let valid = if bare.contains(':') {
            bare.len() < host.len() && bare.parse::<IpAddr>().is_ok()
        } else {
            !bare.is_empty()
                && bare
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        };
        if !valid || port == 0 {
            return Err(error());
        }
        Ok(HostPort {
            host: bare.to_owned(),
            port,
        })
    }

    fn optional_host_port(&self, key: &str, value: &str) -> Result<Option<HostPort>, ConfigError> {
        match value {
            "" => Ok(None),
            value => self.host_port(key, value).map(Some),
        }
    }

    pub(super) fn subnets(&self, key: &str, values: &[String]) -> Result<Vec<Subnet>, ConfigError> {
        values
            .iter()
            .map(|value| {
                value
                    .parse()
                    .map_err(|error: sluice_wire::plan::SubnetError| {
                        self.value(
                            key,
                            quoted(value),
                            format!("a list of network prefixes: {error}"),
                        )
                    })
            })
            .collect()
    }

    /// A listener that others can reach must ask for a token.
    fn guarded(&self, section: &str, listen: SocketAddr, guarded: bool) -> Result<(), ConfigError> {
        if listen.ip().is_loopback() || guarded {
            return Ok(());
        }
        Err(self.value(
            &format!("{section}.listen"),
            quoted(&listen.to_string()),
            format!(
                "a loopback address, or a token for everybody else: set `{section}.token_file` to a file made with \
                 `{MAKE_TOKEN}`, or name trusted callers in `{}.allow_without_token`",
                section.split('.').next().unwrap_or(section)
            ),
        ))
    }

    fn level(&self, value: &str) -> Result<String, ConfigError> {
        if !value.is_empty()
            && value
                .parse::<tracing_subscriber::filter::Targets>()
                .is_ok_and(|_| value.split(',').all(has_level))
        {
            return Ok(value.to_owned());
        }
        Err(self.value(
            "log.level",
            quoted(value),
            "\"error\", \"warn\", \"info\", \"debug\", \"trace\", or pairs like \"info,sluice_link=debug\"",
        ))
    }

    fn plan(&self, raw: &RawPlan) -> Result<AddressPlan, ConfigError> {
        let preset = AddressPlan::named(&raw.preset).ok_or_else(|| {
            self.value(
                "plan.preset",
                quoted(&raw.preset),
                "\"oakestra\", \"thesis\" or \"large\"",
            )
        })?;
        let range = |key: &str, value: &str, preset: Option<Subnet>, v4: bool| {
            let expected = || {
                let example = if v4 { "10.30.0.0/16" } else { "fdff::/16" };
                let family = if v4 { "IPv4" } else { "IPv6" };
                format!("an {family} prefix like \"{example}\", \"none\", or \"\" for the preset's")
            };
            match value {
                "" => Ok(preset),
                "none" => Ok(None),
                _ => match value.parse::<Subnet>() {
                    Ok(subnet) if subnet.network().is_v4() == v4 => Ok(Some(subnet)),
                    Ok(_) => Err(self.value(key, quoted(value), expected())),
                    Err(error) => {
                        Err(self.value(key, quoted(value), format!("{}: {error}", expected())))
                    }
                },
            }
        };
        let length = |key: &str, value: i64, preset: u8, max: u8| match value {
            0 => Ok(preset),
            _ => self.number(key, value, 1..=max),
        };
        let plan = AddressPlan {
            semantic: Dual {
                v4: range(
                    "plan.semantic_v4",
                    &raw.semantic_v4,
                    preset.semantic.v4,
                    true,
                )?,
                v6: range(
                    "plan.semantic_v6",
                    &raw.semantic_v6,
                    preset.semantic.v6,
                    false,
                )?,
            },
            nodes: Dual {
                v4: range("plan.nodes_v4", &raw.nodes_v4, preset.nodes.v4, true)?,
                v6: range("plan.nodes_v6", &raw.nodes_v6, preset.nodes.v6, false)?,
            },
            node_length_v4: length(
                "plan.node_length_v4",
                raw.node_length_v4,
                preset.node_length_v4,
                30,
            )?,
            node_length_v6: length(
                "plan.node_length_v6",
                raw.node_length_v6,
                preset.node_length_v6,
                126,
            )?,
        };
        for (family, semantic, nodes) in [
            ("v4", plan.semantic.v4, plan.nodes.v4),
            ("v6", plan.semantic.v6, plan.nodes.v6),
        ] {
            if semantic.is_some() != nodes.is_some() {
                return Err(self.value(
                    &format!(
                        "plan.{}_{family}",
                        if semantic.is_some() {
                            "nodes"
                        } else {
                            "semantic"
                        }
                    ),
                    "\"none\"",
                    format!(
                        "both the semantic and the node range of {family}, or \"none\" for both"
                    ),
                ));
            }
        }
        if plan.semantic.v4.is_none() && plan.semantic.v6.is_none() {
            return Err(self.value(
                "plan.semantic_v4",
                "\"none\"",
                "at least one family with ranges",
            ));
        }
        plan.check().map_err(|error| {
            let (key, value) = [
                ("plan.nodes_v4", &raw.nodes_v4),
                ("plan.semantic_v4", &raw.semantic_v4),
                ("plan.nodes_v6", &raw.nodes_v6),
                ("plan.semantic_v6", &raw.semantic_v6),
                ("plan.preset", &raw.preset),
            ]
            .into_iter()
            .find(|(key, value)| {
                !value.is_empty()
                    && (error.to_string().contains(value.as_str()) || *key == "plan.preset")
            })
            .unwrap_or(("plan.preset", &raw.preset));
            self.value(
                key,
                quoted(value),
                format!("ranges that go together: {error}"),
            )
        })?;
        Ok(plan)
    }

    fn cluster(&self, raw: &RawCluster) -> Result<Cluster, ConfigError> {
        let listen = self.socket("cluster.listen", &raw.listen)?;
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if !(1..=64).contains(&raw.id.len()) || !raw.id.bytes().all(valid) {
            return Err(self.value(
                "cluster.id",
                quoted(&raw.id),
                "1 to 64 letters, digits, `-`, `_` or `.`",
            ));
        }
        Ok(Cluster {
            id: raw.id.clone(),
            listen,
            root: self.host_port("cluster.root", &raw.root)?,
            root_token_file: self.optional_path("cluster.root_token_file", &raw.root_token_file)?,
            advertise: match raw.advertise.as_str() {
                "" => None,
                advertise => Some(self.socket("cluster.advertise", advertise)?),
            },
            data_dir: self.path("cluster.data_dir", &raw.data_dir)?,
            admin_socket: self.path("cluster.admin_socket", &raw.admin_socket)?,
            token_file: self.optional_path("cluster.token_file", &raw.token_file)?,
            allow_without_token: self
                .subnets("cluster.allow_without_token", &raw.allow_without_token)?,
            isolation: self.isolation("cluster.isolation", &raw.isolation)?,
            instances_max: self.number("cluster.instances_max", raw.instances_max, 1..=4096)?,
            event_webhook: self.webhook("cluster.event_webhook", &raw.event_webhook)?,
            event_token_file: self
                .optional_path("cluster.event_token_file", &raw.event_token_file)?,
            broker: self.broker(&raw.broker, &raw.id)?,
        })
    }

    fn webhook(&self, key: &str, url: &str) -> Result<Option<(HostPort, String)>, ConfigError> {
        if url.is_empty() {
            return Ok(None);
        }
        let rest = url.strip_prefix("http://").ok_or_else(|| {
            self.value(
                key,
                quoted(url),
                "\"http://host:port/path\"; put what ends TLS before it",
            )
        })?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        Ok(Some((self.host_port(key, authority)?, format!("/{path}"))))
    }

    fn isolation(&self, key: &str, word: &str) -> Result<Isolation, ConfigError> {
        let [enforce, observe, off] = Isolation::WORDS;
        Isolation::parse(word).ok_or_else(|| {
            let expected = format!("\"{enforce}\", \"{observe}\" or \"{off}\"");
            self.value(key, quoted(word), expected)
        })
    }

    fn broker(&self, raw: &RawBroker, cluster_id: &str) -> Result<Broker, ConfigError> {
        let token_file = self.optional_path("cluster.broker.token_file", &raw.token_file)?;
        match raw.mode.as_str() {
            "embedded" if raw.address.is_empty() => Ok(Broker::Embedded {
                listen: self.socket("cluster.broker.listen", &raw.listen)?,
                token_file,
                node_credentials: raw.node_credentials,
            }),
            "embedded" => Err(self.value(
                "cluster.broker.address",
                quoted(&raw.address),
                "nothing here while `cluster.broker.mode` is \"embedded\"; set the mode to \"external\" to use that broker",
            )),
            "external" if raw.node_credentials => Err(self.value(
                "cluster.broker.node_credentials",
                "true".to_owned(),
                "false while `cluster.broker.mode` is \"external\": that broker checks its clients itself, as \
                 control/mosquitto has it",
            )),
            "external" => Ok(Broker::External {
                address: self.host_port("cluster.broker.address", &raw.address)?,
                user: match raw.user.as_str() {
                    "" => cluster_id.to_owned(),
                    user => user.to_owned(),
                },
                token_file,
            }),
            other => Err(self.value(
                "cluster.broker.mode",
                quoted(other),
                "\"embedded\" or \"external\"",
            )),
        }
    }

    fn gateway(&self, raw: &RawGateway, tunnel_port: i64) -> Result<Gateway, ConfigError> {
        let node_id = match raw.node_id.as_str() {
            "" => None,
            id if id.len() == 24 && id.bytes().all(|b| b.is_ascii_hexdigit()) => {
                Some(id.to_ascii_lowercase())
            }
            id => {
                return Err(self.value(
                    "gateway.node_id",
                    quoted(id),
                    "24 hexadecimal digits, or \"\" to derive it from /etc/machine-id",
                ));
            }
        };
        let node_address = match raw.node_address.as_str() {
            "" => None,
            address => {
                let reachable = |ip: &IpAddr| !ip.is_unspecified() && !ip.is_multicast();
                let ip = address.parse::<IpAddr>().ok().filter(reachable);
                Some(ip.map(Ip::from).ok_or_else(|| {
                    self.value(
                        "gateway.node_address",
                        quoted(address),
                        "an IPv4 or IPv6 address of one host, or \"\" for the source address of the default route",
                    )
                })?)
            }
        };
        let exposed_port = match raw.exposed_port {
            0 => self.number("fastpath.tunnel_port", tunnel_port, 1..=u16::MAX)?,
            port => self.number("gateway.exposed_port", port, 1..=u16::MAX)?,
        };
        let names = [
            ("gateway.bridge", &raw.bridge),
            ("gateway.uplink", &raw.uplink),
            ("gateway.tun", &raw.tun),
        ];
        for (index, (key, name)) in names.iter().enumerate() {
            self.device_name(key, name)?;
            if let Some((other, _)) = names[..index].iter().find(|(_, other)| other == name) {
                return Err(self.value(
                    key,
                    quoted(name),
                    format!("another name than `{other}` has"),
                ));
            }
        }
        Ok(Gateway {
            node_id,
            cluster: self.optional_host_port("gateway.cluster", &raw.cluster)?,
            cluster_token_file: self
                .optional_path("gateway.cluster_token_file", &raw.cluster_token_file)?,
            cluster_api: self.optional_host_port("gateway.cluster_api", &raw.cluster_api)?,
            cluster_key: self.cluster_key(&raw.cluster_key)?,
            broker_silence_ms: self.number(
                "gateway.broker_silence_ms",
                raw.broker_silence_ms,
                200..=30_000,
            )?,
            node_socket: self.path("gateway.node_socket", &raw.node_socket)?,
            admin_socket: self.path("gateway.admin_socket", &raw.admin_socket)?,
            key_file: self
                .optional_path("gateway.key_file", &raw.key_file)?
                .unwrap_or_else(|| Path::new(&raw.state_dir).join(KEY_FILE)),
            state_dir: self.path("gateway.state_dir", &raw.state_dir)?,
            node_address,
            exposed_port,
            subnet_by_caller: raw.subnet_by_caller,
            ns_ip_rest_s: self.rest("gateway.ns_ip_rest_s", raw.ns_ip_rest_s)?,
            moved_sent_on_s: self.number(
                "gateway.moved_sent_on_s",
                raw.moved_sent_on_s,
                0..=SENT_ON_S_MAX,
            )?,
            bridge: raw.bridge.clone(),
            uplink: raw.uplink.clone(),
            tun: raw.tun.clone(),
            isolation: self.isolation("gateway.isolation", &raw.isolation)?,
        })
    }

    fn cluster_key(&self, key: &str) -> Result<Option<ClusterKey>, ConfigError> {
        if key.is_empty() {
            return Ok(None);
        }
        let expected = "44 characters, base64 of 32 bytes, as `sluice status` of the cluster manager shows its `signing_key`, or \"\" to ask the cluster manager";
        let parsed = key.parse();
        parsed
            .map(Some)
            .map_err(|_| self.value("gateway.cluster_key", quoted(key), expected))
    }

    fn device_name(&self, key: &str, name: &str) -> Result<(), ConfigError> {
        let valid = !name.is_empty()
            && name.len() <= DEVICE_NAME_MAX
            && name
                .bytes()
                .all(|b| b.is_ascii_graphic() && !b"/:%".contains(&b))
            && name != "."
            && name != "..";
        if valid {
            return Ok(());
        }
        Err(self.value(
            key,
            quoted(name),
            format!(
                "a device name of 1 to {DEVICE_NAME_MAX} characters without `/`, `:`, `%` and blanks"
            ),
        ))
    }

    fn hardware(&self, raw: &RawHardware) -> Result<Hardware, ConfigError> {
        let interface = match raw.interface.as_str() {
            "" => None,
            name => {
                self.device_name("hardware.interface", name)?;
                Some(name.to_owned())
            }
        };
        let keep = raw.keep.iter().map(|name| {
            Key::named(name).ok_or_else(|| {
                self.value(
                    "hardware.keep",
                    quoted(name),
                    "names of settings, as in [hardware.set]; `sluice.example.toml` lists them",
                )
            })
        });
        Ok(Hardware {
            profile: match raw.profile.as_str() {
                "auto" => ProfileChoice::Auto,
                "none" => ProfileChoice::None,
                "" => {
                    let expected = "\"auto\", \"none\", or a name that `sluice profile list` shows";
                    return Err(self.value("hardware.profile", quoted(""), expected));
                }
                name => ProfileChoice::Named(name.to_owned()),
            },
            interface,
            profiles_dir: self.path("hardware.profiles_dir", &raw.profiles_dir)?,
            keep: keep.collect::<Result<_, _>>()?,
            set: raw.set.clone(),
        })
    }

    fn fastpath(&self, raw: &RawFastpath) -> Result<Fastpath, ConfigError> {
        let workers = self.number("fastpath.workers", raw.workers, 1..=64)?;
        let cores = raw
            .cores
            .iter()
            .map(|&core| self.number("fastpath.cores", core, 0..=4095))
            .collect::<Result<Vec<usize>, _>>()?;
        if !cores.is_empty() && cores.len() != workers {
            return Err(self.value(
                "fastpath.cores",
                format!("{cores:?}"),
                format!("one core for each of the {workers} workers (`fastpath.workers`), or []"),
            ));
        }
        Ok(Fastpath {
            workers,
            cores,
            spin_us: self.number("fastpath.spin_us", raw.spin_us, 0..=1_000_000)?,
            buffers: self.number("fastpath.buffers", raw.buffers, 128..=65_536)?,
            flows_max: self.number("fastpath.flows_max", raw.flows_max, 1024..=1 << 26)?,
            fragments_max: self.number(
                "fastpath.fragments_max",
                raw.fragments_max,
                64..=1 << 20,
            )?,
            tunnel_port: self.number("fastpath.tunnel_port", raw.tunnel_port, 1..=u16::MAX)?,
            tunnels_max: self.number("fastpath.tunnels_max", raw.tunnels_max, 1..=1 << 20)?,
            tunnel_idle_s: self.number("fastpath.tunnel_idle_s", raw.tunnel_idle_s, 1..=86_400)?,
            // RFC 8200 section 5: IPv6 needs 1280.
            inner_mtu: self.number("fastpath.inner_mtu", raw.inner_mtu, 1280..=9000)?,
            tun_offload: raw.tun_offload,
            udp_gso: raw.udp_gso,
            one_packet_per_syscall: raw.one_packet_per_syscall,
            offload: raw.offload,
            offload_flows_max: self.number(
                "fastpath.offload_flows_max",
                raw.offload_flows_max,
                1..=1 << 20,
            )?,
            link: match raw.link.as_str() {
                "tun" => LinkKind::Tun,
                "af_xdp" => LinkKind::AfXdp,
                "auto" => LinkKind::Auto,
                other => {
                    return Err(self.value(
                        "fastpath.link",
                        quoted(other),
                        "\"tun\", \"af_xdp\" or \"auto\"",
                    ));
                }
            },
            service: self.service_side(raw)?,
            xdp: self.xdp(&raw.xdp)?,
        })
    }

    fn service_side(&self, raw: &RawFastpath) -> Result<ServiceSide, ConfigError> {
        const KEY: &str = "fastpath.service";
        match raw.service.as_str() {
            "bridge" => Ok(ServiceSide::Bridge),
            // TUN has no part in what devices receive.
            name if raw.link != "af_xdp" => Err(self.value(
                KEY,
                quoted(name),
                "\"bridge\", or `fastpath.link` = \"af_xdp\" beside the name of a device",
            )),
            name => {
                self.device_name(KEY, name)?;
                Ok(ServiceSide::Lan(name.to_owned()))
            }
        }
    }

    fn xdp(&self, raw: &RawXdp) -> Result<Xdp, ConfigError> {
        let native = match raw.mode.as_str() {
            "auto" => true,
            "generic" => false,
            other => {
                let expected = "\"auto\" or \"generic\"";
                return Err(self.value("fastpath.xdp.mode", quoted(other), expected));
            }
        };
        Ok(Xdp {
            native,
            blocked_sources: self.subnets("fastpath.xdp.blocked_sources", &raw.blocked_sources)?,
            source_rate: self.number(
                "fastpath.xdp.source_rate",
                raw.source_rate,
                0..=1_000_000_000,
            )?,
            source_burst: self.number(
                "fastpath.xdp.source_burst",
                raw.source_burst,
                1..=1_000_000_000,
            )?,
        })
    }
}

/// Whether one part of a filter names a level: a bare word that is none would be taken for a target and log nothing.
fn has_level(part: &str) -> bool {
    let level = part.rsplit('=').next().unwrap_or(part).trim();
    ["off", "error", "warn", "info", "debug", "trace"].contains(&level)
}

pub(super) fn quoted(value: &str) -> String {
    format!("\"{value}\"")
}
