//! The grammar of port mappings: `host[:instance][/tcp|/udp]`, separated by `;`.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The transport a mapping is for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    Tcp,
    Udp,
}

/// A port of the host that leads to a port of an instance. Port 0 never maps anything.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct PortMapping {
    pub host_port: u16,
    pub instance_port: u16,
    pub transport: Transport,
}

/// Why a text is no list of port mappings.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error(
    "port mapping `{0}` is not like 8080, 8080:80 or 8080:80/udp (several are separated by `;`)"
)]
pub struct PortMappingError(pub String);

impl PortMapping {
    /// Reads a list; blank entries are skipped, as the trailing `;` of generated lists makes them.
    ///
    /// # Errors
    /// Names the entry that does not follow the grammar.
    pub fn list(text: &str) -> Result<Vec<Self>, PortMappingError> {
        text.split(';')
            .map(str::trim)
            .filter(|entry| !entry.is_empty())
            .map(|entry| Self::one(entry).ok_or_else(|| PortMappingError(entry.to_owned())))
            .collect()
    }

    fn one(entry: &str) -> Option<Self> {
        let (ports, transport) = match entry.split_once('/') {
            None => (entry, Transport::Tcp),
            Some((ports, "tcp")) => (ports, Transport::Tcp),
            Some((ports, "udp")) => (ports, Transport::Udp),
            Some(_) => return None,
        };
        let (host, instance) = ports.split_once(':').unwrap_or((ports, ports));
        let port = |text: &str| {
            text.bytes()
                .all(|byte| byte.is_ascii_digit())
                .then(|| text.parse().ok())
                .flatten()
        };
        Some(Self {
            host_port: port(host)?,
            instance_port: port(instance)?,
            transport,
        })
    }
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        write!(f, "{}:{}/{transport}", self.host_port, self.instance_port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_of_port_mappings() {
        for (text, mappings) in [
            ("", "[]"),
            (";", "[]"),
            ("80", "[80:80/tcp]"),
            ("8080:80", "[8080:80/tcp]"),
            ("8080:80/udp; 53/udp", "[8080:80/udp, 53:53/udp]"),
            ("65535:1/tcp;", "[65535:1/tcp]"),
        ] {
            let list: Vec<String> = PortMapping::list(text)
                .unwrap()
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(format!("[{}]", list.join(", ")), mappings, "{text}");
        }
        for text in [
            "80,81", "80:", ":80", "65536", "-1", "+1", "80/sctp", "a", "80:80:80",
        ] {
            assert!(PortMapping::list(text).is_err(), "{text}");
        }
    }

    fn take(bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(list) = PortMapping::list(&text) {
            let shown: Vec<String> = list.iter().map(ToString::to_string).collect();
            assert_eq!(PortMapping::list(&shown.join(";")), Ok(list));
        }
    }

    #[test]
    fn what_is_shown_is_read_back() {
        bolero::check!().for_each(take);
        let kept = crate::node::corpus("port-mappings");
        for bytes in &kept {
            for length in 0..=bytes.len() {
                take(&bytes[..length]);
            }
        }
        assert!(kept.len() >= 3, "the corpus is there");
    }
}
