//! `sluice doctor`.

use super::CliError;
use crate::doctor::facts::Facts;
use crate::doctor::{examine, fix, report};
use crate::output::{self, Format};
use clap::Args;
use std::path::Path;

/// `sluice doctor`
#[derive(Debug, Args)]
#[command(after_long_help = "\
A finding says where (file, device, key), what is there, what that costs and the exact fix. Severities:
  error    packets are lost, or the gateway cannot start
  warning  costs speed or safety, or will stop the gateway one day
  note     costs a little, or only in some uses
  ok       as it should be; shown with --all and in JSON

--fix makes the changes marked (--fix does it): settings below /proc/sys, receive packet steering, the queue of the
TUN device and offload switches of the underlay. They last until the next boot at most; to keep one, put the same
into /etc/sysctl.d or your network configuration. The former values are kept in gateway.state_dir until --undo.

JSON: {version, counts, findings: [{check, severity, place, found, cost, fix, automatic}],
       changed: [{command, former, error}]}

Exit status: 0 when nothing is worse than a note; 1 with a finding of warning or worse (with --fix: one that is
left), or when a change could not be made or taken back; 2 when the command line is wrong.")]
pub(super) struct Doctor {
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Show also what is as it should be
    #[arg(long)]
    all: bool,
    /// List the rules and look at nothing
    #[arg(long, conflicts_with_all = ["fix", "undo"])]
    list: bool,
    /// Make the safe changes, then look again
    #[arg(long)]
    fix: bool,
    /// Restore what was before --fix, and look again
    #[arg(long, conflicts_with = "fix")]
    undo: bool,
}

impl Doctor {
    /// `config` is the file of `--config`; the doctor also looks at one that is not valid.
    pub(super) async fn run(&self, config: Option<&Path>) -> Result<(), CliError> {
        if self.list {
            output::print(&report::rules());
            return Ok(());
        }
        let mut facts = Facts::gather(config).await;
        let state_dir = facts.config.gateway.state_dir.clone();
        let refused = |error: fix::RecordError| CliError::Asked(error.to_string());
        let done = if self.fix {
            fix::apply(&examine(&facts), &state_dir).map_err(refused)?
        } else if self.undo {
            fix::undo(&state_dir).map_err(refused)?
        } else {
            Vec::new()
        };
        if self.fix || self.undo {
            facts = Facts::gather(config).await;
        }
        let findings = examine(&facts);
        match self.output {
            Format::Table => output::print(&report::text(&findings, &done, self.all)),
            Format::Json => output::print_json(&report::json(&findings, &done)),
        }
        let failed = done.iter().filter(|change| change.error.is_some()).count();
        match report::serious(&findings) {
            0 if failed > 0 => Err(CliError::Asked(format!(
                "{failed} changes could not be made"
            ))),
            0 => Ok(()),
            count => Err(CliError::Findings(count)),
        }
    }
}
