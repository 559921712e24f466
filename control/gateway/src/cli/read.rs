//! `get` and `status`.

use super::{At, CliError, RootWhere, Where};
use crate::client::{Call, Client, ClientError, Role};
use crate::config::Config;
use crate::output::{self, Column, Format};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

/// What `get` shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Kind {
    /// Services with their ServiceIPs (of the root)
    #[value(alias = "service")]
    Services,
    /// Instances (that the gateway knows; `--at root` for all)
    #[value(alias = "instance")]
    Instances,
    /// Nodes (of the root, or `--at cluster`)
    #[value(alias = "node")]
    Nodes,
    /// Clusters (of the root)
    #[value(alias = "cluster")]
    Clusters,
    /// Other nodes that the gateway tunnels to
    #[value(alias = "peer")]
    Peers,
    /// Flows through the gateway
    #[value(alias = "flow")]
    Flows,
    /// The published tables: what each service address means
    #[value(alias = "table")]
    Tables,
    /// Dropped packets by reason, with cause and cure
    #[value(alias = "drop")]
    Drops,
}

/// `sluice get`
#[derive(Debug, Args)]
pub(super) struct Get {
    #[arg(value_enum)]
    kind: Kind,
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Ask another daemon than the usual one
    #[arg(long, value_enum)]
    at: Option<At>,
    /// drops: also the reasons that never happened
    #[arg(long)]
    all: bool,
    /// flows: at most so many
    #[arg(long, default_value_t = 100, value_name = "N")]
    limit: usize,
    #[command(flatten)]
    root: RootWhere,
}

impl Get {
    pub(super) async fn run(&self, config: &Config) -> Result<(), CliError> {
        let role = self.role()?;
        let client = match role {
            Role::Root => self.root.client(config)?,
            Role::Cluster | Role::Gateway if self.root.root.is_some() => {
                return Err(CliError::Asked(format!(
                    "--root goes with what the root knows; {role} has this"
                )));
            }
            Role::Cluster | Role::Gateway => Where {
                socket: self.root.socket.clone(),
            }
            .client(role, config),
        };
        let answer = client.json(Call::read(self.path())).await?;
        match self.output {
            Format::Json => output::print_json(&answer),
            Format::Table => output::print(&self.table(&answer)),
        }
        Ok(())
    }

    fn role(&self) -> Result<Role, CliError> {
        let usual = match self.kind {
            Kind::Services | Kind::Nodes | Kind::Clusters => Role::Root,
            Kind::Instances if self.root.root.is_some() => Role::Root,
            Kind::Instances | Kind::Peers | Kind::Flows | Kind::Tables | Kind::Drops => {
                Role::Gateway
            }
        };
        let asked = self.at.map_or(usual, Role::from);
        let knows = match self.kind {
            Kind::Services => asked != Role::Gateway,
            Kind::Instances => true,
            Kind::Nodes => asked != Role::Gateway,
            Kind::Clusters => asked == Role::Root,
            Kind::Peers | Kind::Flows | Kind::Tables | Kind::Drops => asked == Role::Gateway,
        };
        if knows {
            return Ok(asked);
        }
        Err(CliError::Asked(format!(
            "{asked} does not know {}; leave out --at to ask {usual}",
            self.name()
        )))
    }

