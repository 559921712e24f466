//! For how long an instance to which delivery failed takes no new flow.

use sluice_tables::InstanceSlot;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long an instance to which delivery failed takes no new flow, before it is tried again. Doubles with each failure
/// that follows, up to the longest.
const SUSPECT_FIRST: Duration = Duration::from_secs(5);
const SUSPECT_MAX: Duration = Duration::from_secs(60);

/// An instance to which delivery failed.
#[derive(Clone, Copy, Debug)]
struct Suspect {
    /// When it is tried again.
    until: Duration,
    wait: Duration,
    trusted: bool,
}

/// The instances to which delivery failed a while ago.
#[derive(Clone, Debug, Default)]
pub struct Suspects(BTreeMap<InstanceSlot, Suspect>);

impl Suspects {
    /// Delivery failed; nothing changes for one that is suspect already.
    pub fn add(&mut self, slot: InstanceSlot, now: Duration) {
        let wait = match self.0.get(&slot) {
            Some(before) if !before.trusted => return,
            Some(before) => (before.wait * 2).min(SUSPECT_MAX),
            None => SUSPECT_FIRST,
        };
        self.0.insert(
            slot,
            Suspect {
                until: now + wait,
                wait,
                trusted: false,
            },
        );
    }

    /// Those to be tried again now, each once. How often one failed is remembered for as long again.
    pub fn due(&mut self, now: Duration) -> Vec<InstanceSlot> {
        self.0
            .retain(|_, it| !it.trusted || it.until + it.wait > now);
        let due = self
            .0
            .iter_mut()
            .filter(|(_, it)| !it.trusted && it.until <= now);
        due.map(|(slot, it)| {
            it.trusted = true;
            *slot
        })
        .collect()
    }

    /// It was heard. Whether it was suspect until now.
    pub fn clear(&mut self, slot: InstanceSlot) -> bool {
        self.0.remove(&slot).is_some_and(|it| !it.trusted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_tables::slots::Slot;

    /// It is tried again, later each time it fails again at once; after a good while it is as good as new.
    #[test]
    fn a_suspect_is_tried_again_later_each_time() {
        let slot = InstanceSlot::from_index(1);
        let mut suspects = Suspects::default();
        let mut now = Duration::from_secs(100);
        for wait_s in [5, 10, 20, 40, 60, 60] {
            suspects.add(slot, now);
            suspects.add(slot, now);
            let wait = Duration::from_secs(wait_s);
            assert!(
                suspects
                    .due(now + wait - Duration::from_millis(1))
                    .is_empty()
            );
            assert_eq!(suspects.due(now + wait), [slot]);
            assert!(suspects.due(now + wait).is_empty(), "once");
            now += wait;
        }
        assert!(suspects.due(now + SUSPECT_MAX).is_empty());
        suspects.add(slot, now + SUSPECT_MAX);
        assert_eq!(suspects.due(now + SUSPECT_MAX + SUSPECT_FIRST), [slot]);
    }

    #[test]
    fn who_is_heard_is_no_suspect() {
        let slot = InstanceSlot::from_index(1);
        let mut suspects = Suspects::default();
        suspects.add(slot, Duration::from_secs(1));
        assert!(suspects.clear(slot));
        assert!(!suspects.clear(slot));
        assert!(suspects.due(Duration::from_secs(100)).is_empty());
    }
}
