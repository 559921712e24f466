//! Who looks into a device's receive queues: interrupts, which take the core that sends, or kernel threads on a core of ours.

use super::cores::pin;
use super::error::LabError;
use super::host::Host;
use super::process::Program;
use std::collections::BTreeSet;
use std::fs;

/// Has the queues of a device of the calling process's network looked into by kernel threads on `core`. `None`: by
/// interrupts again.
///
/// The device must be up and have its queues' polling (on veth: an XDP program, or GRO): the threads come with it, and are
/// others when it comes back.
///
/// # Errors
/// When the kernel refuses, or has no such threads (Linux 5.12).
pub fn poll_on(device: &str, core: Option<usize>) -> Result<(), LabError> {
    set_threaded(device, false)?;
    let Some(core) = core else {
        return Ok(());
    };
    // Kernel threads are named after the device alone, which other namespaces may have, too.
    let strangers = threads(device)?;
    set_threaded(device, true)?;
    let all = threads(device)?;
    let ours: Vec<i32> = all.difference(&strangers).copied().collect();
    // Some kernels keep the threads while they are not used.
    let ours = if ours.is_empty() {
        all.into_iter().collect()
    } else {
        ours
    };
    if ours.is_empty() {
        return Err(LabError::Reply {
            what: format!("polling of {device}"),
            text: "the kernel made no thread; is the device up, with GRO or an XDP program?".into(),
        });
    }
    ours.into_iter().try_for_each(|pid| pin(pid, core))
}

/// A mounted sysfs shows the devices of the namespace it was mounted in, so that another one is needed; `/run` is where
/// there is always a place for it, and only the script sees it there.
fn set_threaded(device: &str, on: bool) -> Result<(), LabError> {
    const SCRIPT: &str = "mount -t sysfs sysfs /run && echo $1 > /run/class/net/$0/threaded";
    let program = Program::new("unshare")
        .args(["--mount", "sh", "-c", SCRIPT, device])
        .arg(if on { "1" } else { "0" });
    Host::Here.succeed(&program).map(drop)
}

/// The pids of all kernel threads that poll a device of that name.
fn threads(device: &str) -> Result<BTreeSet<i32>, LabError> {
    let prefix = format!("napi/{device}-");
    let pids = fs::read_dir("/proc").map_err(LabError::file("/proc"))?;
    let ours = pids.filter_map(|entry| {
        let entry = entry.ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        name.starts_with(&prefix).then_some(pid)
    });
    Ok(ours.collect())
}
