//! Whether other nodes live: nodes in use are probed, and silence is judged by evidence, never by a timer alone.
//!
//! A node is *lost* when several probes in a row went unanswered, nothing else came from it meanwhile, and its *answers are
//! due*: its gateway says that it answers probes, or has answered one before. One that cannot (legacy NetManagers) is never
//! failed by its silence. What a gateway says of itself is evidence until the way shows otherwise: a node that is heard,
//! but has answered none of as many probes as would make it lost, sits behind something that lets no probe through, and
//! is treated as one that cannot. Time in which this side did not run counts for nothing: the judgement waits as much longer
//! as its own timers were late. A node whose kernel says that nobody listens at the tunnel port is lost at once. It is *found*
//! again by any sign of life.
//!
//! Timers, in words: a node *in use* is probed every `probe`, a lost one every `probe_lost` while it has a row. One whose
//! answers are not due is probed every `probe_unproven`, after [`UNPROVEN_PROBES`] of them once in `probe_mute`.

use crate::table_query::timers::Timers;
use sluice_wire::Ip;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Probes to a node whose answers are not due before it is taken for one that cannot.
pub const UNPROVEN_PROBES: u32 = 5;

/// A node as tunnels reach it: its address and exposed port.
pub type NodeAddress = (Ip, u16);

/// Times of a [`Prober`].
#[derive(Clone, Debug)]
pub struct Settings {
    pub probe: Duration,
    pub probe_lost: Duration,
    pub probe_unproven: Duration,
    pub probe_mute: Duration,
    /// A node is lost after so many probes without an answer, the first of them `silence` ago.
    pub unanswered: u32,
    pub silence: Duration,
    /// A node that nothing used for so long is not probed.
    pub idle: Duration,
    /// A timer that comes later than this shows that this side did not run.
    pub late: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            probe: Duration::from_millis(150),
            probe_lost: Duration::from_millis(500),
            probe_unproven: Duration::from_secs(1),
            probe_mute: Duration::from_secs(30),
            unanswered: 4,
            silence: Duration::from_millis(600),
            idle: Duration::from_secs(2),
            late: Duration::from_millis(20),
        }
    }
}

/// Why a node is lost.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Loss {
    /// Nothing came back.
    Silent,
    /// Nobody listens at its tunnel port.
    Refused,
}

/// What became known about a node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    Lost { node: NodeAddress, why: Loss },
    Found { node: NodeAddress },
}

/// An echo request to the gateway of a node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Probe {
    pub node: NodeAddress,
    /// Repeated by the answer.
    pub sequence: u16,
}

#[derive(Clone, Debug, Default)]
struct Watched {
    used_at: Duration,
    sequence: u16,
    /// Its gateway says that it answers probes.
    says: bool,
    /// It was heard while it should have answered and did not: what its gateway says counts no more.
    refuted: bool,
    /// It has answered a probe.
    proven: bool,
    /// Probes without an answer or any other sign of life, and when the first of them left.
    unanswered: u32,
    since: Duration,
    /// When it was lost.
    lost_at: Option<Duration>,
}

impl Watched {
    /// Its silence says something.
    const fn is_due(&self) -> bool {
        self.proven || self.says && !self.refuted
    }
}

/// Probes nodes and says which are lost. See the module.
#[derive(Clone, Debug)]
pub struct Prober {
    settings: Settings,
    nodes: BTreeMap<NodeAddress, Watched>,
    timers: Timers<NodeAddress>,
    probes: VecDeque<Probe>,
    events: VecDeque<Event>,
}

