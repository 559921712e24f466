//! `apply`, `delete`, `attach` and `detach`.

use super::{CliError, RootWhere, Where};
use crate::admin_api::{AttachAnswer, AttachBody};
use crate::client::{Call, Role};
use crate::config::Config;
use crate::output::{self, Format};
use clap::Args;
use hyper::Method;
use serde_json::Value;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// `sluice apply`
#[derive(Debug, Args)]
pub(super) struct Apply {
    /// The descriptor; `-` reads standard input
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    root: RootWhere,
}

impl Apply {
    pub(super) async fn run(&self, config: &Config) -> Result<(), CliError> {
        let body = descriptor(&self.file)?;
        let json = body.trim_ascii_start().starts_with(b"{");
        let call = Call {
            method: Method::POST,
            path: "/v1/services".to_owned(),
            content_type: if json {
                "application/json"
            } else {
                "application/yaml"
            },
            body,
        };
        let answer = self.root.client(config)?.json(call).await?;
        match self.output {
            Format::Json => output::print_json(&answer),
            Format::Table => output::print(&super::read::services(&answer)),
        }
        Ok(())
    }
}

fn descriptor(file: &Path) -> Result<Vec<u8>, CliError> {
    let read = if file == Path::new("-") {
        let mut text = Vec::new();
        std::io::stdin().read_to_end(&mut text).map(|_| text)
    } else {
        std::fs::read(file)
    };
    read.map_err(|source| CliError::Read {
        file: file.to_owned(),
        source,
    })
}

/// `sluice delete`
#[derive(Debug, Args)]
pub(super) struct Delete {
    /// Names like app.appns.service.servicens
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
    #[command(flatten)]
    root: RootWhere,
}

impl Delete {
    pub(super) async fn run(&self, config: &Config) -> Result<(), CliError> {
        let client = self.root.client(config)?;
        for service in &self.services {
            let call = Call {
                method: Method::DELETE,
                path: format!("/v1/services/{}", encoded(service)),
                content_type: "application/json",
                body: Vec::new(),
            };
            client.json(call).await?;
            output::print(&format!("{service} deleted\n"));
        }
        Ok(())
    }
}

/// Percent-encodes all but unreserved characters (RFC 3986 section 2.3).
pub(super) fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

/// Which workload.
#[derive(Clone, Debug, Args)]
#[group(multiple = false)]
struct Target {
    /// A process: its network namespace
    #[arg(long)]
    pid: Option<i32>,
    /// A network namespace: a name under /run/netns, or a path
    #[arg(long, value_name = "NAME")]
    netns: Option<PathBuf>,
    /// A running container of Docker or containerd: its name or id
    #[arg(long, value_name = "ID")]
    container: Option<String>,
    /// A host on the LAN (`fastpath.service`): its address, or one of each family separated by `,`
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    host: Vec<IpAddr>,
}

impl Target {
    fn body(&self, service: &str, instance: Option<u32>) -> AttachBody {
        AttachBody {
            service: service.to_owned(),
            instance_number: instance,
            migrate: false,
            pid: self.pid,
            netns: self.netns.clone(),
            container: self.container.clone(),
            host: self.host.clone(),
            port_mappings: String::new(),
        }
    }

    const fn is_empty(&self) -> bool {
        self.pid.is_none()
            && self.netns.is_none()
            && self.container.is_none()
            && self.host.is_empty()
    }
}

/// `sluice attach`
#[derive(Debug, Args)]
pub(super) struct Attach {
    /// The service, like app.appns.service.servicens
    #[arg(long)]
    service: String,
    #[command(flatten)]
    target: Target,
    /// The instance number [default: the next free one]
    #[arg(long, value_name = "N")]
    instance: Option<u32>,
    /// The instance runs elsewhere and moves here, with its addresses; detach it there afterwards
    #[arg(long, requires = "instance")]
    migrate: bool,
    /// Ports of this machine that lead to the instance: `host[:container][/tcp|/udp]`, separated by `;`
    #[arg(long, value_name = "PORTS", default_value = "")]
    ports: String,
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    gateway: Where,
}

impl Attach {
    pub(super) async fn run(&self, config: &Config) -> Result<(), CliError> {
        if self.target.is_empty() {
            return Err(CliError::Asked(
                "say which workload: --pid PID, --netns NAME, --container ID or --host ADDRESS"
                    .to_owned(),
            ));
        }
        let mut body = self.target.body(&self.service, self.instance);
        body.port_mappings.clone_from(&self.ports);
        body.migrate = self.migrate;
        let client = self.gateway.client(Role::Gateway, config);
        let answer = client.json(Call::post("/v1/attach", &body)).await?;
        match self.output {
            Format::Json => output::print_json(&answer),
            Format::Table => output::print(&attached(&answer)),
        }
        Ok(())
    }
}

fn attached(answer: &Value) -> String {
    let Ok(attached) = serde_json::from_value::<AttachAnswer>(answer.clone()) else {
        return format!("{answer:#}\n");
    };
    fn both<A: ToString, B: ToString>(v4: Option<A>, v6: Option<B>) -> String {
        let texts: Vec<String> = v4
            .map(|ip| ip.to_string())
            .into_iter()
            .chain(v6.map(|ip| ip.to_string()))
            .collect();
        texts.join(" ")
    }
    let mut text = format!(
        "{} instance {}\n  instance IP   {}\n  namespace IP  {}\n",
        attached.service,
        attached.instance_number,
        both(attached.instance_ip, attached.instance_ip_v6),
        both(attached.ns_ip, attached.ns_ip_v6),
    );
    let kept = both(attached.kept_ip, attached.kept_ip_v6);
    if !kept.is_empty() {
        text += &format!("  keeps inside  {kept}\n");
    }
    let name_server = both(attached.name_server, attached.name_server_v6);
    if !name_server.is_empty() {
        text += &format!("  name server   {name_server}\n");
    }
    text
}

/// `sluice detach`
#[derive(Debug, Args)]
pub(super) struct Detach {
    /// The service, like app.appns.service.servicens
    #[arg(long)]
    service: String,
    #[command(flatten)]
    target: Target,
    /// The instance number; without it and without a workload, every instance of the service on this node
    #[arg(long, value_name = "N")]
    instance: Option<u32>,
    #[command(flatten)]
    gateway: Where,
}

impl Detach {
    pub(super) async fn run(&self, config: &Config) -> Result<(), CliError> {
        let body = self.target.body(&self.service, self.instance);
        let client = self.gateway.client(Role::Gateway, config);
        client.json(Call::post("/v1/detach", &body)).await?;
        output::print(&format!("{} detached\n", self.service));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_into_paths() {
        assert_eq!(encoded("a.b.c.d"), "a.b.c.d");
        assert_eq!(encoded("a/b?c"), "a%2Fb%3Fc");
    }
}
