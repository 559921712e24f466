//! How long addresses rest between two owners, and why not shorter.

use super::ConfigError;
use super::check::Check;
use sluice_proto::table_query::STALE_ROUTE_MAX;

/// A year; more is a mistake.
const REST_MAX_S: u64 = 365 * 24 * 3600;

impl Check<'_> {
    /// Seconds of rest.
    pub(super) fn rest(&self, key: &str, value: i64) -> Result<u64, ConfigError> {
        let min_s = STALE_ROUTE_MAX.as_secs();
        let found = u64::try_from(value).ok();
        found
            .filter(|rest_s| (min_s..=REST_MAX_S).contains(rest_s))
            .ok_or_else(|| {
                let expected = format!(
                    "a number from {min_s} to {REST_MAX_S}: for up to {min_s} s a gateway may go by the route to the former owner"
                );
                self.value(key, value.to_string(), expected)
            })
    }
}