impl Prober {
    #[must_use]
    pub const fn new(settings: Settings) -> Self {
        Self {
            settings,
            nodes: BTreeMap::new(),
            timers: Timers::new(),
            probes: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Packets go, or may go at any moment, to instances of the node. `answers_probes`: its gateway says so, and can be asked.
    /// Its silence counts from then on, not from before.
    pub fn handle_used(&mut self, node: NodeAddress, answers_probes: bool, now: Duration) {
        let watched = self.nodes.entry(node).or_default();
        watched.used_at = now;
        let is_news = answers_probes && !watched.says;
        watched.says = answers_probes;
        if is_news {
            watched.refuted = false;
            watched.unanswered = 0;
        }
        if is_news || !self.timers.is_set(&node) {
            self.timers.set(node, now);
        }
    }

    /// Forgets all nodes that no row places anything on.
    pub fn retain(&mut self, is_known: impl Fn(&NodeAddress) -> bool) {
        let timers = &mut self.timers;
        self.nodes.retain(|node, _| {
            let keep = is_known(node);
            if !keep {
                timers.cancel(node);
            }
            keep
        });
    }

    /// The node answered the probe with this number. What is no answer to a probe of the last while is ignored.
    pub fn handle_answer(&mut self, node: NodeAddress, sequence: u16, now: Duration) {
        let Some(watched) = self.nodes.get_mut(&node) else {
            return;
        };
        let age = watched.sequence.wrapping_sub(sequence);
        if watched.sequence == 0 || age >= 16 {
            return;
        }
        watched.unanswered = 0;
        let was_due = watched.is_due();
        watched.proven = true;
        if watched.lost_at.is_some() {
            self.found(node);
        }
        if !was_due && self.timers.is_set(&node) {
            self.timers.set(node, now + self.settings.probe);
        }
    }

    /// The probe to the node did not leave this one, as when its own firewall drops it: that is no silence of the other.
    pub fn handle_unsent(&mut self, node: NodeAddress) {
        if let Some(watched) = self.nodes.get_mut(&node) {
            watched.unanswered = 0;
        }
    }

    /// The node's kernel refused a probe: its gateway does not run.
    pub fn handle_refused(&mut self, node: NodeAddress, now: Duration) {
        if self
            .nodes
            .get(&node)
            .is_some_and(|watched| watched.unanswered > 0)
        {
            self.lost(node, Loss::Refused, now);
        }
    }

    /// Judges and probes. Call it when [`Prober::poll_timeout`] says so: how much later it is called is how long this
    /// side did not run. `heard` says when anything came from a node last, as far as that is known.
    pub fn handle_timeout(
        &mut self,
        now: Duration,
        heard: impl Fn(&NodeAddress) -> Option<Duration>,
    ) {
        let Some(due) = self.timers.next() else {
            return;
        };
        let late = now.saturating_sub(due);
        if late > self.settings.late {
            for watched in self.nodes.values_mut() {
                watched.since = (watched.since + late).min(now);
            }
        }
        while let Some(node) = self.timers.pop_due(now) {
            self.judge(node, heard(&node), now);
            self.probe(node, now);
        }
    }

    /// When [`Prober::handle_timeout`] is next due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.timers.next()
    }

    /// The next probe to send.
    pub fn poll_transmit(&mut self) -> Option<Probe> {
        self.probes.pop_front()
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The nodes that are lost now.
    pub fn lost_nodes(&self) -> impl Iterator<Item = NodeAddress> {
        self.nodes
            .iter()
            .filter(|(_, watched)| watched.lost_at.is_some())
            .map(|(node, _)| *node)
    }

    /// The nodes that are being probed.
    pub fn probed_nodes(&self) -> impl Iterator<Item = NodeAddress> {
        let nodes = self.nodes.keys().filter(|node| self.timers.is_set(node));
        nodes.copied()
    }

    fn judge(&mut self, node: NodeAddress, heard: Option<Duration>, now: Duration) {
        let settings = &self.settings;
        let Some(watched) = self.nodes.get_mut(&node) else {
            return;
        };
        if watched.unanswered > 0 && heard > Some(watched.since) {
            watched.refuted |= watched.says && watched.unanswered >= settings.unanswered;
            watched.unanswered = 0;
        }
        match watched.lost_at {
            Some(lost_at) if heard > Some(lost_at) => self.found(node),
            None if watched.is_due()
                && watched.unanswered >= settings.unanswered
                && watched.since + settings.silence <= now =>
            {
                self.lost(node, Loss::Silent, now);
            }
            _ => {}
        }
    }

    fn probe(&mut self, node: NodeAddress, now: Duration) {
        let settings = &self.settings;
        let Some(watched) = self.nodes.get_mut(&node) else {
            return;
        };
        if watched.lost_at.is_none() && watched.used_at + settings.idle <= now {
            // Nobody would notice; begins anew with the next use.
            watched.unanswered = 0;
            return;
        }
        if watched.unanswered == 0 {
            watched.since = now;
        }
        watched.unanswered = watched.unanswered.saturating_add(1);
        // Zero means that none was sent.
        watched.sequence = watched.sequence.wrapping_add(1).max(1);
        let wait = if watched.lost_at.is_some() {
            settings.probe_lost
        } else if watched.is_due() {
            settings.probe
        } else if watched.unanswered <= UNPROVEN_PROBES {
            settings.probe_unproven
        } else {
            settings.probe_mute
        };
        self.probes.push_back(Probe {
            node,
            sequence: watched.sequence,
        });
        self.timers.set(node, now + wait);
    }

    fn lost(&mut self, node: NodeAddress, why: Loss, now: Duration) {
        if let Some(watched) = self.nodes.get_mut(&node)
            && watched.lost_at.is_none()
        {
            watched.lost_at = Some(now);
            self.events.push_back(Event::Lost { node, why });
        }
    }

    fn found(&mut self, node: NodeAddress) {
        if let Some(watched) = self.nodes.get_mut(&node) {
            watched.lost_at = None;
            self.events.push_back(Event::Found { node });
        }
    }
}

#[cfg(test)]
mod tests;
