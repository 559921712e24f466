//! `rule add`, `rule list` and `rule delete`: who may call whom across namespaces.

use super::read::RULES;
use super::write::encoded;
use super::{CliError, RootWhere};
use crate::client::Call;
use crate::config::Config;
use crate::output::{self, Format};
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

/// `sluice rule`
#[derive(Debug, Subcommand)]
pub(super) enum Rule {
    /// Allow services that match FROM to call services that match TO
    Add(Change),
    /// Show all rules
    List(List),
    /// Take a rule back: conversations that it alone allowed end
    Delete(Change),
}

#[derive(Debug, Args)]
pub(super) struct Change {
    /// Callers: app.appns.service.servicens, each part a name or `*`
    from: String,
    /// Whom they may call: the same
    to: String,
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    root: RootWhere,
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    root: RootWhere,
}

impl Rule {
    pub(super) async fn run(&self, config: &Config) -> Result<(), CliError> {
        let (root, format, call) = match self {
            Self::Add(change) => {
                let body = json!({"from": change.from, "to": change.to});
                let call = Call::post("/v1/rules", &body);
                (&change.root, change.output, call)
            }
            Self::Delete(change) => {
                let (from, to) = (encoded(&change.from), encoded(&change.to));
                let path = format!("/v1/rules?from={from}&to={to}");
                let call = Call {
                    method: Method::DELETE,
                    ..Call::read(path)
                };
                (&change.root, change.output, call)
            }
            Self::List(list) => (&list.root, list.output, Call::read("/v1/rules")),
        };
        let answer = root.client(config)?.json(call).await?;
        match format {
            Format::Json => output::print_json(&answer),
            Format::Table => output::print(&self.table(answer)),
        }
        Ok(())
    }

    fn table(&self, answer: Value) -> String {
        let table = match answer.as_array() {
            Some(rows) => output::json_table(RULES, rows),
            None => output::json_table(RULES, &[answer]),
        };
        match self {
            Self::Delete(_) => format!("deleted\n{table}"),
            Self::Add(_) | Self::List(_) => table,
        }
    }
}
