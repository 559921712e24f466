//! Service names `app.appns.service.servicens` (thesis 3.6.2): checked once, compared without case, spelled as given.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

/// Longest part of a name, in characters (OAKESTRA-WIRE section 5: `^[a-zA-Z0-9]{1,30}$`).
pub const PART_LENGTH_MAX: usize = 30;

/// The parts of a service name, in order.
pub const PARTS: [&str; 4] = [
    "application name",
    "application namespace",
    "service name",
    "service namespace",
];

/// The full name of a service. Two spellings that differ only in case are equal; the spelling is kept.
#[derive(Clone)]
pub struct ServiceName(Arc<str>);

/// Why a text is no service name.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum NameError {
    #[error("service name `{name}` has {parts} parts; expected 4: app.appns.service.servicens")]
    Parts { name: String, parts: usize },
    #[error("{part} is empty in service name `{name}`")]
    Empty { name: String, part: &'static str },
    #[error(
        "{part} `{value}` in service name `{name}` has {length} characters; at most 30 are allowed"
    )]
    Long {
        name: String,
        part: &'static str,
        value: String,
        length: usize,
    },
    #[error(
        "{part} `{value}` in service name `{name}` contains {character:?}; only a-z, A-Z and 0-9 are allowed"
    )]
    Character {
        name: String,
        part: &'static str,
        value: String,
        character: char,
    },
}

impl ServiceName {
    /// Checks the grammar.
    ///
    /// # Errors
    /// Names the part that breaks it.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        // A hostile text is quoted only as far as a name could reach.
        let shown = || -> String { name.chars().take(128).collect() };
        let parts = name.split('.').count();
        if parts != PARTS.len() {
            return Err(NameError::Parts {
                name: shown(),
                parts,
            });
        }
        for (value, part) in name.split('.').zip(PARTS) {
            if value.is_empty() {
                return Err(NameError::Empty {
                    name: shown(),
                    part,
                });
            }
            if let Some(character) = value.chars().find(|c| !c.is_ascii_alphanumeric()) {
                return Err(NameError::Character {
                    name: shown(),
                    part,
                    value: value.chars().take(64).collect(),
                    character,
                });
            }
            if value.len() > PART_LENGTH_MAX {
                return Err(NameError::Long {
                    name: shown(),
                    part,
                    value: value.chars().take(64).collect(),
                    length: value.len(),
                });
            }
        }
        Ok(Self(name.into()))
    }

    /// Joins four parts.
    ///
    /// # Errors
    /// Names the part that breaks the grammar.
    pub fn of_parts(
        app: &str,
        app_ns: &str,
        service: &str,
        service_ns: &str,
    ) -> Result<Self, NameError> {
        Self::parse(&format!("{app}.{app_ns}.{service}.{service_ns}"))
    }

    /// The name as it was spelled.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Application name, application namespace, service name, service namespace.
    #[must_use]
    pub fn parts(&self) -> [&str; 4] {
        let mut parts = self.0.split('.');
        std::array::from_fn(|_| parts.next().unwrap_or_default())
    }

    fn folded(&self) -> impl Iterator<Item = u8> {
        self.0.bytes().map(|byte| byte.to_ascii_lowercase())
    }
}

impl PartialEq for ServiceName {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for ServiceName {}

impl PartialOrd for ServiceName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ServiceName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.folded().cmp(other.folded())
    }
}

impl Hash for ServiceName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for byte in self.folded() {
            state.write_u8(byte);
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ServiceName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::parse(name)
    }
}

impl Serialize for ServiceName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ServiceName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::parse(&name).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn case_does_not_matter_but_the_spelling_is_kept() {
        let name = ServiceName::parse("Demo.Default.Client.Test").unwrap();
        assert_eq!(name, "demo.default.client.test".parse().unwrap());
        assert_eq!(name.to_string(), "Demo.Default.Client.Test");
        assert_eq!(name.parts(), ["Demo", "Default", "Client", "Test"]);
        let set: BTreeSet<_> = [name.clone(), "DEMO.default.client.test".parse().unwrap()].into();
        assert_eq!(set.len(), 1);
    }

    #[test]
    fn an_error_names_the_part() {
        let error = |text: &str| ServiceName::parse(text).unwrap_err().to_string();
        assert_eq!(
            error("a.b.c"),
            "service name `a.b.c` has 3 parts; expected 4: app.appns.service.servicens"
        );
        assert_eq!(
            error("a..c.d"),
            "application namespace is empty in service name `a..c.d`"
        );
        assert_eq!(
            error("a.b.c-1.d"),
            "service name `c-1` in service name `a.b.c-1.d` contains '-'; only a-z, A-Z and 0-9 are allowed"
        );
        let long = "x".repeat(31);
        assert!(error(&format!("a.b.c.{long}")).starts_with("service namespace `xxx"));
        assert!(ServiceName::parse(&format!("a.b.c.{}", "x".repeat(30))).is_ok());
        assert!(ServiceName::parse("a.b.c.ü").is_err());
    }

    /// Any text: no panic, and what is accepted is what the grammar says.
    #[test]
    fn any_text_is_a_name_or_a_named_error() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            if let Ok(name) = ServiceName::parse(&text) {
                assert_eq!(name.as_str(), text);
                assert!(name.parts().iter().all(|part| {
                    (1..=PART_LENGTH_MAX).contains(&part.len())
                        && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
                }));
            }
        });
    }
}
