//! Nodes that answer, fall silent, refuse, cannot answer, or are only thought silent because we did not run.

use super::*;

const MS: Duration = Duration::from_millis(1);

fn node() -> NodeAddress {
    ("192.0.2.1".parse().unwrap(), 50103)
}

/// A prober and a node that answers as `answers` says, on virtual time.
struct Pair {
    prober: Prober,
    /// Its gateway says that it answers probes.
    says: bool,
    now: Duration,
    events: Vec<(Duration, Event)>,
    probes: u32,
    heard: Option<Duration>,
}

impl Pair {
    fn new() -> Self {
        Self {
            prober: Prober::new(Settings::default()),
            says: false,
            now: Duration::from_secs(100),
            events: Vec::new(),
            probes: 0,
            heard: None,
        }
    }

    /// Runs for `span`; the node is in use, and answers each probe after `answer`, if at all. Timers come `late`.
    fn run(&mut self, span: Duration, answer: Option<Duration>, late: Duration) {
        let end = self.now + span;
        let mut answers: VecDeque<(Duration, u16)> = VecDeque::new();
        while self.now < end {
            self.now += MS;
            if self.now.subsec_millis().is_multiple_of(500) {
                self.prober.handle_used(node(), self.says, self.now);
            }
            // A timer is served before the answers that wait: the order that is worse.
            if self
                .prober
                .poll_timeout()
                .is_some_and(|due| due + late <= self.now)
            {
                let heard = self.heard;
                self.prober.handle_timeout(self.now, |_| heard);
            }
            while let Some(probe) = self.prober.poll_transmit() {
                self.probes += 1;
                if let Some(delay) = answer {
                    answers.push_back((self.now + delay, probe.sequence));
                }
            }
            while let Some((_, sequence)) = answers.pop_front_if(|(at, _)| *at <= self.now) {
                self.prober.handle_answer(node(), sequence, self.now);
            }
            while let Some(event) = self.prober.poll_event() {
                self.events.push((self.now, event));
            }
        }
    }
}

#[test]
fn a_silent_node_is_lost_within_a_second_and_found_when_it_answers() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(5), Some(MS), Duration::ZERO);
    assert_eq!(pair.events, []);
    let died = pair.now;
    pair.run(Duration::from_secs(3), None, Duration::ZERO);
    let why = Loss::Silent;
    assert_eq!(pair.events.len(), 1, "said once");
    assert_eq!(pair.events[0].1, Event::Lost { node: node(), why });
    assert!(pair.events[0].0 - died <= 800 * MS);
    assert_eq!(pair.prober.lost_nodes().count(), 1);
    let returned = pair.now;
    pair.run(Duration::from_secs(3), Some(MS), Duration::ZERO);
    assert_eq!(pair.events[1].1, Event::Found { node: node() });
    assert!(pair.events[1].0 - returned <= 510 * MS);
    assert_eq!(pair.events.len(), 2);
}

/// A gateway that starts while another one is dead already: the first new flow goes there, and none after a second.
#[test]
fn a_silent_node_that_says_it_answers_is_lost_within_a_second_of_its_first_use() {
    let mut pair = Pair::new();
    pair.says = true;
    let begin = pair.now;
    pair.run(Duration::from_secs(3), None, Duration::ZERO);
    let why = Loss::Silent;
    assert_eq!(pair.events.len(), 1, "said once");
    assert_eq!(pair.events[0].1, Event::Lost { node: node(), why });
    // The use is noticed up to half a second late here; gateways look twice as often.
    assert!(pair.events[0].0 - begin <= 500 * MS + 650 * MS);
    pair.run(Duration::from_secs(1), Some(MS), Duration::ZERO);
    assert_eq!(pair.events[1].1, Event::Found { node: node() });
    pair.run(Duration::from_secs(1), Some(MS), Duration::ZERO);
    assert_eq!(pair.events.len(), 2);
}

/// In place of a legacy gateway, which left many probes unanswered: the silence of the one before does not count.
#[test]
fn silence_from_before_the_node_said_that_it_answers_does_not_count() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(40), None, Duration::ZERO);
    pair.says = true;
    pair.run(Duration::from_secs(40), Some(500 * MS), Duration::ZERO);
    assert_eq!(pair.events, []);
    pair.run(Duration::from_secs(2), None, Duration::ZERO);
    assert_eq!(pair.events.len(), 1);
}

