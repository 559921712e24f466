//! An instance moves: it runs at the new place before it ends at the old one, and whoever talks to it goes on.

use crate::node::Local;
use crate::traffic::Dialled;
use crate::truth::Identity;
use crate::world::World;
use std::time::Duration;

/// From the request of the new node until the instance runs there; nothing is lost meanwhile.
const BEGUN: Duration = Duration::from_secs(3);
/// Everybody who can hear of the move has heard by then.
const HEARD: Duration = Duration::from_secs(1);
/// For so long the old node sends on what comes for the instance; callers that hear of nothing are watched in this time.
const SENT_ON: Duration = Duration::from_secs(20);

impl World {
    /// An instance moves to another node while its callers talk; with `unheard` a cluster that has neither node is away for
    /// as long as the old node sends on. Everything is whole before, and loses nothing.
    ///
    /// # Panics
    /// When the instance is not the same at the new place, or when a caller that was answered before misses an answer, or
    /// has one of another instance.
    pub fn move_in_peace(&mut self, which: usize, to: usize, unheard: bool) {
        let living = &self.truth.living;
        let all = living.len().max(1);
        let Some((identity, from)) = living.iter().nth(which % all) else {
            return;
        };
        let (identity, from) = (identity.clone(), *from);
        if from == to {
            return;
        }
        let key = (identity.0.clone(), identity.1);
        let before = self.nodes[from].locals[&key].clone();
        let callers = self.talking_to(&identity);
        let away = (0..self.clusters.len()).find(|cluster| {
            let concerned = [self.nodes[from].cluster, self.nodes[to].cluster];
            unheard && !concerned.contains(cluster)
        });
        if let Some(away) = away {
            self.stop_cluster(away);
        }
        self.note(format!("{identity:?} moves from node{from} to node{to}"));
        let now = self.now;
        self.nodes[to].take_over(&identity.0, identity.1, now);
        self.run_for(BEGUN);
        let Some(after) = self.nodes[to].locals.get(&key) else {
            panic!("{identity:?} does not run at node{to}");
        };
        assert_same_instance(&before, after);
        self.run_for(HEARD);
        let now = self.now;
        let ended = self.nodes[from].end(key, now);
        let (_, message) = ended.expect("it runs at the old place");
        self.note(format!("{identity:?} ends at node{from}"));
        self.send(from, message);
        self.run_for(if away.is_some() { SENT_ON } else { HEARD * 4 });
        for (id, missed) in callers {
            let flow = &self.traffic.flows[id];
            // Calls of the instance itself end with its old place.
            if flow.caller == identity {
                continue;
            }
            assert_eq!(
                flow.instance.as_ref(),
                Some(&identity),
                "flow {id} lost its instance by the move"
            );
            // One is on its way.
            assert!(
                flow.missed() <= missed + 1,
                "flow {id} of node{} missed {} answers when {identity:?} moved from node{from} to node{to}; drops: {:?}",
                flow.node,
                flow.missed() - missed,
                self.nodes
                    .iter()
                    .map(|node| node.plane.drops())
                    .collect::<Vec<_>>()
            );
        }
        if let Some(away) = away {
            self.start_cluster(away);
            self.run_for(Duration::from_secs(10));
        }
    }

    /// The flows that an instance answered lately and that are allowed, and how many answers each has missed.
    fn talking_to(&self, identity: &Identity) -> Vec<(usize, u32)> {
        let since = self.now.saturating_sub(Duration::from_secs(2));
        let open = self.traffic.open();
        open.filter(|(_, flow)| {
            flow.instance.as_ref() == Some(identity)
                && flow.answered_at.is_some_and(|at| at >= since)
                && self.truth.rules.allow(&flow.caller.0, &flow.job)
                && match &flow.dialled {
                    Dialled::Service => true,
                    Dialled::Instance(dialled) => dialled == identity,
                }
        })
        .map(|(id, flow)| (id, flow.missed()))
        .collect()
    }
}

/// It keeps its epoch and its InstanceIP, and has another address inside the node.
fn assert_same_instance(before: &Local, after: &Local) {
    assert_eq!(before.epoch, after.epoch, "a move begins no new instance");
    assert_eq!(
        before.instance_ip, after.instance_ip,
        "InstanceIPs are kept"
    );
    assert_ne!(before.ns_ip, after.ns_ip, "each node has its own NsIPs");
}
