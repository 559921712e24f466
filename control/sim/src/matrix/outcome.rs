//! What a fault cost: packets and milliseconds.

use std::fmt;
use std::time::Duration;

/// What a cell of the fault table cost. `None` is "not within the 20 s after healing".
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Outcome {
    /// Requests of the four going flows that were not answered.
    pub flows_lost: u32,
    /// New flows that were not answered.
    pub new_lost: u32,
    /// From the fault until new flows are answered, and stay so; 0 when all were.
    pub new_ms: Option<u32>,
    /// From healing until the root, the clusters and the caller's gateway agree about who runs where, and stay so.
    pub equal_ms: Option<u32>,
}

/// What is lost in a second.
const SECOND: Outcome = Outcome {
    flows_lost: 40,
    new_lost: 10,
    new_ms: Some(1000),
    equal_ms: Some(1000),
};

impl Outcome {
    /// A second more of everything that is not 0: jitter moves as much when anything in the system changes.
    #[must_use]
    pub fn with_a_second(self) -> Self {
        let more = |have: u32, more: u32| if have == 0 { 0 } else { have + more };
        let more_ms =
            |have: Option<u32>, by: Option<u32>| have.zip(by).map(|(have, by)| more(have, by));
        Self {
            flows_lost: more(self.flows_lost, SECOND.flows_lost),
            new_lost: more(self.new_lost, SECOND.new_lost),
            new_ms: more_ms(self.new_ms, SECOND.new_ms),
            equal_ms: self
                .equal_ms
                .zip(SECOND.equal_ms)
                .map(|(have, by)| have + by),
        }
    }

    /// So much more of everything; `None` more is no limit.
    #[must_use]
    pub fn plus(self, more: Self) -> Self {
        let sum_ms = |one: Option<u32>, other: Option<u32>| one.zip(other).map(|(a, b)| a + b);
        Self {
            flows_lost: self.flows_lost + more.flows_lost,
            new_lost: self.new_lost + more.new_lost,
            new_ms: sum_ms(self.new_ms, more.new_ms),
            equal_ms: sum_ms(self.equal_ms, more.equal_ms),
        }
    }

    /// Whether nothing is worse than in `limit`.
    #[must_use]
    pub fn is_within(&self, limit: &Self) -> bool {
        let at_most = |have: Option<u32>, limit: Option<u32>| match (have, limit) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(have), Some(limit)) => have <= limit,
        };
        self.flows_lost <= limit.flows_lost
            && self.new_lost <= limit.new_lost
            && at_most(self.new_ms, limit.new_ms)
            && at_most(self.equal_ms, limit.equal_ms)
    }

    /// From the four columns of a line.
    pub(crate) fn parse(columns: [&str; 4]) -> Option<Self> {
        let [flows_lost, new_lost, new_ms, equal_ms] = columns;
        let ms = |text: &str| match text {
            "never" => Some(None),
            text => text.parse().ok().map(Some),
        };
        Some(Self {
            flows_lost: flows_lost.parse().ok()?,
            new_lost: new_lost.parse().ok()?,
            new_ms: ms(new_ms)?,
            equal_ms: ms(equal_ms)?,
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |ms: Option<u32>| ms.map_or_else(|| "never".to_owned(), |ms| ms.to_string());
        let (new_ms, equal_ms) = (ms(self.new_ms), ms(self.equal_ms));
        write!(
            f,
            "{},{},{new_ms},{equal_ms}",
            self.flows_lost, self.new_lost
        )
    }
}

pub(crate) fn ms(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
