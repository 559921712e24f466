//! `key show` and `key rotate`: the key by which other nodes know this one.

use super::{CliError, Where};
use crate::client::{Call, ClientError, Role};
use crate::config::Config;
use crate::node_key;
use crate::output::{self, Format};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use sluice_managers::{Secret, SecretFile};
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
        };
        match format {
            Format::Json => output::print_json(&answer),
            Format::Table => output::print(&output::json_table(super::read::KEYS, &[answer])),
        }
        Ok(())
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
