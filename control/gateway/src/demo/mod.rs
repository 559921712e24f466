//! `sluice demo`: two sites on this machine, real programs that talk across them, and what came of it.
//!
//! The steps are listed in [`show`], in the order in which a watcher sees them.

mod sites;
mod web;
mod http;
mod transfer;
mod secrecy;
mod datagram;
mod failure;
mod keep;

use clap::Args;
use sites::Demo;
use sluice_perf::lab::privilege::{self, Privilege};
use sluice_perf::lab::scratch::{Scratch, on_interrupt};
use sluice_perf::lab::{LabError, tools};
use sluice_perf::report::{Environment, Goal, Report, ReportError, Row};
use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// `sluice demo`
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    /// Write the figures to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Leave the sites up at the end until Ctrl-C, and say how to enter them
    #[arg(long)]
    pub keep: bool,
    /// What the gateways' links are: tun, af_xdp or auto
    #[arg(long, value_name = "LINK", default_value = "tun")]
    pub link: String,
}

#[derive(Debug, Error)]
pub enum DemoError {
    #[error(transparent)]
    Lab(#[from] LabError),
    #[error(transparent)]
    Report(#[from] ReportError),
    #[error("the path of this program is not known: {0}")]
    Exe(std::io::Error),
    #[error("not as it should be: {0}")]
    Missed(String),
}

/// Runs the whole demonstration. Must be called while the process has one thread: an ordinary user's demonstration
/// moves into a user namespace.
///
/// # Errors
/// When something cannot be built, and when a check fails.
pub fn run(options: &Options) -> Result<(), DemoError> {
    let privilege = privilege::acquire()?;
    on_interrupt()?;
    let scratch = Scratch::new("sluice-demo")?;
    let exe = std::env::current_exe().map_err(DemoError::Exe)?;
    let mut report = Report::new("demo", environment());
    say("two sites with two gateways each, three web servers, clients ...");
    let mut demo = Demo::new(&exe, scratch, &options.link)?;
    show(&mut demo, &mut report)?;
    say(format_args!("\n{}", report.table()));
    if let Some(path) = &options.json {
        report.write_json(path)?;
    }
    if options.keep {
        demo.mend()?;
        keep::until_interrupted(&demo, privilege == Privilege::UserNamespace);
    }
    let missed: Vec<&str> = report.missed().map(|row| row.name.as_str()).collect();
    if missed.is_empty() {
        Ok(())
    } else {
        Err(DemoError::Missed(missed.join(", ")))
    }
}

/// What is shown, in order.
fn show(demo: &mut Demo, report: &mut Report) -> Result<(), DemoError> {
    for family in Family::BOTH {
        say(format_args!(
            "300 requests to {} ({family}) ...",
            Demo::web_name()
        ));
        http::name(demo, family, report)?;
        http::spread(demo, family, report)?;
        http::by_instance(demo, family, report)?;
        http::hairpin(demo, family, report)?;
        http::same_node(demo, family, report)?;
    }
    for family in Family::BOTH {
        say(format_args!("ping, a 60 KB datagram ({family}) ..."));
        datagram::ping(demo, family, report)?;
        datagram::large(demo, family, report)?;
    }
    for family in Family::BOTH {
        say(format_args!(
            "100 MB, and again with 2 % loss on the wire ({family}) ..."
        ));
        transfer::hashes(demo, family, report)?;
        say(format_args!(
            "TCP by ServiceIP and by plain kernel routing ({family}) ..."
        ));
        transfer::throughput(demo, family, report)?;
        say(format_args!(
            "100 MB, with tcpdump on the wire ({family}) ..."
        ));
        secrecy::wire(demo, family, report)?;
    }
    say("a web server is killed ...");
    failure::failover(demo, report);
    say("root and cluster managers are stopped ...");
    failure::managers_down(demo, report)?;
    failure::accounting(demo, report)
}

/// One line for the watcher.
fn say(line: impl Display) {
    // Nobody watches when standard output is closed; the figures are still made.
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn environment() -> Environment {
    let programs: Vec<(PathBuf, &[&str])> = [
        ("nginx", &["-v"][..]),
        ("curl", &["--version"][..]),
        ("iperf3", &["--version"][..]),
        ("ping", &["-V"][..]),
    ]
    .into_iter()
    .filter_map(|(name, arguments)| Some((tools::find(name).ok()?, arguments)))
    .collect();
    let programs: Vec<(&Path, &[&str])> = programs
        .iter()
        .map(|(path, arguments)| (path.as_path(), *arguments))
        .collect();
    Environment::of_this_machine(&programs)
}

/// A check that is right or wrong: 1 or 0.
fn check(name: &str, family: Family, right: bool) -> Row {
    Row::single(&family.row(name), f64::from(u8::from(right)), "1 = yes")
        .with_goal(Goal::ValueIs(1.0))
}

/// IPv4 or IPv6. Row names of IPv6 end in `_v6`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Family {
    V4,
    V6,
}

impl Family {
    const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The position in pairs of addresses.
    const fn index(self) -> usize {
        match self {
            Self::V4 => 0,
            Self::V6 => 1,
        }
    }

    /// What keeps curl and ping to the family.
    const fn flag(self) -> &'static str {
        match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        }
    }

    fn row(self, name: &str) -> String {
        match self {
            Self::V4 => name.to_owned(),
            Self::V6 => format!("{name}_v6"),
        }
    }
}

impl Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}
