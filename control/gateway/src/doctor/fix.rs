//! `--fix` and `--undo`: changes are written down with the former value before they are made, and taken back exactly.

use super::finding::{Change, Finding};
use crate::node::devices::Devices;
use crate::node::netlink::NetlinkError;
use crate::node::nic;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use thiserror::Error;

const FILE: &str = "doctor.json";
/// Another text after every boot.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";
/// Raised when the meaning of a field changes.
const VERSION: u32 = 1;

/// The record of former values could not be used.
#[derive(Debug, Error)]
pub(crate) enum RecordError {
    #[error("{}: {source}; nothing is changed without writing down what was before", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} cannot be read ({why}); move it away to give up what --undo would restore", path.display())]
    Content { path: PathBuf, why: String },
}

/// One change, and how it went.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Done {
    /// The command that does the same.
    pub(crate) command: String,
    /// The value before.
    pub(crate) former: String,
    /// Why it was not made, if it was not.
    pub(crate) error: Option<String>,
}

/// What `--undo` needs: for each thing changed, the change that restores it. Kept until it is taken back.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    /// The boot in which the changes were made: they do not outlive it.
    boot: String,
    former: Vec<Change>,
}

/// Makes every safe change that the findings ask for. One that the kernel refuses does not keep the others from
/// being made.
///
/// # Errors
/// When the record cannot be read or written.
pub(crate) fn apply(findings: &[Finding], state_dir: &Path) -> Result<Vec<Done>, RecordError> {
    let mut record = Record::load(state_dir)?;
    let mut done = Vec::new();
    for change in merged(findings) {
        let former = current(&change);
        if let Ok(former) = &former {
            record.add(former);
            record.save(state_dir)?;
        }
        done.push(Done {
            command: change.to_string(),
            former: former.as_ref().map(value).unwrap_or_default(),
            error: former.and_then(|_| make(&change)).err(),
        });
    }
    Ok(done)
}

/// Restores what was before the first `--fix`, last change first. What cannot be restored stays in the record, unless
/// its device has gone.
///
/// # Errors
/// When the record cannot be read or written.
pub(crate) fn undo(state_dir: &Path) -> Result<Vec<Done>, RecordError> {
    let mut record = Record::load(state_dir)?;
    let (mut done, mut left) = (Vec::new(), Vec::new());
    for former in record.former.drain(..).rev() {
        if is_gone(&former) {
            continue;
        }
        let now = current(&former);
        let command = former.to_string();
        let was = now.as_ref().map(value).unwrap_or_default();
        let error = now.and_then(|_| make(&former)).err();
        if error.is_some() {
            left.insert(0, former);
        }
        done.push(Done {
            command,
            former: was,
            error,
        });
    }
    record.former = left;
    if record.former.is_empty() {
        Record::remove(state_dir)?;
    } else {
        record.save(state_dir)?;
    }
    Ok(done)
}

/// Each change once, and a device's offloads together: some can only be on when others are.
fn merged(findings: &[Finding]) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    for change in findings
        .iter()
        .filter_map(|finding| finding.verdict.change.clone())
    {
        if changes.contains(&change) {
            continue;
        }
        if let Change::Offloads { device, switches } = &change
            && let Some(Change::Offloads { switches: all, .. }) = changes.iter_mut().find(
                |other| matches!(other, Change::Offloads { device: same, .. } if same == device),
            )
        {
            all.extend(switches.iter().cloned());
            continue;
        }
        changes.push(change);
    }
    changes
}

/// The change that restores what is there now.
fn current(change: &Change) -> Result<Change, String> {
    let text = |error: NetlinkError| error.to_string();
    Ok(match change {
        Change::Write { file, .. } => Change::Write {
            file: file.clone(),
            value: fs::read_to_string(file)
                .map_err(|error| error.to_string())?
                .trim()
                .to_owned(),
        },
        Change::Queue { device, .. } => {
            let link = Devices::open()
                .and_then(|mut devices| devices.link(device))
                .map_err(text)?;
            let link = link.ok_or_else(|| format!("device {device} does not exist"))?;
            Change::Queue {
                device: device.clone(),
                packets: link.queue,
            }
        }
        Change::Offloads { device, switches } => Change::Offloads {
            device: device.clone(),
            switches: nic::offloads(device)
                .map_err(text)?
                .into_iter()
                .filter(|offload| switches.iter().any(|(name, _)| *name == offload.name))
                .map(|offload| (offload.name, offload.on))
                .collect(),
        },
    })
}

