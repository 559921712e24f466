//! One profile: what a file may say, and what it must say to be one.

use crate::facts::PciId;
use crate::settings::Settings;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// The name of the profile that fits every machine: its `[match]` may be empty.
pub(crate) const GENERIC: &str = "generic";

/// A NIC family or board. Made by [`Profile::parse`], which refuses what cannot be.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Profile {
    pub name: Name,
    /// For people: the family, in words.
    pub title: String,
    pub verified: Verified,
    /// Where the facts come from: URLs, or `measured`.
    pub source: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Kernel parameters that help; shown, as only the boot loader can set them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernel_command_line: Vec<String>,
    /// Settings are taken back when the gateway stops, not only when it is removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub undo_at_stop: bool,
    #[serde(rename = "match")]
    pub rules: Match,
    pub link: LinkFacts,
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    /// Settings for every link.
    #[serde(default, skip_serializing_if = "is_default")]
    pub set: Settings,
    /// Settings that are added while AF_XDP drives the interface.
    #[serde(default, skip_serializing_if = "is_default")]
    pub set_af_xdp: Settings,
}

fn is_default(settings: &Settings) -> bool {
    *settings == Settings::default()
}

/// 1 to 32 lower-case letters, digits and `-`.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Name(String);

impl Name {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn check(text: &str) -> Result<Self, String> {
        let valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if (1..=32).contains(&text.len()) && text.bytes().all(valid) {
            Ok(Self(text.to_owned()))
        } else {
            Err("expected 1 to 32 lower-case letters, digits or `-`".to_owned())
        }
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::check(&String::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How its facts are known.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verified {
    /// Read in documentation or driver source.
    Docs,
    /// Seen by running it.
    Lab,
}

/// Which machines a profile is for. Every list that is not empty must have the machine's value, except `pci`, which
/// makes a match better: a family gets new device ids.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// Names of kernel drivers, or of kinds of virtual devices like `veth`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drivers: Vec<String>,
    /// Vendor and device, like `8086:1592`, or `8086:*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pci: Vec<PciPattern>,
    /// How the device tree's model begins, like `Raspberry Pi 4`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// Machines as `uname -m` says, like `aarch64`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub machines: Vec<String>,
    /// At most so much memory; MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib_max: Option<u64>,
}

/// What the family does with XDP, as far as its driver's version does not decide.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LinkFacts {
    /// The link to use when everything is there.
    pub recommended: crate::Link,
    pub xdp: Xdp,
    pub zero_copy: ZeroCopy,
}

/// Where an XDP program of this family runs.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Xdp {
    /// In the driver.
    Native,
    /// Only behind it, on packets that the kernel has made already.
    Generic,
}

/// Whether the driver takes AF_XDP's memory as its own.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ZeroCopy {
    Yes,
    No,
    /// It depends on the driver's version: the kernel is asked.
    Kernel,
}

/// Bounds that settings cannot move.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The longest MTU with an XDP program in the driver (without multi-buffer); bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xdp_mtu_max: Option<crate::Within<1280, 65535>>,
    /// Queue pairs that the family has at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queues_max: Option<crate::Within<1, 1024>>,
    /// Ring entries that the family has at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ring_max: Option<crate::Within<16, 32768>>,
}

impl Limits {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A PCI vendor with one device or, as `*`, all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PciPattern {
    pub vendor: u16,
    pub device: Option<u16>,
}

impl PciPattern {
    #[must_use]
    pub fn matches(self, id: PciId) -> bool {
        self.vendor == id.vendor && self.device.is_none_or(|device| device == id.device)
    }
}

impl fmt::Display for PciPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.device {
            Some(device) => write!(f, "{:04x}:{device:04x}", self.vendor),
            None => write!(f, "{:04x}:*", self.vendor),
        }
    }
}

impl FromStr for PciPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hex = |text: &str| {
            (text.len() == 4)
                .then(|| u16::from_str_radix(text, 16).ok())
                .flatten()
        };
        let parsed = text.split_once(':').and_then(|(vendor, device)| {
            let vendor = hex(vendor)?;
            let device = match device {
                "*" => None,
                device => Some(hex(device)?),
            };
            Some(Self { vendor, device })
        });
        parsed.ok_or_else(|| {
            format!("`{text}`: expected a PCI vendor and device like \"8086:1592\" or \"8086:*\"")
        })
    }
}

