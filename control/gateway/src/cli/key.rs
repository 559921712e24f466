//! `key`: the key by which other nodes know this one, and the keys of nodes that count no more.

use super::read::{KEYS, REVOKED};
use super::write::encoded;
use super::{At, CliError, RootWhere, Where};
use crate::client::{Call, Client, ClientError, Role};
use crate::config::Config;
use crate::node_key;
use crate::output::{self, Format};
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};
use sluice_managers::{Secret, SecretFile};
use sluice_proto::message::NodeKey;
use std::io::ErrorKind;

/// `sluice key`
#[derive(Debug, Subcommand)]
pub(super) enum Key {
    /// Show the public key
    Show {
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Put a new key in the place of the old one; a running gateway goes on with it at once
    Rotate(Rotate),
    /// Let a node's key count no more: its instances are withdrawn, and what shows the key is refused
    Revoke(Change),
    /// Let a revoked key count again; its node says it when its gateway connects the next time
    Allow(Change),
    /// Show the keys that are revoked
    Revoked(Revoked),
}

/// Which manager is asked: the root, for all clusters, or one cluster's.
#[derive(Debug, Args)]
struct Manager {
    /// For all clusters, or for this machine's alone
    #[arg(long, value_enum, default_value = "root")]
    at: At,
    #[command(flatten)]
    root: RootWhere,
}

#[derive(Debug, Args)]
pub(super) struct Change {
    /// As `sluice key show` shows it on the node, and `sluice get nodes --at cluster -o json` on its cluster manager
    public_key: NodeKey,
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    manager: Manager,
}

#[derive(Debug, Args)]
pub(super) struct Revoked {
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    manager: Manager,
}

#[derive(Debug, Args)]
pub(super) struct Rotate {
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    place: Where,
}

impl Key {
    pub(super) async fn run(&self, config: &Config) -> Result<(), CliError> {
        let file = node_key::file(config);
        let (format, answer) = match self {
            Self::Show { output } => {
                let secret = file.read()?.ok_or_else(|| {
                    CliError::Asked(format!(
                        "{} is not there: the gateway makes it at its first start, and `sluice key rotate` does now",
                        file.path().display()
                    ))
                })?;
                (*output, row(&file, &secret))
            }
            Self::Rotate(rotate) => (rotate.output, rotate.run(config, &file).await?),
            Self::Revoke(change) => {
                let body = json!({"public_key": change.public_key});
                let call = Call::post("/v1/revoked_keys", &body);
                let client = change.manager.client(config)?;
                (change.output, client.json(call).await?)
            }
            Self::Allow(change) => {
                let key = encoded(&change.public_key.to_string());
                let call = Call {
                    method: Method::DELETE,
                    ..Call::read(format!("/v1/revoked_keys?public_key={key}"))
                };
                let client = change.manager.client(config)?;
                (change.output, client.json(call).await?)
            }
            Self::Revoked(revoked) => {
                let client = revoked.manager.client(config)?;
                let answer = client.json(Call::read("/v1/revoked_keys")).await?;
                (revoked.output, answer)
            }
        };
        match format {
            Format::Json => output::print_json(&answer),
            Format::Table => output::print(&self.table(answer)),
        }
        Ok(())
    }
}

impl Key {
    fn table(&self, answer: Value) -> String {
        match (self, answer) {
            (Self::Revoked(_), Value::Array(rows)) => output::json_table(REVOKED, &rows),
            (Self::Revoke(_), answer) => format!(
                "revoked; {} instances withdrawn\n",
                answer["withdrawn"].as_u64().unwrap_or(0)
            ),
            (Self::Allow(_), _) => "allowed\n".to_owned(),
            (Self::Show { .. } | Self::Rotate(_) | Self::Revoked(_), answer) => {
                output::json_table(KEYS, &[answer])
            }
        }
    }
}

impl Manager {
    fn client(&self, config: &Config) -> Result<Client, CliError> {
        match self.at {
            At::Root => self.root.client(config),
            At::Cluster if self.root.root.is_none() => {
                let socket = self.root.socket.clone();
                Ok(Where { socket }.client(Role::Cluster, config))
            }
            At::Cluster => Err(CliError::Asked(
                "--root goes with --at root; a cluster manager is asked on its own machine"
                    .to_owned(),
            )),
            At::Gateway => Err(CliError::Asked(
                "a gateway revokes no keys; leave out --at to ask the root".to_owned(),
            )),
        }
    }
}

impl Rotate {
    /// The gateway does it, so that it goes on with what is in the file; without one it is done here.
    async fn run(&self, config: &Config, file: &SecretFile) -> Result<Value, CliError> {
        let client = self.place.client(Role::Gateway, config);
        match client.json(Call::post("/v1/key/rotate", &json!({}))).await {
            Err(ClientError::NotThere { source, .. })
                if matches!(
                    source.kind(),
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused
                ) =>
            {
                let secret = file.replace()?;
                Ok(row(file, &secret))
            }
            answer => Ok(answer?),
        }
    }
}

fn row(file: &SecretFile, secret: &Secret) -> Value {
    json!({
        "public_key": node_key::identity(secret).public().to_string(),
        "file": file.path(),
    })
}
