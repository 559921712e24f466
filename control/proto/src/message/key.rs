//! The public key of a node, by which the others know it: 32 bytes, base64 on the wire.

use super::text::shown;
use base64ct::{Base64, Encoding};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// Bytes of a key.
const LEN: usize = 32;
/// Characters of its text: base64 with padding (RFC 4648 section 4), as the `wg` tool writes it.
const TEXT_LEN: usize = 44;

/// A node's static Curve25519 public key (RFC 7748 section 5), little-endian. Any 32 bytes are one.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NodeKey([u8; LEN]);

/// Extension: the keys of nodes that the root has revoked (GET `/api/net/revoked_keys`).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct RevokedKeys {
    /// Grows with every change of them; 0: there never were any.
    pub revision: u64,
    pub keys: BTreeSet<NodeKey>,
}

/// Why a text is no public key.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("`{0}` is no public key: 44 characters, base64 of 32 bytes")]
pub struct NotAKey(String);

impl NodeKey {
    #[must_use]
    pub const fn from_bytes(bytes: [u8; LEN]) -> Self {
        Self(bytes)
    }

    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; LEN] {
        &self.0
    }
}

impl fmt::Display for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; TEXT_LEN];
        f.write_str(
            Base64::encode(&self.0, &mut text)
                .unwrap_or_else(|_| unreachable!("32 bytes are 44 characters of base64")),
        )
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({self})")
    }
}

impl FromStr for NodeKey {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        let refused = || NotAKey(shown(text));
        if text.len() != TEXT_LEN {
            return Err(refused());
        }
        let mut bytes = [0; LEN];
        let decoded = Base64::decode(text, &mut bytes).map_err(|_| refused())?;
        if decoded.len() != LEN {
            return Err(refused());
        }
        Ok(Self(bytes))
    }
}

impl Serialize for NodeKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NodeKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_survives_its_text() {
        bolero::check!().with_type::<[u8; LEN]>().for_each(|bytes| {
            let key = NodeKey::from_bytes(*bytes);
            assert_eq!(key.to_string().len(), TEXT_LEN);
            assert_eq!(key.to_string().parse(), Ok(key));
        });
    }

    #[test]
    fn other_texts_are_refused_by_name() {
        let key = NodeKey::from_bytes([0xff; LEN]).to_string();
        let wrong = [
            "".to_owned(),
            key[..43].to_owned(),
            format!("{key}="),
            "A".repeat(TEXT_LEN),
            key.replace('/', "_"),
            "é".repeat(TEXT_LEN / 2),
        ];
        for text in wrong {
            let error = text.parse::<NodeKey>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }
}
