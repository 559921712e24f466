//! Real ping, by somebody who counts every answer, also a late one.

use super::error::LabError;
use super::process::Program;
use super::tools;

/// Seconds that it waits for what is missing.
const PATIENCE_S: &str = "2";

/// `ping` with `count` echo requests; where to, and what else, is to be appended.
///
/// All leave at once, and it ends when all are answered. Sent one after the other they would not all be waited for: once one
/// is answered, ping waits for the last only as long as its interval, or twice the longest round trip, and calls what comes
/// later lost. More than three at once take root.
///
/// # Errors
/// When there is no ping.
pub fn ping(count: u32) -> Result<Program, LabError> {
    let count = count.to_string();
    let arguments = [
        "-c", &count, "-l", &count, "-i", PATIENCE_S, "-W", PATIENCE_S,
    ];
    Ok(Program::new(tools::find("ping")?).args(arguments))
}
