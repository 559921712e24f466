//! Which core a thread, or a whole process, runs on.

use super::error::LabError;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::fs;
use std::path::PathBuf;

/// Keeps a thread on a core; 0 is the calling thread.
///
/// # Errors
/// When there is no such core.
pub fn pin(pid: i32, core: usize) -> Result<(), LabError> {
    let mut cores = CpuSet::new();
    cores
        .set(core)
        .and_then(|()| sched_setaffinity(Pid::from_raw(pid), &cores))
        .map_err(|errno| LabError::Privilege(format!("core {core} cannot be used: {errno}")))
}

/// Keeps all threads of a process on a core, also those that these will start.
///
/// # Errors
/// When there is no such process, or no such core.
pub fn pin_process(pid: u32, core: usize) -> Result<(), LabError> {
    let path = PathBuf::from(format!("/proc/{pid}/task"));
    for entry in fs::read_dir(&path).map_err(LabError::file(&path))? {
        let name = entry.map_err(LabError::file(&path))?.file_name();
        if let Some(thread) = name.to_str().and_then(|name| name.parse().ok()) {
            pin(thread, core)?;
        }
    }
    Ok(())
}
