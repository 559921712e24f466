//! Settings made on an interface and taken back: only what differs, remembered before it is changed, read back after.

use super::device::Device;
use super::knob::Knobs;
use super::memory::{Changed, Memory, MemoryError};
use crate::node::netlink::NetlinkError;
use sluice_hw_profiles::Key;
use std::collections::BTreeMap;
use std::path::Path;

/// One setting that is wanted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Wanted {
    pub(super) key: Key,
    /// As the profile says it, or as the kernel would once it is applied.
    pub(super) value: String,
    /// `profile` or `configuration`.
    pub(super) by: &'static str,
}

/// What became of them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Applied {
    /// As the kernel would say them, `workers` and other words worked out.
    pub(super) wanted: Vec<Wanted>,
    /// Settings that the kernel does not have as wanted, and why.
    pub(super) refused: BTreeMap<Key, String>,
}

/// Makes the settings of `wanted`, and takes back what an earlier start set and nobody wants any longer. `cores` are the
/// workers', `file` is the interface's memory.
///
/// # Errors
/// When what was there before cannot be remembered; then nothing is changed.
pub(super) fn apply(
    device: &Device,
    wanted: Vec<Wanted>,
    cores: &[usize],
    file: &Path,
) -> Result<Applied, ApplyError> {
    let interface = &device.facts.interface;
    let mut memory = Memory::read(file)?;
    if memory.interface != *interface {
        undo(file)?;
        memory = Memory {
            interface: interface.clone(),
            changed: BTreeMap::new(),
        };
    }
    let knobs = Knobs::new(device)?;
    let of_no_use = |name: &str| wanted.iter().all(|wanted| wanted.key.name() != name);
    take_back(&knobs, &mut memory, of_no_use);

    let mut applied = Applied::default();
    // Interrupts and the table of hashes are those of the queues there are then.
    let (queues, others): (Vec<Wanted>, Vec<Wanted>) = wanted
        .into_iter()
        .partition(|wanted| wanted.key == Key::Queues);
    for mut stage in [queues, others] {
        for wanted in &mut stage {
            wanted.value = knobs.resolve(wanted.key, &wanted.value, cores);
        }
        make(&knobs, &stage, &mut memory, &mut applied, file)?;
        applied.wanted.extend(stage);
    }
    for (key, why) in &applied.refused {
        let value = applied
            .wanted
            .iter()
            .find(|wanted| wanted.key == *key)
            .map_or("", |wanted| wanted.value.as_str());
        tracing::warn!("{}", refusal(*key, value, interface, why));
    }
    Ok(applied)
}

/// Changes what differs, remembers it first, and looks what came of it.
fn make(
    knobs: &Knobs<'_>,
    wanted: &[Wanted],
    memory: &mut Memory,
    applied: &mut Applied,
    file: &Path,
) -> Result<(), ApplyError> {
    let mut changes = Vec::new();
    for Wanted { key, value, .. } in wanted {
        match knobs.read(*key) {
            Ok(actual) if actual == *value => {}
            Ok(before) => {
                let changed = memory
                    .changed
                    .entry(key.name().to_owned())
                    // The oldest is what the machine had without us.
                    .or_insert_with(|| Changed {
                        before,
                        set: value.clone(),
                    });
                changed.set.clone_from(value);
                changes.push((*key, value.clone()));
            }
            Err(why) => {
                applied.refused.insert(*key, why.0);
            }
        }
    }
    memory.write(file)?;
    for (key, why) in knobs.write(&changes) {
        applied.refused.insert(key, why.0);
    }
    for (key, value) in &changes {
        let why = match knobs.read(*key) {
            Ok(actual) if actual == *value => {
                let interface = &memory.interface;
                tracing::info!(interface, %key, value, "set");
                continue;
            }
            Ok(actual) => {
                // What did not change needs no way back.
                let unchanged = |changed: &Changed| changed.before == actual;
                if memory.changed.get(key.name()).is_some_and(unchanged) {
                    memory.changed.remove(key.name());
                }
                format!("the kernel made it {actual}")
            }
            Err(why) => why.0,
        };
        applied.refused.entry(*key).or_insert(why);
    }
    Ok(memory.write(file)?)
}

/// A refused setting, with the way out.
pub(super) fn refusal(key: Key, value: &str, interface: &str, why: &str) -> String {
    format!(
        "{key} = {value} on {interface}: {why}; set `hardware.set.{key}` to another value, or name \"{key}\" in \
         `hardware.keep`"
    )
}

/// Takes back everything that is remembered in that file. An interface that is gone took its settings with it.
///
/// # Errors
/// When the memory cannot be read or written.
pub(super) fn undo(file: &Path) -> Result<(), ApplyError> {
    let mut memory = Memory::read(file)?;
    if memory.changed.is_empty() {
        return Ok(());
    }
    match Device::look(&memory.interface) {
        Ok(device) => take_back(&Knobs::new(&device)?, &mut memory, |_| true),
        Err(error) => tracing::info!(%error, "nothing to take back"),
    }
    memory.changed.clear();
    Ok(memory.write(file)?)
}

/// Takes back the remembered settings that `which` chooses, the last first, and forgets them. One that somebody else
/// has changed since stays.
fn take_back(knobs: &Knobs<'_>, memory: &mut Memory, which: impl Fn(&str) -> bool) {
    let interface = memory.interface.clone();
    for &key in Key::ALL.iter().rev().filter(|key| which(key.name())) {
        let Some(changed) = memory.changed.remove(key.name()) else {
            continue;
        };
        match knobs.read(key) {
            Ok(actual) if actual == changed.set => {
                for (key, why) in knobs.write(&[(key, changed.before.clone())]) {
                    let value = &changed.before;
                    tracing::warn!(interface, %key, value, why = why.0, "not taken back");
                }
            }
            Ok(actual) => {
                let value = &changed.set;
                tracing::info!(interface, %key, value, actual, "changed by somebody else: it stays");
            }
            Err(why) => tracing::warn!(interface, %key, why = why.0, "not taken back"),
        }
    }
}

/// Why settings were neither made nor taken back.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}
