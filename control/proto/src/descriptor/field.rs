//! A value of a descriptor that knows where it stands, so that errors can say it.

use crate::names::PART_LENGTH_MAX;
use serde_json::{Map, Value};
use sluice_wire::{Family, Ip};
use thiserror::Error;

/// Why a descriptor is refused.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum DescriptorError {
    #[error("{file}: {problem}")]
    Syntax { file: String, problem: String },
    #[error("{file}: `{key}` is {value}; expected {expected}")]
    Value {
        file: String,
        key: String,
        value: String,
        expected: String,
    },
    #[error("{file}: `{key}` is missing")]
    Missing { file: String, key: String },
    #[error("{file}: unknown key `{key}`; known here: {known}")]
    Unknown {
        file: String,
        key: String,
        known: String,
    },
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Field<'a> {
    file: &'a str,
    path: String,
    value: &'a Value,
}

impl<'a> Field<'a> {
    pub(super) const fn root(file: &'a str, value: &'a Value) -> Self {
        Self {
            file,
            path: String::new(),
            value,
        }
    }

    pub(super) fn error(&self, expected: &str) -> DescriptorError {
        DescriptorError::Value {
            file: self.file.to_owned(),
            key: if self.path.is_empty() {
                "the document".to_owned()
            } else {
                self.path.clone()
            },
            value: shown(self.value),
            expected: expected.to_owned(),
        }
    }

    pub(super) fn map(&self) -> Result<&'a Map<String, Value>, DescriptorError> {
        self.value
            .as_object()
            .ok_or_else(|| self.error("keys and values"))
    }

    /// The value of `key`, whatever it is.
    pub(super) fn optional(&self, key: &str) -> Option<Self> {
        let value = self.value.get(key)?;
        Some(Self {
            file: self.file,
            path: self.child(key),
            value,
        })
    }

    /// The value of `key`, unless it is null or an empty text: Oakestra's forms send those for "not given".
    pub(super) fn present(&self, key: &str) -> Option<Self> {
        self.optional(key)
            .filter(|field| !field.value.is_null() && field.value.as_str() != Some(""))
    }

    pub(super) fn required(&self, key: &str) -> Result<Self, DescriptorError> {
        self.optional(key).ok_or_else(|| DescriptorError::Missing {
            file: self.file.to_owned(),
            key: self.child(key),
        })
    }

    /// Refuses keys that nobody knows.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), DescriptorError> {
        match self
            .map()?
            .keys()
            .find(|key| !known.contains(&key.as_str()))
        {
            None => Ok(()),
            Some(key) => Err(DescriptorError::Unknown {
                file: self.file.to_owned(),
                key: self.child(&cut(key)),
                known: known.join(", "),
            }),
        }
    }

    pub(super) fn items(&self) -> Result<Vec<Self>, DescriptorError> {
        let items = self.value.as_array().ok_or_else(|| self.error("a list"))?;
        Ok(items
            .iter()
            .enumerate()
            .map(|(index, value)| Self {
                file: self.file,
                path: format!("{}[{index}]", self.path),
                value,
            })
            .collect())
    }

    /// A list, or one value as a list of one.
    pub(super) fn one_or_items(&self) -> Result<Vec<Self>, DescriptorError> {
        if self.value.is_array() {
            self.items()
        } else {
            Ok(vec![self.clone()])
        }
    }

    pub(super) fn text(&self) -> Result<&'a str, DescriptorError> {
        self.value.as_str().ok_or_else(|| self.error("a text"))
    }

    /// One part of a service name.
    pub(super) fn name_part(&self) -> Result<&'a str, DescriptorError> {
        let expected = "1 to 30 of the characters a-z, A-Z and 0-9";
        let text = self.value.as_str().ok_or_else(|| self.error(expected))?;
        let fits = (1..=PART_LENGTH_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if fits {
            Ok(text)
        } else {
            Err(self.error(expected))
        }
    }

    /// A number, also as text (Oakestra's forms send texts).
    pub(super) fn number(&self) -> Result<u32, DescriptorError> {
        let number = match self.value {
            Value::Number(number) => number.as_u64().and_then(|n| u32::try_from(n).ok()),
            Value::String(text) => text.parse().ok(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        };
        number.ok_or_else(|| self.error("a whole number from 0"))
    }

    pub(super) fn ip(&self, family: Family) -> Result<Ip, DescriptorError> {
        let expected = match family {
            Family::V4 => "an IPv4 address",
            Family::V6 => "an IPv6 address",
        };
        self.value
            .as_str()
            .and_then(|text| text.parse::<Ip>().ok())
            .filter(|ip| ip.family() == family)
            .ok_or_else(|| self.error(expected))
    }

    /// `hostPort[:containerPort][/tcp|/udp]`, several separated by `;` (OAKESTRA-WIRE section 1.4), or one number.
    pub(super) fn port_mappings(&self) -> Result<String, DescriptorError> {
        let text = match self.value {
            Value::Number(number) => number.to_string(),
            Value::String(text) => text.clone(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => String::new(),
        };
        let fits = |mapping: &str| {
            let (ports, protocol) = mapping.split_once('/').unwrap_or((mapping, "tcp"));
            let (host, inner) = ports.split_once(':').unwrap_or((ports, ports));
            let is_port = |port: &str| {
                port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
            };
            is_port(host) && is_port(inner) && matches!(protocol, "tcp" | "udp")
        };
        if text.split(';').all(fits) {
            Ok(text)
        } else {
            Err(self.error(
                "host port[:container port][/tcp|/udp], several separated by `;`, like 8080:80/tcp",
            ))
        }
    }

    fn child(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }
}

fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("`{}`", cut(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a group of keys".to_owned(),
        Value::Null => "empty".to_owned(),
        Value::Bool(_) | Value::Number(_) => format!("`{value}`"),
    }
}
