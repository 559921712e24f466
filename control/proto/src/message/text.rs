//! Field texts of the wire: addresses that may be missing or `<nil>`, ports that may be strings.

use serde::{Deserialize, Deserializer, Serializer};
use sluice_wire::Ip;

/// An address text that may be absent. Missing, `null`, empty, `None` and Go's `<nil>` (a unikernel's IPv6 address,
/// OAKESTRA-WIRE section 1.3) all mean absent; anything else must be an address. Written in canonical form.
pub(crate) mod address {
    use super::*;
    pub(crate) fn serialize<S: Serializer>(
        ip: &Option<Ip>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match ip {
            Some(ip) => serializer.collect_str(ip),
            None => serializer.serialize_str(""),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Ip>, D::Error> {
        let text: Option<String> = Option::deserialize(deserializer)?;
        match text.as_deref() {
            None | Some("" | "<nil>" | "None") => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| {
                serde::de::Error::custom(format_args!("`{}` is not an IP address", shown(text)))
            }),
        }
    }
}

/// A list of address texts.
pub(crate) mod addresses {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(ips: &[Ip], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(ips.iter().map(Ip::to_string))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Ip>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        let ip = |text: &String| {
            text.parse().map_err(|_| {
                serde::de::Error::custom(format_args!("`{}` is not an IP address", shown(text)))
            })
        };
        texts.iter().map(ip).collect()
    }
}

/// A port that may come as a number or as a text (workers send `"50103"`, managers `50103`); written as a number.
pub(crate) mod port {
    use super::*;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Port {
        Number(u16),
        Text(String),
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<u16>, D::Error> {
        let port: Option<Port> = Option::deserialize(deserializer)?;
        match port {
            None => Ok(None),
            Some(Port::Number(port)) => Ok(Some(port)),
            Some(Port::Text(text)) if text.is_empty() => Ok(None),
            Some(Port::Text(text)) => text.parse().map(Some).map_err(|_| {
                serde::de::Error::custom(format_args!("`{}` is not a port", shown(&text)))
            }),
        }
    }
}

/// The same port, written as a text: what a worker sends.
pub(crate) mod port_text {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(port: &u16, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(port)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
        port::deserialize(deserializer)?
            .ok_or_else(|| serde::de::Error::custom("a port is missing"))
    }
}

/// A text of unknown origin, cut to a length that fits an error message.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(128).collect()
}
