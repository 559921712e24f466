//! The suites of `sluice-perf`: each measures one thing and returns a report.

pub mod tun;
pub mod engine;
pub mod fastpath;
pub mod control;
pub mod footprint;
pub mod tunnel;
pub mod places;
mod pair;
mod nodes;
mod gateway;
mod ends;
mod ground;

use crate::lab::LabError;
use crate::lab::tools;
use crate::report::Environment;
use places::Places;
use std::path::{Path, PathBuf};

/// What every suite is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The `sluice` program that is measured.
    pub sluice: PathBuf,
    /// Fewer and shorter runs: about a minute.
    pub quick: bool,
    /// Hosts and interfaces in place of namespaces, for the suites that can.
    pub places: Option<Places>,
    /// Only this part of the suite, where it has parts.
    pub only: Option<String>,
    /// Say what is being measured, on standard error.
    pub say: fn(&str),
}

/// This program, which is at the same path on every host.
fn sluice_perf() -> Result<PathBuf, LabError> {
    std::env::current_exe().map_err(LabError::file("this program"))
}

/// This machine, with the versions of the programs a suite uses.
fn environment(programs: &[&str]) -> Environment {
    let found: Vec<(PathBuf, &[&str])> = programs
        .iter()
        .filter_map(|name| {
            let argument: &[&str] = match *name {
                "ip" => &["-V"],
                _ => &["--version"],
            };
            Some((tools::find(name).ok()?, argument))
        })
        .collect();
    let found: Vec<(&Path, &[&str])> = found
        .iter()
        .map(|(path, arguments)| (path.as_path(), *arguments))
        .collect();
    Environment::of_this_machine(&found)
}
