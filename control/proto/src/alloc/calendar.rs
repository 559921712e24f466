//! The time by which rests are counted: it goes on over restarts and reboots, and setting a clock does not move it.
//!
//! While the machine is up, its boot clock counts. How long it was off, only the wall clock can say; where that says less
//! than the time since the boot, because it was set back or has no battery, the time since the boot is what has passed.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What the clocks of a machine show at one moment.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Reading {
    /// Names this boot of the machine; `None` where nobody can say, and then only the wall clock counts.
    pub boot: Option<String>,
    /// Since the boot.
    pub uptime: Duration,
    /// Since 1970, as the wall clock has it.
    pub wall: Duration,
}

/// See the module. It is kept beside what rests, and at least as new as that.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Calendar {
    now: Duration,
    /// What the clocks showed then.
    read: Reading,
}

impl Calendar {
    /// Begins at what the wall clock shows.
    #[must_use]
    pub const fn new(reading: Reading) -> Self {
        Self {
            now: reading.wall,
            read: reading,
        }
    }

    /// The time at this reading of the clocks; never less than it was at an earlier one.
    pub fn now(&mut self, mut reading: Reading) -> Duration {
        let before = &self.read;
        let by_wall = reading.wall.saturating_sub(before.wall);
        let passed = match (&before.boot, &reading.boot) {
            (Some(then), Some(now)) if then == now => {
                // A reading may be overtaken by a later one.
                reading.uptime = reading.uptime.max(before.uptime);
                reading.uptime - before.uptime
            }
            (Some(_), Some(_)) => reading.uptime.max(by_wall),
            // It may be the same boot.
            (None, _) | (_, None) => by_wall,
        };
        self.now = self.now.saturating_add(passed);
        self.read = reading;
        self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_S: u64 = 1_700_000_000;

    fn reading(boot: Option<&str>, uptime_s: u64, wall_s: u64) -> Reading {
        Reading {
            boot: boot.map(str::to_owned),
            uptime: Duration::from_secs(uptime_s),
            wall: Duration::from_secs(wall_s),
        }
    }

    /// What passes by the calendar between two readings, over the disk.
    fn passed(from: Reading, to: Reading) -> u64 {
        let mut calendar = Calendar::new(from.clone());
        let start = calendar.now(from);
        let kept = serde_json::to_vec(&calendar).unwrap();
        let mut calendar: Calendar = serde_json::from_slice(&kept).unwrap();
        (calendar.now(to) - start).as_secs()
    }

    #[test]
    fn a_clock_that_is_set_changes_nothing_while_the_machine_is_up() {
        let from = reading(Some("a"), 100, START_S);
        for wall_s in [0, START_S - 1_000_000, START_S + 60, 2 * START_S] {
            assert_eq!(passed(from.clone(), reading(Some("a"), 160, wall_s)), 60);
        }
    }

    #[test]
    fn over_a_reboot_at_least_the_time_since_it_has_passed() {
        let from = reading(Some("a"), 100, START_S);
        for (uptime_s, wall_s, expected) in [
            // Off for nearly an hour.
            (20, START_S + 3600, 3600),
            // Without a battery, before the first answer of a time server.
            (20, 0, 20),
            (20, START_S - 3600, 20),
            (900, START_S + 30, 900),
        ] {
            let to = reading(Some("b"), uptime_s, wall_s);
            assert_eq!(passed(from.clone(), to), expected, "{uptime_s} {wall_s}");
        }
    }

    #[test]
    fn where_nobody_knows_the_boot_the_wall_clock_counts_forwards_only() {
        let from = reading(None, 0, START_S);
        assert_eq!(passed(from.clone(), reading(None, 0, START_S + 60)), 60);
        assert_eq!(passed(from, reading(None, 0, START_S - 60)), 0);
    }

    /// A machine that is up for long, and for a moment nobody can say which boot it is.
    #[test]
    fn a_boot_that_is_not_known_for_a_while_ends_no_rest() {
        let up_s = 90 * 86_400;
        let mut calendar = Calendar::new(reading(Some("a"), up_s, START_S));
        calendar.now(reading(None, 0, START_S + 10));
        let now = calendar.now(reading(Some("a"), up_s + 20, START_S + 20));
        assert_eq!(now, Duration::from_secs(START_S + 20));
    }

    /// Readings that come closer together than a second add up.
    #[test]
    fn it_loses_nothing_between_many_readings() {
        let mut calendar = Calendar::new(reading(Some("a"), 0, START_S));
        for step in 1..=1000 {
            let uptime = Duration::from_millis(step * 10);
            let wall = Duration::from_secs(START_S);
            let boot = Some("a".to_owned());
            calendar.now(Reading { boot, uptime, wall });
        }
        let now = calendar.now(reading(Some("a"), 10, START_S));
        assert_eq!(now, Duration::from_secs(START_S + 10));
    }
}
