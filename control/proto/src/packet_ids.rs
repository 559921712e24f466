//! Ids of the MQTT packets that either end has sent and that are not acknowledged yet (MQTT 3.1.1 section 2.3.1).

use std::collections::BTreeSet;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct PacketIds {
    on_their_way: BTreeSet<u16>,
    last: u16,
}

impl PacketIds {
    /// Another packet leaves: its id, which is not 0. Fewer than 65,535 may be on their way.
    pub fn begin(&mut self) -> u16 {
        loop {
            self.last = self.last.checked_add(1).unwrap_or(1);
            if self.on_their_way.insert(self.last) {
                return self.last;
            }
        }
    }

    /// A packet is acknowledged; false when none with this id is on its way.
    pub fn end(&mut self, id: u16) -> bool {
        self.on_their_way.remove(&id)
    }

    /// How many are on their way.
    #[must_use]
    pub fn count(&self) -> usize {
        self.on_their_way.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_on_their_way_are_not_given_again() {
        let mut ids = PacketIds::default();
        for _ in 0..70_000 {
            let sent = ids.begin();
            assert_ne!(sent, 0);
            if sent != 7 {
                assert!(ids.end(sent));
                assert!(!ids.end(sent));
            }
        }
        assert_eq!(ids.count(), 1);
        assert!(ids.end(7));
    }
}
