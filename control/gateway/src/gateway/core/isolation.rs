//! Calls that no rule allows: flows end when a rule is revoked, and what is only observed is logged.

use super::Core;
use sluice_tables::InstanceSlot;
use std::time::Duration;

/// Workers have the tables of a revocation by then: until its turn ends, one may begin a flow by older tables.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Lines about observed calls in each period.
const LINES_MAX: u32 = 5;
const PERIOD: Duration = Duration::from_secs(10);

/// What the core remembers about calls that no rule allows.
#[derive(Debug, Default)]
pub(super) struct Forbidden {
    look_again_at: Option<Duration>,
    period: Duration,
    lines: u32,
}

impl Forbidden {
    /// When [`Core::end_forbidden`] is due.
    pub(super) const fn poll_timeout(&self) -> Option<Duration> {
        self.look_again_at
    }
}

impl Core {
    /// After tables were published: ends the flows of whoever lost a permission, twice.
    pub(super) fn end_forbidden(&mut self, now: Duration) {
        let is_due = self.forbidden.look_again_at.is_some_and(|at| at <= now);
        let revoked = self.routes.take_revoked();
        if !revoked && !is_due {
            return;
        }
        self.forbidden.look_again_at = revoked.then_some(now + LOOK_AGAIN);
        let ended = self.plane.offloader().end_forbidden(self.routes.tables());
        if ended > 0 {
            tracing::info!(
                ended,
                "a rule was revoked: the flows that it allowed have ended"
            );
        }
    }

    /// A conversation began that no rule allows, and goes on because `gateway.isolation` says so.
    pub(super) fn observe(&mut self, caller: InstanceSlot, callee: InstanceSlot, now: Duration) {
        if now >= self.forbidden.period + PERIOD {
            self.forbidden.period = now;
            self.forbidden.lines = 0;
        }
        self.forbidden.lines += 1;
        if self.forbidden.lines > LINES_MAX {
            return;
        }
        let (Some(from), Some(to)) = (self.routes.job_of(caller), self.routes.job_of(callee))
        else {
            return;
        };
        tracing::warn!(
            %from,
            %to,
            "no rule allows this call; it would be refused with `gateway.isolation` = \"enforce\""
        );
    }
}
