//! What the interface had before this gateway changed it, on disk, so that removal brings it back.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use thiserror::Error;

#[derive(Debug, Error)]
pub enum MemoryError {
    #[error("{path}: {source}; check `gateway.state_dir` and its permissions", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{path} is not of this version: {source}; move it away, and what it says stays set on the interface",
        path = path.display()
    )]
    Syntax {
        path: PathBuf,
        source: serde_json::Error,
    },
}

/// One changed value, by the names of [`sluice_hw_profiles::Key`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Changed {
    /// What the kernel had.
    pub(super) before: String,
    /// What was set instead.
    pub(super) set: String,
}

/// Everything in the file.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Memory {
    pub(super) interface: String,
    pub(super) changed: BTreeMap<String, Changed>,
}

impl Memory {
    /// What was written last, or nothing.
    pub(super) fn read(file: &Path) -> Result<Self, MemoryError> {
        let path = file.to_owned();
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| MemoryError::Syntax { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(MemoryError::Io { path, source }),
        }
    }

    /// Writes it whole: a reader sees the old or the new. Nothing to remember is no file.
    pub(super) fn write(&self, file: &Path) -> Result<(), MemoryError> {
        let path = file.to_owned();
        let io = |source| MemoryError::Io {
            path: path.clone(),
            source,
        };
        if self.changed.is_empty() {
            return match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io(error)),
                _ => Ok(()),
            };
        }
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(io)?;
        }
        let fresh = path.with_extension("json.new");
        let mut written = File::create(&fresh).map_err(io)?;
        let bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        written.write_all(&bytes).map_err(io)?;
        written.sync_all().map_err(io)?;
        fs::rename(&fresh, &path).map_err(io)
    }
}

/// Which interface is meant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Side {
    Underlay,
    /// The NIC towards hosts that are instances.
    Service,
}

impl Side {
    pub(super) const ALL: [Self; 2] = [Self::Underlay, Self::Service];

    /// Where its memory is.
    pub(super) fn file(self, state_dir: &Path) -> PathBuf {
        state_dir.join(match self {
            Self::Underlay => "hardware.json",
            Self::Service => "hardware-service.json",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_survives_and_ends_with_the_last_change() {
        let dir = std::env::temp_dir().join(format!("sluice-hardware-{}", std::process::id()));
        let file = Side::Underlay.file(&dir);
        assert_ne!(file, Side::Service.file(&dir));
        assert_eq!(Memory::read(&file).unwrap(), Memory::default());
        let changed = Changed {
            before: "0".to_owned(),
            set: "5".to_owned(),
        };
        let mut memory = Memory {
            interface: "eth0".to_owned(),
            changed: BTreeMap::from([("gro_flush_timeout_ns".to_owned(), changed)]),
        };
        memory.write(&file).unwrap();
        let file = Side::Underlay.file(&dir);
        assert_ne!(file, Side::Service.file(&dir));
        assert_eq!(Memory::read(&file).unwrap(), memory);
        memory.changed.clear();
        memory.write(&file).unwrap();
        assert!(!file.exists());
        fs::write(&file, "{}").unwrap();
        let error = Memory::read(&file).unwrap_err().to_string();
        assert!(
            error.contains("hardware.json is not of this version"),
            "{error}"
        );
        fs::remove_dir_all(&dir).unwrap();
    }
}
