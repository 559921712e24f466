//! Changes of a manager's state as key and value, for a store that keeps them before an answer goes out.

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// One write to the store. Values are JSON.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    Put { key: String, value: Vec<u8> },
    Delete { key: String },
}

impl Change {
    /// The change that makes `value` the record of `key`.
    pub fn put<T: Serialize>(key: String, value: &T) -> Self {
        Self::Put {
            key,
            value: crate::message::write(value),
        }
    }

    /// The key that is written.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// Why a store's contents are not a state.
#[derive(Debug, Error)]
pub enum RestoreError {
    #[error("record `{key}` is not readable: {source}")]
    Json {
        key: String,
        source: serde_json::Error,
    },
    #[error("record `{key}` is of no known kind")]
    Kind { key: String },
    #[error("record `{key}` contradicts another: {conflict}")]
    Conflict { key: String, conflict: String },
}

/// Reads what [`Change::put`] wrote.
///
/// # Errors
/// Names the record that cannot be read.
pub fn read<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, RestoreError> {
    serde_json::from_slice(value).map_err(|source| RestoreError::Json {
        key: key.to_owned(),
        source,
    })
}
