//! The `sluice-perf` binary: runs one suite, prints its table, writes its JSON.

use clap::{Args, Parser, Subcommand, ValueEnum};
use sluice_perf::instrument::Instrument;
use sluice_perf::lab::scratch::on_interrupt;
use sluice_perf::lab::{LabError, privilege};
use sluice_perf::report::{Report, ReportError};
use sluice_perf::suites::{Settings, engine, fastpath, footprint, tun};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use thiserror::Error;

/// Measures Sluice, beside others where there is something to compare with.
#[derive(Debug, Parser)]
#[command(name = "sluice-perf", version)]
struct Cli {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Debug, Subcommand)]
enum Suite {
    /// The TUN data path beside kernel VXLAN with nft DNAT
    Tun(Options),
    /// The path in memory: nanoseconds and instructions per packet
    Engine(Options),
    /// Instructions of one packet in memory; fails above the budget
    Budget(Options),
    /// The high-traffic path: in memory over Ethernet, and by AF_XDP beside the kernel
    Fastpath {
        #[command(flatten)]
        options: Options,
        /// Only this part
        #[arg(long, value_name = "PART", value_parser = fastpath::PARTS)]
        only: Option<String>,
    },
    /// Memory and CPU time of an idle gateway, and the first packet to an unknown service
    Footprint(Options),
    #[command(flatten)]
    Instrument(Instrument),
    /// What callgrind counts for `engine`
    #[command(hide = true)]
    Spin {
        #[arg(value_enum)]
        direction: Half,
        packets: usize,
        /// Only make the packets
        #[arg(long)]
        idle: bool,
        /// Few of them by default: callgrind is slow, and their number changes instructions little
        #[arg(long, default_value_t = 1 << 12)]
        flows: usize,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Half {
    Outbound,
    Inbound,
}

/// A suite.
type Run = fn(&Settings) -> Result<Report, LabError>;

#[derive(Args, Debug)]
struct Options {
    /// Write the figures to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Fewer and shorter runs: under 50 seconds
    #[arg(long)]
    quick: bool,
    /// The program to measure [default: `sluice` beside this program]
    #[arg(long, value_name = "PATH")]
    sluice: Option<PathBuf>,
}

#[derive(Debug, Error)]
enum PerfError {
    #[error(transparent)]
    Lab(#[from] LabError),
    #[error(transparent)]
    Report(#[from] ReportError),
    #[error("a packet costs more instructions than its budget; see the table above")]
    Budget,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("sluice-perf: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), PerfError> {
    let mut part = None;
    let (options, suite): (_, Run) = match &cli.suite {
        Suite::Tun(options) => (options, tun::run),
        Suite::Engine(options) => (options, engine::run),
        Suite::Budget(options) => (options, engine::budget),
        Suite::Fastpath { options, only } => {
            part.clone_from(only);
            (options, fastpath::run)
        }
        Suite::Footprint(options) => (options, footprint::run),
        Suite::Instrument(instrument) => {
            let said = instrument.run()?;
            // As below.
            let _ = writeln!(std::io::stdout(), "{said}");
            return Ok(());
        }
        Suite::Spin {
            direction,
            packets,
            idle,
            flows,
        } => {
            let direction = match direction {
                Half::Outbound => engine::Direction::Outbound,
                Half::Inbound => engine::Direction::Inbound,
            };
            return Ok(engine::spin(direction, *packets, *idle, *flows)?);
        }
    };
    let needs_namespaces = !matches!(cli.suite, Suite::Engine(_) | Suite::Budget(_));
    if needs_namespaces {
        privilege::acquire()?;
    }
    on_interrupt()?;
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.join("sluice")));
    let report = suite(&Settings {
        sluice: options
            .sluice
            .clone()
            .or(beside)
            .unwrap_or_else(|| "sluice".into()),
        quick: options.quick,
        only: part,
        say,
    })?;
    // Nobody reads when standard output is closed; the file is still written.
    let _ = writeln!(std::io::stdout(), "\n{}", report.table());
    if let Some(path) = &options.json {
        report.write_json(path)?;
    }
    if matches!(cli.suite, Suite::Budget(_)) && report.missed().next().is_some() {
        return Err(PerfError::Budget);
    }
    Ok(())
}

fn say(line: &str) {
    // Progress is for a watcher; without one it is lost.
    let _ = writeln!(std::io::stderr(), "{line}");
}
