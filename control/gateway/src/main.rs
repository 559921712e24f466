//! The `sluice` binary: parses the command line and says how it went.

use clap::Parser;
use sluice::cli::{self, Cli};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to do when standard error is gone too.
            let _ = writeln!(std::io::stderr(), "sluice: {error}");
            ExitCode::FAILURE
        }
    }
}
