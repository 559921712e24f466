//! Nodes that are asked for by their public key: of one that initiates a tunnel nothing else is known.

use super::{Asker, Event};
use crate::message::{NodeKey, TableQueryResult};
use crate::table_query::{Key, NodePlace};
use std::time::Duration;

impl Asker {
    /// An answer about the node with this key. One that is not to be believed, or speaks of another node, changes nothing.
    pub(super) fn node_result(&mut self, key: NodeKey, result: &TableQueryResult, now: Duration) {
        let asked = Key::Node(key);
        let Some(entry) = &result.node else {
            self.absent(Some(asked), result, now);
            return;
        };
        let is_waited_for = self.queries.contains_key(&asked)
            || self.absent.get(&asked).is_some_and(|it| !it.expired);
        let place = NodePlace::of_entry(entry).filter(|place| place.key == key);
        if let Some(place) = place.filter(|_| is_waited_for)
            && self.believe_node(entry)
        {
            self.answered(&asked);
            self.no_longer_absent(&asked);
            self.events.push_back(Event::Node(place));
        }
    }
}
