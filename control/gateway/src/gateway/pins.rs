//! Where programs stay attached when the process is killed: a directory of the kernel's BPF file system, one per gateway.

use sluice_link::bpf::pins;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where systemd and every distribution mount it.
const FILE_SYSTEM: &str = "/sys/fs/bpf";

/// The directory, if there can be one.
#[derive(Clone, Debug)]
pub(crate) struct Pins(Result<PathBuf, String>);

impl Pins {
    /// Of the gateway that keeps its state in `state_dir`: its next process finds it there.
    pub(crate) fn of(state_dir: &Path) -> Self {
        if !is_mounted(&fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default()) {
            return Self(Err(format!("{FILE_SYSTEM} is no BPF file system")));
        }
        Self(Ok(directory(state_dir)))
    }

    /// Detaches what an earlier process left, so that others can be attached.
    pub(crate) fn prepare(&mut self) {
        if let Ok(dir) = &self.0
            && let Err(error) = pins::prepare(dir)
        {
            self.0 = Err(format!("{}: {error}", dir.display()));
        }
    }

    pub(crate) fn dir(&self) -> Option<&Path> {
        self.0.as_deref().ok()
    }

    /// Why programs end with the process, if they do.
    pub(crate) fn missing(&self) -> Option<&str> {
        self.0.as_ref().err().map(String::as_str)
    }
}

/// Detaches what a gateway that is gone left attached.
///
/// # Errors
/// Names the directory.
pub(crate) fn remove(state_dir: &Path) -> io::Result<()> {
    let dir = directory(state_dir);
    pins::clear(&dir)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", dir.display())))
}

/// Of a path without what such a file system refuses in names.
fn directory(state_dir: &Path) -> PathBuf {
    let name: String = state_dir
        .to_string_lossy()
        .trim_matches('/')
        .chars()
        .map(|letter| {
            if letter.is_alphanumeric() {
                letter
            } else {
                '-'
            }
        })
        .collect();
    Path::new(FILE_SYSTEM).join("sluice").join(name)
}

/// By proc_pid_mountinfo(5): the fifth field is the place, and the type follows a lone `-`.
fn is_mounted(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let is_there = line.split(' ').nth(4) == Some(FILE_SYSTEM);
        let kind = line
            .split(" - ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        is_there && kind == Some("bpf")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_directory_has_one_of_its_own() {
        assert_eq!(
            directory(Path::new("/var/lib/sluice.d/a_b")),
            Path::new("/sys/fs/bpf/sluice/var-lib-sluice-d-a-b")
        );
    }

    #[test]
    fn only_a_bpf_file_system_will_do() {
        let sysfs = "23 29 0:22 / /sys rw shared:7 - sysfs sysfs rw\n";
        assert!(!is_mounted(sysfs));
        let other = "31 23 0:28 / /sys/fs/bpf rw - tmpfs bpf rw\n";
        assert!(!is_mounted(&format!("{sysfs}{other}")));
        let bpf = "31 23 0:28 / /sys/fs/bpf rw,nosuid shared:9 - bpf bpf rw,mode=700\n";
        assert!(is_mounted(&format!("{sysfs}{bpf}")));
    }
}