impl Serialize for PciPattern {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PciPattern {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Why a file is no profile.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum ProfileError {
    /// A key or value that TOML or a type refuses.
    #[error("{file}:{line}: `{text}`: {message}")]
    Text {
        file: String,
        line: usize,
        /// The line, or the one with the key when a list goes over several.
        text: String,
        message: String,
    },
    /// Values that do not go together.
    #[error("{file}: `{key}` = {value}: {expected}")]
    Value {
        file: String,
        key: &'static str,
        value: String,
        expected: String,
    },
}

impl Profile {
    /// Parses and checks a profile; `file` only names it in errors.
    ///
    /// # Errors
    /// See [`ProfileError`]; the first thing that is wrong.
    pub fn parse(text: &str, file: &str) -> Result<Self, ProfileError> {
        let profile: Self = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let (line, text) = place(text, at);
            ProfileError::Text {
                file: file.to_owned(),
                line,
                text,
                message: error.message().to_owned(),
            }
        })?;
        profile
            .check()
            .map_err(|(key, value, expected)| ProfileError::Value {
                file: file.to_owned(),
                key,
                value,
                expected,
            })?;
        Ok(profile)
    }

    /// As a file that [`Profile::parse`] reads back to the same.
    #[must_use]
    pub fn render(&self) -> String {
        toml::to_string(self)
            .unwrap_or_else(|_| unreachable!("a profile has tables, lists, texts and numbers only"))
    }

    /// What no single type can say: key, value, what was expected.
    fn check(&self) -> Result<(), (&'static str, String, String)> {
        let wrong = |key, value: String, expected: &str| Err((key, value, expected.to_owned()));
        let quoted = |text: &str| format!("\"{text}\"");
        if self.title.trim().is_empty() {
            return wrong(
                "title",
                quoted(&self.title),
                "expected the family's name in words",
            );
        }
        for source in &self.source {
            if source != "measured" && !source.starts_with("https://") {
                let expected = "expected URLs that begin with https://, or \"measured\"";
                return wrong("source", quoted(source), expected);
            }
        }
        let measured = self.source.iter().any(|source| source == "measured");
        match self.verified {
            Verified::Lab if !measured => {
                let expected = "needs \"measured\" in `source`, or `verified` = \"docs\"";
                return wrong("verified", quoted("lab"), expected);
            }
            Verified::Docs if self.source.iter().all(|source| source == "measured") => {
                let expected = "needs the URL of the documentation in `source`";
                return wrong("verified", quoted("docs"), expected);
            }
            Verified::Docs | Verified::Lab => {}
        }
        if self.rules == Match::default() && self.name.as_str() != GENERIC {
            let expected = "expected `drivers`, `pci`, `models`, `machines` or `memory_mib_max`; only the profile \
                            \"generic\" is for every machine";
            return wrong("match", "{}".to_owned(), expected);
        }
        let texts = [
            ("match.drivers", &self.rules.drivers),
            ("match.models", &self.rules.models),
            ("match.machines", &self.rules.machines),
        ];
        for (key, texts) in texts {
            if texts.iter().any(|text| text.trim().is_empty()) {
                return wrong(
                    key,
                    format!("{texts:?}"),
                    "expected names that are not empty",
                );
            }
        }
        if self.link.zero_copy == ZeroCopy::Yes && self.link.xdp == Xdp::Generic {
            let expected = "needs `link.xdp` = \"native\": only a driver can give its memory away";
            return wrong("link.zero_copy", quoted("yes"), expected);
        }
        for (key, settings) in [("set", &self.set), ("set_af_xdp", &self.set_af_xdp)] {
            self.check_limits(key, settings)?;
        }
        Ok(())
    }

    fn check_limits(
        &self,
        table: &'static str,
        settings: &Settings,
    ) -> Result<(), (&'static str, String, String)> {
        if let (Some(crate::Queues::Count(count)), Some(max)) =
            (settings.queues, self.limits.queues_max)
            && count.get() > max.get()
        {
            let expected = format!(
                "{table}.queues is above `limits.queues_max` = {}",
                max.get()
            );
            return Err(("queues", count.get().to_string(), expected));
        }
        for (key, ring) in [("rx_ring", settings.rx_ring), ("tx_ring", settings.tx_ring)] {
            if let (Some(ring), Some(max)) = (ring, self.limits.ring_max)
                && ring > max
            {
                let expected = format!("{table}.{key} is above `limits.ring_max` = {}", max.get());
                return Err((key, ring.get().to_string(), expected));
            }
        }
        Ok(())
    }
}

/// The line of a byte offset, from 1, with its text; for an element of a list the line where the key stands.
fn place(text: &str, at: usize) -> (usize, String) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count();
    let lines: Vec<&str> = text.lines().collect();
    let key_line = (0..=line)
        .rev()
        .find(|&line| {
            lines
                .get(line)
                .is_some_and(|text| text.contains('=') || text.trim_start().starts_with('['))
        })
        .unwrap_or(line);
    let shown = lines.get(key_line).copied().unwrap_or_default();
    (line + 1, shown.trim().to_owned())
}
