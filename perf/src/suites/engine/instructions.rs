//! Instructions per packet, counted by callgrind: the figure that repeats on a noisy machine.
//!
//! The program runs itself under callgrind twice, with few and with more packets; the difference is the cost of the
//! packets, and a third run without the engine's call is what making packets costs.

use super::bench::{Direction, Path, Underlay};
use crate::lab::{LabError, tools};
use std::process::Command;

const FEW: usize = 1 << 12;
const MANY: usize = 1 << 15;

/// What the program does when callgrind runs it: makes `flows`, then sends `packets`, or only makes them.
///
/// # Errors
/// When memory cannot be mapped.
pub fn spin(
    direction: Direction,
    packets: usize,
    idle: bool,
    flows: usize,
) -> Result<(), LabError> {
    let mut path = Path::new(flows, Underlay::Bare)?;
    if idle {
        path.only_make(direction, packets);
    } else {
        path.only_send(direction, packets);
    }
    Ok(())
}

/// Instructions of one packet on that half of the path.
///
/// # Errors
/// When callgrind is missing or fails.
pub(super) fn per_packet(direction: Direction) -> Result<f64, LabError> {
    let whole = count(direction, MANY, false)? - count(direction, FEW, false)?;
    let making = count(direction, MANY, true)? - count(direction, FEW, true)?;
    Ok((whole - making) / (MANY - FEW) as f64)
}

fn count(direction: Direction, packets: usize, idle: bool) -> Result<f64, LabError> {
    let exe = std::env::current_exe().map_err(LabError::file("/proc/self/exe"))?;
    let valgrind = tools::find("valgrind")?;
    let output = Command::new(&valgrind)
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        // Making tables and flows is not counted: hash tables with random keys make it differ by more than the engine.
        .args([
            "--toggle-collect=*::only_send",
            "--toggle-collect=*::only_make",
        ])
        .arg(exe)
        .args([
            "spin",
            match direction {
                Direction::Outbound => "outbound",
                Direction::Inbound => "inbound",
            },
        ])
        .arg(packets.to_string())
        .args(idle.then_some("--idle"))
        .output()
        .map_err(LabError::file(valgrind))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // "==123== Collected : 456"; nothing is collected when the program's symbols were stripped.
    said.lines()
        .find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok())
        .filter(|collected: &f64| *collected > 0.0)
        .ok_or_else(|| LabError::Reply {
            what: "instructions counted by callgrind (are symbols stripped from this program?)"
                .to_owned(),
            text: said,
        })
}
