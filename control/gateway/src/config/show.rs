//! A resolved configuration as rows of key and value, for `sluice config check`.

use super::{Broker, Config, LogFormat, ProfileChoice};
use serde_json::Value;
use sluice_worker::Dscp;
use std::fmt::Display;
use std::path::PathBuf;

/// Every key with the value in force, in the order of the example file.
#[must_use]
pub fn rows(config: &Config) -> Vec<(String, Value)> {
    let mut rows = Rows(Vec::new());
    rows.plan(config);
    rows.log(config);
    rows.managers(config);
    rows.gateway(config);
    rows.fastpath(config);
    rows.tunnel(config);
    rows.hardware(config);
    rows.names(config);
    rows.0
}

struct Rows(Vec<(String, Value)>);

impl Rows {
    /// A text.
    fn add(&mut self, key: &str, value: impl Display) {
        self.0.push((key.to_owned(), value.to_string().into()));
    }

    /// A number, a switch or a list of numbers.
    fn put(&mut self, key: &str, value: impl Into<Value>) {
        self.0.push((key.to_owned(), value.into()));
    }

    fn list<T: Display>(&mut self, key: &str, values: &[T]) {
        let texts: Vec<String> = values.iter().map(ToString::to_string).collect();
        self.put(key, texts);
    }

    fn path(&mut self, key: &str, value: Option<&PathBuf>) {
        self.add(
            key,
            value.map_or_else(String::new, |path| path.display().to_string()),
        );
    }

    fn plan(&mut self, config: &Config) {
        let plan = &config.plan;
        for (key, range) in [
            ("plan.semantic_v4", plan.semantic.v4),
            ("plan.semantic_v6", plan.semantic.v6),
            ("plan.nodes_v4", plan.nodes.v4),
            ("plan.nodes_v6", plan.nodes.v6),
        ] {
            self.add(
                key,
                range.map_or_else(|| "none".to_owned(), |range| range.to_string()),
            );
        }
        self.put("plan.node_length_v4", plan.node_length_v4);
        self.put("plan.node_length_v6", plan.node_length_v6);
    }

    fn log(&mut self, config: &Config) {
        self.add("log.level", &config.log.level);
        self.add(
            "log.format",
            match config.log.format {
                LogFormat::Text => "text",
                LogFormat::Json => "json",
            },
        );
    }

    fn managers(&mut self, config: &Config) {
        let root = &config.root;
        self.add("root.listen", root.listen);
        self.path("root.data_dir", Some(&root.data_dir));
        self.path("root.admin_socket", Some(&root.admin_socket));
        self.path("root.token_file", root.token_file.as_ref());
        self.list("root.allow_without_token", &root.allow_without_token);
        let server = root.jwt_key_server.as_ref();
        self.add(
            "root.jwt_key_server",
            server.map_or_else(String::new, ToString::to_string),
        );
        self.add("root.address_rest_s", root.rests.addresses_s);
        self.add("root.subnet_rest_s", root.rests.subnets_s);
        let cluster = &config.cluster;
        self.add("cluster.id", &cluster.id);
        self.add("cluster.listen", cluster.listen);
        self.add("cluster.root", &cluster.root);
        self.path("cluster.root_token_file", cluster.root_token_file.as_ref());
        self.add(
            "cluster.advertise",
            cluster
                .advertise
                .map_or_else(|| "(listen)".to_owned(), |advertise| advertise.to_string()),
        );
        self.path("cluster.data_dir", Some(&cluster.data_dir));
        self.path("cluster.admin_socket", Some(&cluster.admin_socket));
        self.path("cluster.token_file", cluster.token_file.as_ref());
        self.list("cluster.allow_without_token", &cluster.allow_without_token);
        self.add("cluster.isolation", cluster.isolation.word());
        self.add("cluster.instances_max", cluster.instances_max);
        let webhook = cluster.event_webhook.as_ref();
        self.add(
            "cluster.event_webhook",
            webhook.map_or_else(String::new, |(host, path)| format!("http://{host}{path}")),
        );
        self.path(
            "cluster.event_token_file",
            cluster.event_token_file.as_ref(),
        );
        match &cluster.broker {
            Broker::Embedded {
                listen,
                token_file,
                node_credentials,
            } => {
                self.add("cluster.broker.mode", "embedded");
                self.add("cluster.broker.listen", listen);
                self.path("cluster.broker.token_file", token_file.as_ref());
                self.put("cluster.broker.node_credentials", *node_credentials);
            }
            Broker::External {
                address,
                user,
                token_file,
            } => {
                self.add("cluster.broker.mode", "external");
                self.add("cluster.broker.address", address);
                self.add("cluster.broker.user", user);
                self.path("cluster.broker.token_file", token_file.as_ref());
            }
        }
    }

