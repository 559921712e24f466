//! The account of frames, as a gateway's admin socket tells it.

use super::clock::{pause, wait_for};
use super::error::LabError;
use super::http;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// A gateway's account over all its workers and links: every frame received or made must be on the other side too.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Accounts {
    pub received: u64,
    pub originated: u64,
    pub split: u64,
    pub forwarded: u64,
    pub held: u64,
    pub merged: u64,
    pub taken: u64,
    pub drops: BTreeMap<String, u64>,
}

impl Accounts {
    /// `received + originated + split = forwarded + held + merged + taken + drops`.
    #[must_use]
    pub fn balanced(&self) -> bool {
        let dropped: u64 = self.drops.values().sum();
        self.received + self.originated + self.split
            == self.forwarded + self.held + self.merged + self.taken + dropped
    }

    /// Frames dropped for a reason.
    #[must_use]
    pub fn dropped(&self, reason: &str) -> u64 {
        self.drops.get(reason).copied().unwrap_or_default()
    }

    /// From `/v1/status` and `/v1/drops`.
    #[must_use]
    pub fn parse(status: &Value, drops: &Value) -> Option<Self> {
        let workers = status.get("workers")?.as_array()?;
        let sum = |key: &str| -> Option<u64> {
            workers.iter().map(|worker| worker.get(key)?.as_u64()).sum()
        };
        Some(Self {
            received: sum("received")?,
            originated: sum("originated")?,
            split: sum("split")?,
            forwarded: sum("forwarded")?,
            held: sum("held")?,
            merged: sum("merged")?,
            taken: sum("taken")?,
            drops: drops
                .as_array()?
                .iter()
                .filter_map(|row| {
                    let reason = row.get("reason")?.as_str()?.to_owned();
                    let count = row.get("count")?.as_u64()?;
                    (count > 0).then_some((reason, count))
                })
                .collect(),
        })
    }
}

/// Reads the account of the gateway with that admin socket.
///
/// # Errors
/// When the socket does not answer with an account.
pub fn read(admin: &Path) -> Result<Accounts, LabError> {
    let status = http::json(admin, "/v1/status")?;
    let drops = http::json(admin, "/v1/drops")?;
    Accounts::parse(&status, &drops).ok_or_else(|| LabError::Reply {
        what: format!("/v1/status and /v1/drops on {}", admin.display()),
        text: status.to_string(),
    })
}

/// Reads the account when nothing has moved for a moment. The identity is exact only then.
///
/// # Errors
/// When the gateway does not answer, or never rests.
pub fn quiescent(admin: &Path) -> Result<Accounts, LabError> {
    at_rest(|| read(admin))
}

/// The same, of the account that `read` reads.
///
/// # Errors
/// When that fails, or the gateway never rests.
pub fn at_rest(read: impl Fn() -> Result<Accounts, LabError>) -> Result<Accounts, LabError> {
    let mut before = read()?;
    wait_for("the gateway to rest", Duration::from_secs(10), || {
        pause(Duration::from_millis(100));
        let after = read().map_err(|error| error.to_string())?;
        if after == before {
            return Ok(after);
        }
        before = after;
        Err("frames still move".to_owned())
    })
}