/// Our own firewall drops the probes, and says so.
#[test]
fn what_did_not_leave_is_no_silence() {
    let mut prober = Prober::new(Settings::default());
    for tick in 0..600 {
        let now = tick * 10 * MS;
        prober.handle_used(node(), true, now);
        prober.handle_timeout(now, |_| None);
        while let Some(probe) = prober.poll_transmit() {
            prober.handle_unsent(probe.node);
        }
    }
    assert_eq!(prober.poll_event(), None);
}

/// Something on the way lets data through, but no probes.
#[test]
fn a_node_that_is_heard_and_answers_nothing_is_lost_once_at_most() {
    let mut pair = Pair::new();
    pair.says = true;
    let why = Loss::Silent;
    for _ in 0..5 {
        pair.run(Duration::from_secs(3), None, Duration::ZERO);
        pair.heard = Some(pair.now);
    }
    pair.run(Duration::from_secs(60), None, Duration::ZERO);
    let events: Vec<Event> = pair.events.iter().map(|(_, event)| *event).collect();
    let node = node();
    assert_eq!(events, [Event::Lost { node, why }, Event::Found { node }]);
    // It answers after all.
    pair.run(Duration::from_secs(60), Some(MS), Duration::ZERO);
    pair.run(Duration::from_secs(2), None, Duration::ZERO);
    assert_eq!(pair.events.len(), 3);
}

#[test]
fn a_node_that_never_answered_is_never_lost_by_silence_and_seldom_probed() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(300), None, Duration::ZERO);
    assert_eq!(pair.events, []);
    assert!(pair.probes < 20, "{} probes in 5 min", pair.probes);
    pair.prober.handle_refused(node(), pair.now);
    let why = Loss::Refused;
    let event = Event::Lost { node: node(), why };
    assert_eq!(pair.prober.poll_event(), Some(event), "its kernel spoke");
}

/// The prober's thread gets the processor every 3 s only, the node answers in 1 ms.
#[test]
fn our_own_stalls_are_no_silence_of_others() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(5), Some(MS), Duration::ZERO);
    pair.run(Duration::from_secs(600), Some(MS), Duration::from_secs(3));
    assert_eq!(pair.events, []);
}

#[test]
fn slow_answers_are_answers() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(600), Some(500 * MS), 15 * MS);
    assert_eq!(pair.events, []);
}

/// Probes are lost in a flood, but data comes through.
#[test]
fn who_is_heard_is_not_silent() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(5), Some(MS), Duration::ZERO);
    for _ in 0..100 {
        pair.run(300 * MS, None, Duration::ZERO);
        pair.heard = Some(pair.now);
    }
    assert_eq!(pair.events, []);
    pair.run(Duration::from_secs(2), None, Duration::ZERO);
    assert_eq!(pair.events.len(), 1, "what was heard before does not help");
    pair.heard = Some(pair.now);
    pair.run(Duration::from_secs(1), None, Duration::ZERO);
    assert_eq!(pair.events[1].1, Event::Found { node: node() });
}

#[test]
fn a_node_that_nothing_uses_is_left_alone_until_it_is_used_again() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(2), Some(MS), Duration::ZERO);
    let mut now = pair.now;
    while let Some(due) = pair.prober.poll_timeout() {
        now = due;
        pair.prober.handle_timeout(due, |_| None);
        while let Some(probe) = pair.prober.poll_transmit() {
            pair.prober.handle_answer(node(), probe.sequence, due);
        }
    }
    assert!(now - pair.now <= Duration::from_secs(3));
    pair.prober.handle_used(node(), false, now);
    assert!(pair.prober.poll_timeout().is_some());
    pair.prober.retain(|_| false);
    assert_eq!(pair.prober.poll_timeout(), None);
}

/// An off-path sender does not know the number of the last probe.
#[test]
fn an_old_or_invented_answer_counts_for_nothing() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(5), Some(MS), Duration::ZERO);
    pair.run(Duration::from_secs(2), None, Duration::ZERO);
    assert_eq!(pair.events.len(), 1);
    let last = pair.prober.nodes[&node()].sequence;
    for sequence in [0, last + 1, last.wrapping_sub(16)] {
        pair.prober.handle_answer(node(), sequence, pair.now);
    }
    assert_eq!(pair.prober.poll_event(), None);
}