    fn gateway(&mut self, config: &Config) {
        let gateway = &config.gateway;
        self.add(
            "gateway.node_id",
            gateway
                .node_id
                .as_deref()
                .unwrap_or("(from /etc/machine-id)"),
        );
        self.add(
            "gateway.cluster",
            gateway
                .cluster
                .as_ref()
                .map_or_else(|| "(waits for /register)".to_owned(), ToString::to_string),
        );
        self.path(
            "gateway.cluster_token_file",
            gateway.cluster_token_file.as_ref(),
        );
        self.add(
            "gateway.cluster_api",
            gateway.cluster_api.as_ref().map_or_else(
                || "(port 10110 of the broker's host)".to_owned(),
                ToString::to_string,
            ),
        );
        self.add(
            "gateway.cluster_key",
            gateway.cluster_key.map_or_else(
                || "(what the cluster manager says)".to_owned(),
                |key| key.to_string(),
            ),
        );
        self.put("gateway.broker_silence_ms", gateway.broker_silence_ms);
        self.path("gateway.node_socket", Some(&gateway.node_socket));
        self.path("gateway.admin_socket", Some(&gateway.admin_socket));
        self.path("gateway.state_dir", Some(&gateway.state_dir));
        self.path("gateway.key_file", Some(&gateway.key_file));
        self.add(
            "gateway.node_address",
            gateway.node_address.map_or_else(
                || "(source of the default route)".to_owned(),
                |address| address.to_string(),
            ),
        );
        self.put("gateway.exposed_port", gateway.exposed_port);
        self.put("gateway.subnet_by_caller", gateway.subnet_by_caller);
        self.put("gateway.ns_ip_rest_s", gateway.ns_ip_rest_s);
        self.put("gateway.moved_sent_on_s", gateway.moved_sent_on_s);
        self.add("gateway.bridge", &gateway.bridge);
        self.add("gateway.uplink", &gateway.uplink);
        self.add("gateway.tun", &gateway.tun);
        self.add("gateway.isolation", gateway.isolation.word());
    }

    fn fastpath(&mut self, config: &Config) {
        let fastpath = &config.fastpath;
        self.put("fastpath.workers", fastpath.workers);
        self.put("fastpath.cores", fastpath.cores.clone());
        self.put("fastpath.spin_us", fastpath.spin_us);
        self.put("fastpath.buffers", fastpath.buffers);
        self.put("fastpath.flows_max", fastpath.flows_max);
        self.put("fastpath.fragments_max", fastpath.fragments_max);
        self.put("fastpath.tunnel_port", fastpath.tunnel_port);
        self.put("fastpath.tunnels_max", fastpath.tunnels_max);
        self.put("fastpath.tunnel_idle_s", fastpath.tunnel_idle_s);
        self.put("fastpath.inner_mtu", fastpath.inner_mtu);
        self.put("fastpath.tun_offload", fastpath.tun_offload);
        self.put("fastpath.udp_gso", fastpath.udp_gso);
        self.put(
            "fastpath.one_packet_per_syscall",
            fastpath.one_packet_per_syscall,
        );
        self.put("fastpath.offload", fastpath.offload);
        self.put("fastpath.offload_flows_max", fastpath.offload_flows_max);
        self.add("fastpath.link", fastpath.link.name());
        self.add(
            "fastpath.service",
            fastpath.service.lan().unwrap_or("bridge"),
        );
        let xdp = &fastpath.xdp;
        let mode = if xdp.native { "auto" } else { "generic" };
        self.add("fastpath.xdp.mode", mode);
        self.list("fastpath.xdp.blocked_sources", &xdp.blocked_sources);
        self.put("fastpath.xdp.source_rate", xdp.source_rate);
        self.put("fastpath.xdp.source_burst", xdp.source_burst);
    }

    fn tunnel(&mut self, config: &Config) {
        self.put("tunnel.encrypt", config.tunnel.encrypt);
        self.list("tunnel.plain_peers", &config.tunnel.plain_peers);
        let (dscp, copy) = match config.tunnel.dscp {
            Dscp::Fixed(dscp) => (dscp, false),
            Dscp::Inner => (0, true),
        };
        self.put("tunnel.dscp", dscp);
        self.put("tunnel.copy_dscp", copy);
        self.path("tunnel.key_log", config.tunnel.key_log.as_ref());
    }

    fn hardware(&mut self, config: &Config) {
        let hardware = &config.hardware;
        self.add(
            "hardware.profile",
            match &hardware.profile {
                ProfileChoice::None => "none",
                ProfileChoice::Auto => "auto",
                ProfileChoice::Named(name) => name,
            },
        );
        self.add(
            "hardware.interface",
            hardware
                .interface
                .as_deref()
                .unwrap_or("(that with the node's address)"),
        );
        self.path("hardware.profiles_dir", Some(&hardware.profiles_dir));
        self.list("hardware.keep", &hardware.keep);
        for (key, value) in hardware.set.entries() {
            self.add(&format!("hardware.set.{key}"), value);
        }
    }

    fn names(&mut self, config: &Config) {
        let names = &config.names;
        self.put("names.enabled", names.enabled);
        self.add("names.suffix", names.suffix.as_deref().unwrap_or_default());
        self.list("names.upstream", &names.upstream);
    }
}