    fn name(&self) -> String {
        self.kind
            .to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    fn path(&self) -> String {
        match self.kind {
            Kind::Flows => format!("/v1/flows?limit={}", self.limit),
            Kind::Services
            | Kind::Instances
            | Kind::Nodes
            | Kind::Clusters
            | Kind::Peers
            | Kind::Tables
            | Kind::Drops => format!("/v1/{}", self.name()),
        }
    }

    fn table(&self, answer: &Value) -> String {
        let mut rows = rows(answer);
        match self.kind {
            Kind::Drops => {
                if !self.all {
                    rows.retain(|row| row["count"].as_u64() != Some(0));
                }
                if rows.is_empty() {
                    return "no packet was dropped\n".to_owned();
                }
                output::json_table(DROPS, &rows)
            }
            Kind::Tables => output::json_table(TABLES, &by_service_ip(&rows)),
            Kind::Flows => {
                let mut text = output::json_table(FLOWS, &rows);
                let total = answer["total"].as_u64().unwrap_or(0);
                if total > rows.len() as u64 {
                    text.push_str(&format!(
                        "{} of {total} flows; --limit shows more\n",
                        rows.len()
                    ));
                }
                text
            }
            Kind::Services => output::json_table(SERVICES, &by_service_ip(&rows)),
            Kind::Instances => output::json_table(INSTANCES, &rows),
            Kind::Nodes => output::json_table(NODES, &rows),
            Kind::Clusters => output::json_table(CLUSTERS, &rows),
            Kind::Peers => output::json_table(PEERS, &rows),
        }
    }
}

/// The services of an answer of the root.
pub(super) fn services(answer: &Value) -> String {
    output::json_table(SERVICES, &by_service_ip(&rows(answer)))
}

/// One row per ServiceIP: a service has one for each policy.
fn by_service_ip(services: &[Value]) -> Vec<Value> {
    services
        .iter()
        .flat_map(|service| {
            rows(&service["service_ips"])
                .into_iter()
                .map(move |ip| json!({"service": service, "ip": ip}))
        })
        .collect()
}

/// The list in an answer: the answer itself, or its one member that is a list.
fn rows(answer: &Value) -> Vec<Value> {
    match answer {
        Value::Array(rows) => rows.clone(),
        Value::Object(object) => object
            .values()
            .find_map(Value::as_array)
            .cloned()
            .unwrap_or_default(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

macro_rules! columns {
    ($($name:ident: $($heading:literal $($key:literal)+),+;)*) => {
        $(pub(super) const $name: &[Column] = &[$(Column { heading: $heading, keys: &[$($key),+] }),+];)*
    };
}

columns! {
    SERVICES: "SERVICE" "/service/service", "POLICY" "/ip/policy", "SERVICE IP" "/ip/service_ip" "/ip/service_ip_v6",
        "INSTANCES" "/service/instances";
    INSTANCES: "SERVICE" "/service", "INSTANCE" "/instance", "STATE" "/state", "CLUSTER" "/cluster", "NODE" "/node",
        "INSTANCE IP" "/instance_ip" "/instance_ip_v6", "NS IP" "/ns_ip" "/ns_ip_v6", "USED (S AGO)" "/used_s_ago";
    NODES: "NODE" "/node", "CLUSTER" "/cluster", "ADDRESS" "/address", "SUBNET" "/subnet_v4" "/subnet_v6",
        "INSTANCES" "/instances", "STATE" "/state";
    CLUSTERS: "CLUSTER" "/cluster", "ADDRESS" "/address", "STATE" "/state";
    PEERS: "NODE" "/node", "FORMAT" "/format", "MTU" "/mtu", "INSTANCES" "/instances";
    FLOWS: "PROTOCOL" "/protocol", "DIRECTION" "/direction", "CALLER" "/caller", "DIALLED" "/dialled",
        "INSTANCE" "/instance", "STATE" "/state", "IDLE (S)" "/idle_s";
    TABLES: "SERVICE" "/service/service", "POLICY" "/ip/policy", "SERVICE IP" "/ip/service_ip" "/ip/service_ip_v6",
        "CANDIDATES" "/service/candidates", "USED (S AGO)" "/service/used_s_ago";
    DROPS: "REASON" "/reason", "COUNT" "/count", "SERVICE" "/per_link/service", "UNDERLAY" "/per_link/underlay",
        "ENGINE" "/per_link/engine", "CAUSE" "/cause", "CURE" "/cure";
    RULES: "FROM" "/from", "TO" "/to", "CALLERS" "/callers", "CALLEES" "/callees";
    KEYS: "PUBLIC KEY" "/public_key", "FILE" "/file";
    REVOKED: "PUBLIC KEY" "/public_key", "BY" "/by";
    PROFILES: "PROFILE" "/profile", "TITLE" "/title", "LINK" "/link", "VERIFIED" "/verified", "FROM" "/from";
    SETTINGS: "SETTING" "/setting", "WANTED" "/wanted", "ACTUAL" "/actual", "BEFORE" "/before", "BY" "/by",
        "WHY NOT" "/why";
    SOCKETS: "AF_XDP" "/device", "MODE" "/mode", "BINDING" "/binding", "QUEUES" "/queues", "RING" "/ring",
        "BUSY POLL (US)" "/busy_poll_us", "PREFERRED" "/prefer_busy_poll", "PAGE" "/page_bytes",
        "TX METADATA" "/tx_metadata", "NO BUFFER" "/no_buffer",
        "RING FULL" "/ring_full", "REFUSED" "/refused", "FILL EMPTY" "/fill_empty";
    WORKERS: "WORKER" "/worker", "CORE" "/core", "RECEIVED" "/received", "FORWARDED" "/forwarded",
        "ORIGINATED" "/originated", "SPLIT" "/split", "MERGED" "/merged", "HELD" "/held", "DROPPED" "/dropped",
        "LINKS" "/links";
}

/// `sluice status`
#[derive(Debug, Args)]
pub(super) struct Status {
    /// Ask this daemon only
    #[arg(long, value_enum)]
    at: Option<At>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// The admin socket of the daemon of --at
    #[arg(long, value_name = "PATH", requires = "at")]
    socket: Option<std::path::PathBuf>,
}

impl Status {
    /// Each daemon that answers shows its status; it is an error when none does.
    pub(super) async fn run(&self, config: &Config) -> Result<(), CliError> {
        let roles = match self.at {
            Some(at) => vec![at.into()],
            None => vec![Role::Root, Role::Cluster, Role::Gateway],
        };
        let mut answers = serde_json::Map::new();
        let mut first_error = None;
        for role in roles {
            let place = Where {
                socket: self.socket.clone(),
            };
            match self.ask(&place.client(role, config)).await {
                Ok(answer) => {
                    answers.insert(role.name().to_owned(), answer);
                }
                Err(error) => first_error = Some(first_error.unwrap_or(error)),
            }
        }
        match first_error {
            Some(error) if answers.is_empty() && self.at.is_some() => return Err(error.into()),
            Some(_) if answers.is_empty() => {
                return Err(CliError::Asked(format!(
                    "no daemon answers on {}, {} or {}; start one with `sluice root`, `cluster` or `gateway`, or name \
                     the file with their sockets with --config",
                    config.root.admin_socket.display(),
                    config.cluster.admin_socket.display(),
                    config.gateway.admin_socket.display()
                )));
            }
            _ => {}
        }
        match self.output {
            Format::Json => output::print_json(&answers.into()),
            Format::Table => {
                for (role, answer) in &answers {
                    output::print(&format!("{role}\n{}\n", status_table(answer)));
                }
            }
        }
        Ok(())
    }

    async fn ask(&self, client: &Client) -> Result<Value, ClientError> {
        client.json(Call::read("/v1/status")).await
    }
}

/// Lists of nodes with which nothing is encrypted, and what is to be said of them.
const UNENCRYPTED: [(&str, &str); 2] = [
    ("peers_plain", "not encrypted"),
    (
        "peers_refused",
        "not spoken to: it has no key, and is not in `tunnel.plain_peers`",
    ),
];

/// Scalars as key and value, the workers as a table of their own.
fn status_table(answer: &Value) -> String {
    let mut text = String::new();
    let Some(object) = answer.as_object() else {
        return text;
    };
    let scalars: Vec<(&str, String)> = object
        .iter()
        .filter(|(key, _)| {
            let apart = ["workers", "sockets", "hardware", "names", "role"];
            !apart.contains(&key.as_str()) && !UNENCRYPTED.iter().any(|(it, _)| it == key)
        })
        .map(|(key, value)| (key.as_str(), output::plain(value)))
        .filter(|(_, value)| !value.is_empty())
        .collect();
    let width = scalars.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    for (key, value) in scalars {
        text.push_str(format!("  {key:<width$}  {value}").trim_end());
        text.push('\n');
    }
    for (key, what) in UNENCRYPTED {
        for node in answer[key].as_array().into_iter().flatten() {
            let line = format!("{}: {what}", output::plain(node));
            text.push_str(&format!("  {}\n", output::red(&line)));
        }
    }
    if answer["names"].is_object() {
        text.push_str(&format!("  names: {}\n", names_line(&answer["names"])));
    }
    let hardware = &answer["hardware"];
    for (name, nic) in [
        ("hardware", hardware),
        ("towards hosts", &hardware["service"]),
    ] {
        if nic.is_null() {
            continue;
        }
        text.push_str(&format!("  {name}: {}\n", hardware_line(nic)));
        if let Some(settings) = nic["settings"].as_array().filter(|it| !it.is_empty()) {
            for line in output::json_table(SETTINGS, settings).lines() {
                text.push_str(&format!("    {line}\n"));
            }
        }
    }
    for (key, columns) in [("sockets", SOCKETS), ("workers", WORKERS)] {
        let rows = object.get(key).and_then(Value::as_array);
        if let Some(rows) = rows.filter(|rows| !rows.is_empty()) {
            for line in output::json_table(columns, rows).lines() {
                text.push_str(&format!("  {line}\n"));
            }
        }
    }
    text
}

/// Where names are answered or why not, and what was counted, in one line.
fn names_line(names: &Value) -> String {
    let addresses = names["listening"].as_array().into_iter().flatten();
    let texts = addresses.chain([&names["problem"]]).map(output::plain);
    let counts = names.as_object().into_iter().flatten();
    let counts = counts.filter_map(|(outcome, count)| {
        let count = count.as_u64().filter(|count| *count > 0)?;
        Some(format!("{count} {outcome}"))
    });
    let parts: Vec<String> = texts
        .chain(counts)
        .filter(|text| !text.is_empty())
        .collect();
    parts.join(", ")
}

/// The interface, its profile and the reason, in one line.
fn hardware_line(hardware: &Value) -> String {
    if let Some(error) = hardware["error"].as_str() {
        return format!("no settings: {error}");
    }
    format!(
        "{} with profile {} ({}), link {}; recommended {}: {}",
        output::plain(&hardware["interface"]),
        output::plain(&hardware["profile"]),
        output::plain(&hardware["why"]),
        output::plain(&hardware["link"]),
        output::plain(&hardware["recommended_link"]),
        output::plain(&hardware["recommended_why"]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_an_answer_is_found() {
        assert_eq!(rows(&json!([1])).len(), 1);
        assert_eq!(rows(&json!({"total": 3, "flows": [1, 2]})).len(), 2);
        assert!(rows(&json!(null)).is_empty());
    }
}
