//! All profiles at hand: those in the binary, and those of the operator's directory, which win.

use crate::profile::{Profile, ProfileError};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

macro_rules! shipped {
    ($($name:literal)*) => {
        &[$((concat!($name, ".toml"), include_str!(concat!("../profiles/", $name, ".toml")))),*]
    };
}

/// The files in the binary: name and text.
const SHIPPED: &[(&str, &str)] = shipped![
    "amazon-ena" "azure" "broadcom-bnxt" "connectx" "constrained-arm" "generic" "google-gvnic" "intel-82599"
    "intel-e810" "intel-i225" "intel-x710" "raspberry-pi-4" "raspberry-pi-5" "stmmac" "veth" "virtio-net"
];

/// Profiles by name.
#[derive(Clone, Debug)]
pub struct Catalog {
    profiles: BTreeMap<String, (Profile, Option<PathBuf>)>,
}

/// Why the operator's directory cannot be used.
#[derive(Debug, Error)]
pub enum CatalogError {
    #[error(transparent)]
    Profile(#[from] ProfileError),
    #[error("{path}: {source}; check the directory and its permissions", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}: profile `{name}` must be in a file named {name}.toml", path = path.display())]
    FileName { path: PathBuf, name: String },
}

impl Catalog {
    /// The shipped ones.
    #[must_use]
    pub fn shipped() -> Self {
        let profiles = SHIPPED
            .iter()
            .map(|(file, text)| {
                let profile = Profile::parse(text, file)
                    .unwrap_or_else(|error| unreachable!("a test parses every one: {error}"));
                (profile.name.as_str().to_owned(), (profile, None))
            })
            .collect();
        Self { profiles }
    }

    /// The shipped ones, with every `*.toml` of `directory`, if there is one, added or in place of one of its name.
    ///
    /// # Errors
    /// When a file cannot be read or is no profile.
    pub fn with_directory(directory: &Path) -> Result<Self, CatalogError> {
        let mut catalog = Self::shipped();
        let read = |path: &Path| {
            let path = path.to_owned();
            move |source| CatalogError::Read { path, source }
        };
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(catalog),
            Err(error) => return Err(read(directory)(error)),
        };
        for entry in entries {
            let path = entry.map_err(read(directory))?.path();
            if path.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            let text = fs::read_to_string(&path).map_err(read(&path))?;
            let profile = Profile::parse(&text, &path.display().to_string())?;
            let name = profile.name.as_str().to_owned();
            if path.file_stem().is_none_or(|stem| stem != name.as_str()) {
                return Err(CatalogError::FileName { path, name });
            }
            catalog.profiles.insert(name, (profile, Some(path)));
        }
        Ok(catalog)
    }

    /// All, by name.
    pub fn profiles(&self) -> impl Iterator<Item = &Profile> {
        self.profiles.values().map(|(profile, _)| profile)
    }

    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Profile> {
        self.profiles.get(name).map(|(profile, _)| profile)
    }

    /// The file a profile came from; `None` for a shipped one.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<&Path> {
        self.profiles.get(name)?.1.as_deref()
    }
}