fn make(change: &Change) -> Result<(), String> {
    match change {
        // An empty list is written as a line of its own: a write of no bytes reaches no kernel.
        Change::Write { file, value } => {
            fs::write(file, format!("{value}\n")).map_err(|error| error.to_string())
        }
        Change::Queue { device, packets } => {
            set_queue(device, *packets).map_err(|error| error.to_string())
        }
        Change::Offloads { device, switches } => {
            nic::set_offloads(device, switches).map_err(|error| error.to_string())?;
            let now: BTreeMap<String, bool> = nic::offloads(device)
                .map_err(|error| error.to_string())?
                .into_iter()
                .map(|offload| (offload.name, offload.on))
                .collect();
            let kept: Vec<&str> = switches
                .iter()
                .filter(|(name, on)| now.get(name) != Some(on))
                .map(|(name, _)| name.as_str())
                .collect();
            if kept.is_empty() {
                Ok(())
            } else {
                Err(format!("the kernel kept {} as it was", kept.join(", ")))
            }
        }
    }
}

fn set_queue(device: &str, packets: u32) -> Result<(), NetlinkError> {
    let mut devices = Devices::open()?;
    match devices.link(device)? {
        Some(link) => devices.set_queue(link.index, packets),
        None => Err(NetlinkError::Refused {
            what: format!("setting the queue of {device}"),
            errno: rustix::io::Errno::NODEV,
        }),
    }
}

fn is_gone(change: &Change) -> bool {
    match change {
        Change::Write { file, .. } => !file.exists(),
        Change::Queue { device, .. } | Change::Offloads { device, .. } => {
            let link = Devices::open().and_then(|mut devices| devices.link(device));
            matches!(link, Ok(None))
        }
    }
}

fn value(change: &Change) -> String {
    match change {
        Change::Write { value, .. } => format!("\"{value}\""),
        Change::Queue { packets, .. } => packets.to_string(),
        Change::Offloads { switches, .. } => {
            let state = |on: &bool| if *on { "on" } else { "off" };
            let all: Vec<String> = switches
                .iter()
                .map(|(name, on)| format!("{name} {}", state(on)))
                .collect();
            all.join(", ")
        }
    }
}

impl Record {
    fn load(state_dir: &Path) -> Result<Self, RecordError> {
        let path = state_dir.join(FILE);
        let empty = Self {
            version: VERSION,
            boot: fs::read_to_string(BOOT)
                .map_err(|source| RecordError::Io {
                    path: BOOT.into(),
                    source,
                })?
                .trim()
                .to_owned(),
            former: Vec::new(),
        };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(empty),
            Err(source) => return Err(RecordError::Io { path, source }),
        };
        let record: Self = serde_json::from_str(&text).map_err(|error| RecordError::Content {
            path: path.clone(),
            why: error.to_string(),
        })?;
        if record.version != VERSION {
            let why = format!("version {}, this program knows {VERSION}", record.version);
            return Err(RecordError::Content { path, why });
        }
        // Of another boot there is nothing left to take back.
        Ok(if record.boot == empty.boot {
            record
        } else {
            empty
        })
    }

    /// The oldest value of a thing is the one to restore.
    fn add(&mut self, former: &Change) {
        match former {
            Change::Write { file, .. } => {
                let mut all = self.former.iter();
                if !all
                    .any(|other| matches!(other, Change::Write { file: same, .. } if same == file))
                {
                    self.former.push(former.clone());
                }
            }
            Change::Queue { device, .. } => {
                let mut all = self.former.iter();
                if !all.any(
                    |other| matches!(other, Change::Queue { device: same, .. } if same == device),
                ) {
                    self.former.push(former.clone());
                }
            }
            Change::Offloads { device, switches } => {
                let mut all = self.former.iter_mut();
                let known = all.find_map(|other| match other {
                    Change::Offloads {
                        device: same,
                        switches,
                    } if same == device => Some(switches),
                    Change::Offloads { .. } | Change::Write { .. } | Change::Queue { .. } => None,
                });
                let Some(known) = known else {
                    self.former.push(former.clone());
                    return;
                };
                for switch in switches {
                    if !known.iter().any(|(name, _)| *name == switch.0) {
                        known.push(switch.clone());
                    }
                }
            }
        }
    }

    /// On disk when this returns.
    fn save(&self, state_dir: &Path) -> Result<(), RecordError> {
        let path = state_dir.join(FILE);
        let io = |source| RecordError::Io {
            path: path.clone(),
            source,
        };
        let text = serde_json::to_vec_pretty(self).map_err(|error| io(error.into()))?;
        // As the gateway makes it.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state_dir)
            .map_err(io)?;
        let new = state_dir.join(format!("{FILE}.new"));
        let mut file = File::create(&new).map_err(io)?;
        file.write_all(&text).map_err(io)?;
        file.sync_all().map_err(io)?;
        fs::rename(&new, &path).map_err(io)
    }

    fn remove(state_dir: &Path) -> Result<(), RecordError> {
        let path = state_dir.join(FILE);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(RecordError::Io { path, source })
            }
            _ => Ok(()),
        }
    }
}
