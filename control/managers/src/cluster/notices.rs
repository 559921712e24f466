//! Notices about jobs (`jobs/J/...`: a change, or no instance left) that nodes and orchestrators may not have got through an external broker, to be published again.
//!
//! A node that is connected to the broker all the time does not know that its cluster manager was not, and asks for nothing.
//! What a manager publishes before it knows that its connection has ended is lost as well as what it publishes afterwards,
//! so that all of the last seconds before a new connection is repeated. Nodes that have a notice's revision do nothing.

use std::collections::BTreeMap;
use std::time::Duration;

/// An end is known within this time, with a wide margin.
const UNCERTAIN: Duration = Duration::from_secs(10);

/// The latest notice of each job, by topic.
type Latest = BTreeMap<String, Vec<u8>>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Notices {
    /// Published since `since`, and in the time before that.
    newer: Latest,
    older: Latest,
    since: Duration,
    /// To be published as soon as there is room.
    owed: Latest,
    connected: bool,
}

impl Notices {
    /// The notice has been published, or is lost for the moment.
    pub(super) fn note(&mut self, topic: &str, payload: &[u8], published: bool, now: Duration) {
        if self.connected && now >= self.since + UNCERTAIN {
            self.older = std::mem::take(&mut self.newer);
            self.since = now;
        }
        self.newer.insert(topic.to_owned(), payload.to_vec());
        if published {
            self.owed.remove(topic);
        } else {
            self.owed.insert(topic.to_owned(), payload.to_vec());
        }
    }

    pub(super) fn handle_down(&mut self) {
        self.connected = false;
    }

    /// There is a new connection.
    pub(super) fn handle_up(&mut self, now: Duration) {
        let mut all = std::mem::take(&mut self.older);
        all.append(&mut self.newer);
        all.append(&mut self.owed);
        self.owed = all;
        self.since = now;
        self.connected = true;
    }

    /// The next one to publish, which is to be noted again then.
    pub(super) fn poll_owed(&mut self) -> Option<(String, Vec<u8>)> {
        if !self.connected {
            return None;
        }
        self.owed.pop_first()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn owed(notices: &mut Notices) -> Vec<(String, Vec<u8>)> {
        std::iter::from_fn(|| notices.poll_owed()).collect()
    }

    fn notice(topic: &str, payload: &[u8]) -> (String, Vec<u8>) {
        (topic.to_owned(), payload.to_vec())
    }

    #[test]
    fn what_was_lost_before_and_after_the_end_was_known_is_repeated_once() {
        let mut notices = Notices::default();
        notices.handle_up(s(0));
        notices.note("jobs/a", b"1", true, s(1));
        notices.note("jobs/b", b"1", true, s(30));
        notices.note("jobs/c", b"1", true, s(41));
        notices.note("jobs/c", b"2", true, s(45));
        assert_eq!(owed(&mut notices), []);
        notices.handle_down();
        notices.note("jobs/d", b"1", false, s(50));
        notices.note("jobs/d", b"2", false, s(90));
        assert_eq!(owed(&mut notices), [], "nobody would get it");
        notices.handle_up(s(91));
        let expected = [
            notice("jobs/b", b"1"),
            notice("jobs/c", b"2"),
            notice("jobs/d", b"2"),
        ];
        assert_eq!(owed(&mut notices), expected, "`a` is long ago");
        assert_eq!(owed(&mut notices), []);
    }

    #[test]
    fn what_found_no_room_is_published_later_unless_a_newer_one_was() {
        let mut notices = Notices::default();
        notices.handle_up(s(0));
        notices.note("jobs/a", b"1", false, s(1));
        notices.note("jobs/b", b"1", false, s(1));
        notices.note("jobs/b", b"2", true, s(2));
        assert_eq!(owed(&mut notices), [notice("jobs/a", b"1")]);
    }

    /// The new connection may end before it carried anything.
    #[test]
    fn what_was_repeated_is_repeated_again_after_another_end() {
        let mut notices = Notices::default();
        notices.note("jobs/a", b"1", false, s(0));
        notices.handle_up(s(1));
        for (topic, payload) in owed(&mut notices) {
            notices.note(&topic, &payload, true, s(1));
        }
        notices.handle_down();
        notices.handle_up(s(2));
        assert_eq!(owed(&mut notices), [notice("jobs/a", b"1")]);
    }
}
