//! The command line: what can be asked, and of whom.

mod daemon;
mod doctor;
mod key;
mod node;
mod profile;
mod read;
mod rule;
mod sim;
mod sim_matrix;
mod write;
mod trace;

use crate::client::{Client, ClientError, Endpoint, Role};
use crate::config::{self, Config, ConfigError};
use crate::demo;
use crate::output::{self, Format};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use sluice_managers::{SecretFileError, Token, TokenError};
use std::path::PathBuf;
use thiserror::Error;

/// Services call each other by ServiceIP; this is the gateway beside them, and the managers it asks.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, max_term_width = 120)]
pub struct Cli {
    /// Configuration file of all roles [default: /etc/sluice/sluice.toml if it is there, else built-in defaults]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the root manager: knows every service, hands out every address
    Root,
    /// Run a cluster manager: answers the table queries of its nodes, asks the root
    Cluster,
    /// Run the gateway of this node: beside the services, towards all other nodes
    Gateway {
        /// Leave the cluster and remove what a stopped gateway left: devices, routes, rules and state; its instances end,
        /// its subnet goes back
        #[arg(long)]
        remove: bool,
    },
    /// Create or update the services of a descriptor (thesis YAML or Oakestra SLA JSON)
    Apply(write::Apply),
    /// Delete services with all their instances; workloads attached as such are detached
    Delete(write::Delete),
    /// Make a running workload an instance of a service
    Attach(write::Attach),
    /// The reverse of attach
    Detach(write::Detach),
    /// Who may call whom across namespaces
    #[command(subcommand)]
    Rule(rule::Rule),
    /// The key by which other nodes know this one
    #[command(subcommand)]
    Key(key::Key),
    /// The nodes of this machine's cluster manager
    #[command(subcommand)]
    Node(node::Node),
    /// Show a table
    Get(read::Get),
    /// Show how the daemons of this machine are
    Status(read::Status),
    /// Look for what stands in the gateway's way on this machine, what it costs, and the fix
    Doctor(doctor::Doctor),
    /// Follow packets through the gateway's stages
    Trace(trace::Trace),
    /// Show two sites on this machine, with real programs that talk across them
    Demo(demo::Options),
    /// Run the whole system from seeds on virtual time, with everything that can go wrong
    Sim(sim::Sim),
    /// What is known of NIC families, and which one this machine has
    #[command(subcommand)]
    Profile(profile::ProfileCommand),
    /// Look at configuration files
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check a file, and show every key with the value in force
    Check {
        file: PathBuf,
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
}

/// Where the daemon is; by default on the admin socket that the configuration names.
#[derive(Clone, Debug, Args)]
struct Where {
    /// The daemon's admin socket
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Where the root manager is.
#[derive(Clone, Debug, Args)]
struct RootWhere {
    /// The root's admin socket
    #[arg(long, value_name = "PATH", conflicts_with = "root")]
    socket: Option<PathBuf>,
    /// The root's REST interface, like http://10.0.0.1:10099
    #[arg(long, value_name = "URL")]
    root: Option<String>,
    /// File with the root's token
    #[arg(long, value_name = "FILE", requires = "root")]
    token_file: Option<PathBuf>,
}

/// Which daemon to ask.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum At {
    Root,
    Cluster,
    Gateway,
}

impl From<At> for Role {
    fn from(at: At) -> Self {
        match at {
            At::Root => Self::Root,
            At::Cluster => Self::Cluster,
            At::Gateway => Self::Gateway,
        }
    }
}

/// Why a command failed.
#[derive(Debug, Error)]
pub enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Role(#[from] config::RoleError),
    #[error(transparent)]
    Log(#[from] crate::log::LogError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    #[error("cannot read {file}: {source}", file = file.display())]
    Read {
        file: PathBuf,
        source: std::io::Error,
    },
    #[error("`{0}` is no address of a root manager like http://10.0.0.1:10099")]
    Url(String),
    #[error("{0}")]
    Asked(String),
    #[error(transparent)]
    Hardware(#[from] crate::hardware::HardwareError),
    #[error(transparent)]
    Demo(#[from] demo::DemoError),
    #[error(transparent)]
    Report(#[from] sluice_perf::report::ReportError),
    /// `sim` has shown them.
    #[error("the simulation missed {0} of its goals")]
    Simulation(usize),
    /// `doctor` has shown them; the exit status is theirs.
    #[error("{0} finding{s} of warning or worse", s = if *.0 == 1 { "" } else { "s" })]
    Findings(usize),
    /// A role ended with an error.
    #[error("{role}: {message}")]
    Daemon { role: &'static str, message: String },
    #[error("the runtime cannot start: {0}")]
    Runtime(std::io::Error),
}

/// Runs one command.
///
/// # Errors
/// Whatever the command says; the text is for the user.
pub fn run(cli: Cli) -> Result<(), CliError> {
    let config = || Config::load(cli.config.as_deref());
    match cli.command {
        // Before any runtime: an ordinary user's demo moves into a user namespace, which takes one thread.
        Command::Demo(options) => Ok(demo::run(&options)?),
        Command::Config(ConfigCommand::Check { file, output }) => {
            check(&Config::load(Some(&file))?, output);
            Ok(())
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "sluice", &mut script);
            output::print(&String::from_utf8_lossy(&script));
            Ok(())
        }
        Command::Sim(sim) => sim.run(),
        Command::Profile(profile) => profile.run(&config()?),
        Command::Root => block_on(daemon::root(config()?)),
        Command::Cluster => block_on(daemon::cluster(config()?)),
        Command::Gateway { remove: false } => block_on(daemon::gateway(config()?)),
        Command::Gateway { remove: true } => block_on(daemon::remove_gateway(&config()?)),
        Command::Apply(apply) => block_on(apply.run(&config()?)),
        Command::Delete(delete) => block_on(delete.run(&config()?)),
        Command::Attach(attach) => block_on(attach.run(&config()?)),
        Command::Detach(detach) => block_on(detach.run(&config()?)),
        Command::Rule(rule) => block_on(rule.run(&config()?)),
        Command::Key(key) => block_on(key.run(&config()?)),
        Command::Node(node) => node.run(&config()?),
        Command::Get(get) => block_on(get.run(&config()?)),
        Command::Status(status) => block_on(status.run(&config()?)),
        Command::Doctor(doctor) => block_on(doctor.run(cli.config.as_deref())),
        Command::Trace(trace) => block_on(trace.run(&config()?)),
    }
}

/// Every command and role is one thread of control; workers are threads of their own.
fn block_on(work: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?
        .block_on(work)
}

/// Shows a valid configuration.
fn check(config: &Config, format: Format) {
    let rows = config::rows(config);
    match format {
        Format::Table => {
            let rows: Vec<Vec<String>> = rows
                .into_iter()
                .map(|(key, value)| vec![key, output::plain(&value)])
                .collect();
            output::print(&output::table(&["KEY", "VALUE"], &rows));
        }
        Format::Json => {
            let object: serde_json::Map<_, _> = rows.into_iter().collect();
            output::print_json(&object.into());
        }
    }
}

impl Where {
    /// The client of that daemon.
    fn client(&self, role: Role, config: &Config) -> Client {
        let configured = match role {
            Role::Root => &config.root.admin_socket,
            Role::Cluster => &config.cluster.admin_socket,
            Role::Gateway => &config.gateway.admin_socket,
        };
        Client {
            role,
            endpoint: Endpoint::Unix(self.socket.as_ref().unwrap_or(configured).clone()),
        }
    }
}

impl RootWhere {
    fn client(&self, config: &Config) -> Result<Client, CliError> {
        let Some(url) = &self.root else {
            let local = Where {
                socket: self.socket.clone(),
            };
            return Ok(local.client(Role::Root, config));
        };
        let authority = url
            .strip_prefix("http://")
            .unwrap_or(url)
            .trim_end_matches('/');
        if authority.is_empty()
            || authority.contains(['/', ' '])
            || authority
                .rsplit_once(':')
                .is_none_or(|(_, port)| port.parse::<u16>().is_err())
        {
            return Err(CliError::Url(url.clone()));
        }
        Ok(Client {
            role: Role::Root,
            endpoint: Endpoint::Tcp {
                authority: authority.to_owned(),
                token: self
                    .token_file
                    .as_deref()
                    .map(Token::from_file)
                    .transpose()?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
