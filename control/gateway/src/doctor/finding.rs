//! What a rule says: where, how bad, what it costs, and the fix.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// How much it matters, ascending.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// As it should be.
    Ok,
    /// Costs a little, or only in some uses; for an operator to know.
    Note,
    /// Costs speed or safety, or will stop the gateway one day.
    Warning,
    /// Packets are lost, or the gateway cannot start.
    Error,
}

impl Severity {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One rule's word about one place.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Verdict {
    pub(crate) severity: Severity,
    /// The file, device, key or address.
    pub(crate) place: String,
    /// The value that is there.
    pub(crate) found: String,
    /// What that costs; empty when all is well.
    pub(crate) cost: String,
    /// The exact command or edit; empty when all is well.
    pub(crate) fix: String,
    /// What `--fix` would do, when that is safe.
    #[serde(skip)]
    pub(crate) change: Option<Change>,
}

impl Verdict {
    pub(crate) fn new(
        severity: Severity,
        place: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            place: place.into(),
            found: found.into(),
            cost: String::new(),
            fix: String::new(),
            change: None,
        }
    }

    pub(crate) fn ok(place: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(Severity::Ok, place, found)
    }

    pub(crate) fn note(place: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(Severity::Note, place, found)
    }

    pub(crate) fn warning(place: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(Severity::Warning, place, found)
    }

    pub(crate) fn error(place: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(Severity::Error, place, found)
    }

    pub(crate) fn costs(mut self, cost: impl Into<String>) -> Self {
        self.cost = cost.into();
        self
    }

    /// For an operator to do.
    pub(crate) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    /// `--fix` may do it: it disturbs nobody, lasts until the next boot at most, and can be taken back.
    pub(crate) fn fix_by(mut self, change: Change) -> Self {
        self.fix = change.to_string();
        self.change = Some(change);
        self
    }
}

/// A verdict with the rule that gave it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Finding {
    /// The rule's name: lower case, words joined by `-`.
    pub(crate) check: &'static str,
    #[serde(flatten)]
    pub(crate) verdict: Verdict,
}

/// A change that `--fix` can make and `--undo` can take back. Its text is the command that does the same.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Change {
    /// A value in a file under `/proc/sys` or `/sys`.
    Write { file: PathBuf, value: String },
    /// The length of a device's transmit queue in packets.
    Queue { device: String, packets: u32 },
    /// Offload switches of a device, by the kernel's names.
    Offloads {
        device: String,
        switches: Vec<(String, bool)>,
    },
}

impl Change {
    /// A change of a setting below `/proc/sys`, like `net/ipv4/ip_forward`.
    pub(crate) fn setting(key: &str, value: impl Into<String>) -> Self {
        Self::Write {
            file: Path::new("/proc/sys").join(key),
            value: value.into(),
        }
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Write { file, value } => match file.strip_prefix("/proc/sys") {
                // sysctl(8) takes slashes, which a device name with a dot needs.
                Ok(key) => write!(f, "sysctl -w {}=\"{value}\"", key.display()),
                Err(_) => write!(f, "echo \"{value}\" > {}", file.display()),
            },
            Self::Queue { device, packets } => {
                write!(f, "ip link set dev {device} txqueuelen {packets}")
            }
            Self::Offloads { device, switches } => {
                write!(f, "ethtool -K {device}")?;
                for (name, on) in switches {
                    write!(f, " {name} {}", if *on { "on" } else { "off" })?;
                }
                Ok(())
            }
        }
    }
}
