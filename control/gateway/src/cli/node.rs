//! `node credential`: with what a node shows its cluster's broker that it is itself.

use super::CliError;
use crate::config::Config;
use crate::output::{self, Format};
use clap::{Args, Subcommand};
use serde_json::json;
use sluice_managers::NodeCredentials;

/// `sluice node`
#[derive(Debug, Subcommand)]
pub(super) enum Node {
    /// Show the password of a node at its cluster's broker, for the node's `gateway.cluster_token_file`. On the cluster manager's
    /// machine only: the manager's secret is needed, and made if there is none
    Credential(Credential),
}

#[derive(Debug, Args)]
pub(super) struct Credential {
    /// The node's id: 24 hexadecimal digits, as `sluice status -o json` of its gateway shows it
    #[arg(value_parser = node_id)]
    node: String,
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Node {
    pub(super) fn run(&self, config: &Config) -> Result<(), CliError> {
        let Self::Credential(credential) = self;
        credential.run(config)
    }
}

impl Credential {
    /// Alone on its line, so that it can be written into a file.
    fn run(&self, config: &Config) -> Result<(), CliError> {
        let credentials = NodeCredentials::of_manager(&config.cluster.data_dir)?;
        let secret = credentials.of(&self.node);
        match self.output {
            Format::Table => output::print(&format!("{}\n", secret.secret())),
            Format::Json => output::print_json(&json!({
                "node": self.node,
                "credential": secret.secret(),
            })),
        }
        Ok(())
    }
}

fn node_id(text: &str) -> Result<String, String> {
    if text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(text.to_ascii_lowercase());
    }
    Err("a node id is 24 hexadecimal digits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_id_is_spelled_as_its_gateway_spells_it() {
        let id = "0123456789ABCDEF01234567";
        assert_eq!(node_id(id), Ok(id.to_ascii_lowercase()));
        for wrong in ["", "0123", "x123456789abcdef01234567", &format!("{id}-ne")] {
            assert!(node_id(wrong).is_err(), "{wrong}");
        }
    }
}
