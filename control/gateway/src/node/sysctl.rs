//! Kernel settings under `/proc/sys/net`, of the network namespace the calling thread is in.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// A setting that could not be made.
#[derive(Debug, Error)]
#[error("setting {} to {value}: {source}", path.display())]
pub struct SysctlError {
    path: PathBuf,
    value: String,
    source: io::Error,
}

/// Whether the kernel has IPv6 at all.
pub(crate) fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// Sets `net.ipv4.conf.<device>.<key>`.
pub(crate) fn ipv4(device: &str, key: &str, value: u8) -> Result<(), SysctlError> {
    set(&conf("ipv4", device).join(key), value)
}

/// Sets `net.ipv6.conf.<device>.<key>`; nothing where the kernel has no IPv6.
pub(crate) fn ipv6(device: &str, key: &str, value: u8) -> Result<(), SysctlError> {
    if has_ipv6() {
        set(&conf("ipv6", device).join(key), value)
    } else {
        Ok(())
    }
}

/// Makes the host a router. It stays one when the gateway goes: others (Docker) rely on the same switch.
///
/// A host that forwards IPv6 no longer listens to router advertisements, and would lose its own default route with the
/// next expiry; interfaces that did listen are told to go on (`accept_ra` 2).
pub(crate) fn forwarding() -> Result<(), SysctlError> {
    set(Path::new("/proc/sys/net/ipv4/ip_forward"), 1)?;
    let switch = Path::new("/proc/sys/net/ipv6/conf/all/forwarding");
    if !has_ipv6() || read(switch) == Some(1) {
        return Ok(());
    }
    for entry in fs::read_dir("/proc/sys/net/ipv6/conf")
        .into_iter()
        .flatten()
        .flatten()
    {
        let listens = entry.path().join("accept_ra");
        if read(&listens) == Some(1) {
            set(&listens, 2)?;
        }
    }
    set(switch, 1)
}

fn conf(family: &str, device: &str) -> PathBuf {
    Path::new("/proc/sys/net")
        .join(family)
        .join("conf")
        .join(device)
}

fn read(path: &Path) -> Option<u8> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Writes only what differs, so that a read-only `/proc/sys` that already has the right value is no obstacle.
fn set(path: &Path, value: u8) -> Result<(), SysctlError> {
    if read(path) == Some(value) {
        return Ok(());
    }
    fs::write(path, value.to_string()).map_err(|source| SysctlError {
        path: path.to_owned(),
        value: value.to_string(),
        source,
    })
}
