//! The `sluice-perf` binary: runs one suite, prints its table, writes its JSON.

use clap::{Args, Parser, Subcommand, ValueEnum};
use sluice_perf::instrument::Instrument;
use sluice_perf::lab::scratch::on_interrupt;
use sluice_perf::lab::{LabError, privilege};
use sluice_perf::report::{Report, ReportError};
use sluice_perf::suites::places::{Call, Gateway, Place, Places};
use sluice_perf::suites::{Settings, control, engine, fastpath, footprint, tun, tunnel};
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
    /// The encrypted tunnel beside other implementations of its format, and beside plain mode
    Tunnel {
        #[command(flatten)]
        options: Options,
        /// Only this row, or all `goodput` rows
        #[arg(long, value_name = "ROW", value_parser = tunnel::row)]
        only: Option<String>,
    },
    /// Memory and CPU time of an idle gateway, and the first packet to an unknown service
    Footprint(Options),
    /// The control plane: table queries, a change for a thousand nodes, a gateway that comes back
    Control(Options),
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

impl Suite {
    /// Why a suite does not go over hosts.
    const fn stays_here(&self) -> Option<&'static str> {
        match self {
            Self::Fastpath { .. } | Self::Tun(_) => None,
            Self::Engine(_) | Self::Budget(_) | Self::Spin { .. } => Some(
                "this suite runs in memory: no frame comes from a --generator or goes to a --sink; run it on the host that is \
                 to be measured, without them",
            ),
            Self::Footprint(_) => Some(
                "this suite measures memory, idle time and first packets of gateways it starts itself, with managers 1 ms \
                 away; run it on the host that is to be measured, without --generator, --dut and --sink",
            ),
            Self::Control(_) => Some(
                "this suite measures managers that it starts itself, with nodes that are connections of its own; run it on \
                 the host that is to be measured, without --generator, --dut and --sink",
            ),
            Self::Tunnel { .. } => Some(
                "this suite starts other implementations in its own namespaces, on its own wire; run it without --generator, \
                 --dut and --sink",
            ),
            Self::Instrument(_) => Some("an instrument runs where it is started"),
        }
    }
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
    /// Fewer and shorter runs: about a minute
    #[arg(long)]
    quick: bool,
    /// The program to measure [default: `sluice` beside this program]
    #[arg(long, value_name = "PATH")]
    sluice: Option<PathBuf>,
    #[command(flatten)]
    hosts: Hosts,
}

/// Hosts in place of namespaces of this machine. The same `sluice-perf` must be at the same path on each.
#[derive(Args, Debug)]
struct Hosts {
    /// Where traffic comes from: [USER@]HOST:INTERFACE, or an interface of this machine; for connections an instance at
    /// the device under test, [USER@]HOST/NETNS:INTERFACE
    #[arg(long, value_name = "PLACE", requires_all = ["dut", "sink", "call"])]
    generator: Option<Place>,
    /// The device under test: [USER@]HOST:SERVICE,UNDERLAY
    #[arg(long, value_name = "PLACE", requires_all = ["generator", "sink", "call"])]
    dut: Option<Place>,
    /// Another instance at the device under test, which floods: [USER@]HOST/NETNS:INTERFACE
    #[arg(long, value_name = "PLACE", requires_all = ["generator", "dut", "sink", "call"])]
    flooder: Option<Place>,
    /// Where traffic goes: [USER@]HOST:INTERFACE; for connections HOST/NETNS:UNDERLAY with the instance that is called
    #[arg(long, value_name = "PLACE", requires_all = ["generator", "dut", "call"])]
    sink: Option<Place>,
    /// What the device under test carries to the sink: NsIP of the caller, address dialled, NsIP called
    #[arg(long, value_name = "CALLER,DIALLED,CALLED", requires_all = ["generator", "dut", "sink"])]
    call: Option<Call>,
    /// Starts a command at a host, whose name and the command are appended
    #[arg(long, value_name = "COMMAND", default_value = "ssh -o BatchMode=yes")]
    remote_shell: String,
    /// Starts the gateway at the device under test, and for connections the sink's
    #[arg(
        long,
        value_name = "COMMAND",
        default_value = "systemctl start sluice-gateway"
    )]
    gateway_start: String,
    /// Stops it, also when it does not run
    #[arg(
        long,
        value_name = "COMMAND",
        default_value = "systemctl stop sluice-gateway"
    )]
    gateway_stop: String,
    /// Its configuration, which a run changes and puts back; for connections the sink's, too
    #[arg(long, value_name = "FILE", default_value = "/etc/sluice/sluice.toml")]
    gateway_config: String,
}

impl Hosts {
    fn places(&self) -> Result<Option<Places>, LabError> {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        let (Some(generator), Some(dut), Some(sink), Some(call)) =
            (&self.generator, &self.dut, &self.sink, self.call)
        else {
            return Ok(None);
        };
        let places = Places {
            generator: generator.clone(),
            dut: dut.clone(),
            sink: sink.clone(),
            flooder: self.flooder.clone(),
            shell: words(&self.remote_shell),
            gateway: Gateway {
                start: words(&self.gateway_start),
                stop: words(&self.gateway_stop),
                config: self.gateway_config.clone(),
                call,
            },
        };
        places.checked().map(Some).map_err(LabError::Request)
    }
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
        Suite::Tunnel { options, only } => {
            part.clone_from(only);
            (options, tunnel::run)
        }
        Suite::Footprint(options) => (options, footprint::run),
        Suite::Control(options) => (options, control::run),
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
    let places = options.hosts.places()?;
    if let (Some(_), Some(reason)) = (&places, cli.suite.stays_here()) {
        return Err(LabError::Request(reason.to_owned()).into());
    }
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
        places,
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
