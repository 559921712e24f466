//! A connection that is there again within half a second of its way's healing: when to try, when to ask the peer for a
//! word, and when to give the connection up.
//!
//! Timers, in words: while there is none, a connection is *tried* again and again, soon at first, then every
//! `pause_max`. An attempt does not wait for earlier ones, which may still succeed: what TCP sent first and lost it
//! repeats a second later at the earliest. While there is one, the peer is *asked* for a word when it has been silent
//! for `ask_after`, so that TCP has something on its way that is acknowledged or not. That is the shell's to judge,
//! with the kernel's help (TCP's user timeout): a process that is busy loses no connection then. One that says nothing
//! for `silence_max` although its kernel acknowledges is *given up*.

use crate::table_query::backoff::{Backoff, Random};
use std::time::Duration;

/// Times of a [`Keeper`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Between two attempts, at first; doubles up to `pause_max`. Each is shortened by up to a quarter, so that those who
    /// lost their connections together do not come back together.
    pub pause_first: Duration,
    pub pause_max: Duration,
    /// The same after the peer refused us: it can be reached, but does not want us.
    pub refused_max: Duration,
    /// A connection that ends sooner counts as a refusal: the peer lets us in and does not keep us.
    pub lasting: Duration,
    /// A peer that was silent for so long is asked for a word.
    pub ask_after: Duration,
    /// A peer that was silent for so long is gone.
    pub silence_max: Duration,
}

/// What the shell does next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Begin another attempt to connect, beside those that are under way.
    Connect,
    /// Ask the peer for a word.
    Ask,
    /// End the connection: the peer says nothing. Counts as [`Keeper::handle_down`].
    GiveUp,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Down {
        next: Duration,
        attempts: u32,
    },
    Up {
        since: Duration,
        heard: Duration,
        asked: Duration,
    },
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Keeper {
    settings: Settings,
    random: Random,
    state: State,
    /// How often the peer refused us since it last kept us.
    refusals: u32,
    step: Option<Step>,
}

impl Keeper {
    /// Nothing is connected; the first attempt is due at once.
    #[must_use]
    pub const fn new(settings: Settings, seed: u64, now: Duration) -> Self {
        Self {
            settings,
            random: Random::new(seed),
            state: State::Down {
                next: now,
                attempts: 0,
            },
            refusals: 0,
            step: None,
        }
    }

    /// The connection is there.
    pub fn handle_up(&mut self, now: Duration) {
        self.step = None;
        self.state = State::Up {
            since: now,
            heard: now,
            asked: now,
        };
    }

    /// The connection ended, or what looked like one came to nothing.
    pub fn handle_down(&mut self, now: Duration) {
        match self.state {
            State::Up { since, .. } if now < since + self.settings.lasting => {
                self.handle_refused(now);
            }
            State::Up { .. } => {
                self.refusals = 0;
                self.wait(self.settings.pause_max, 1, now);
            }
            State::Down { attempts, .. } => {
                self.wait(self.settings.pause_max, attempts.max(1), now);
            }
        }
    }

    /// The peer was reached, and refused us.
    pub fn handle_refused(&mut self, now: Duration) {
        self.refusals = self.refusals.saturating_add(1);
        self.wait(self.settings.refused_max, self.refusals, now);
    }

    /// The peer said something.
    pub fn handle_heard(&mut self, now: Duration) {
        if let State::Up { heard, .. } = &mut self.state {
            *heard = now;
        }
    }

    /// Does what is due. Call it when [`Keeper::poll_timeout`] says so: by how much it is called late, this side did not
    /// run, and cannot know whether the peer was silent.
    pub fn handle_timeout(&mut self, now: Duration) {
        let Some(late) = now.checked_sub(self.poll_timeout()) else {
            return;
        };
        match &mut self.state {
            State::Down { attempts, .. } => {
                self.step = Some(Step::Connect);
                let attempts = attempts.saturating_add(1);
                self.wait(self.settings.pause_max, attempts, now);
            }
            State::Up { heard, asked, .. } => {
                *heard = (*heard + late).min(now);
                *asked = now;
                if now >= *heard + self.settings.silence_max {
                    self.step = Some(Step::GiveUp);
                    self.handle_down(now);
                } else if now >= *heard + self.settings.ask_after {
                    self.step = Some(Step::Ask);
                }
            }
        }
    }

    /// When [`Keeper::handle_timeout`] is next due. Every `handle_*` may change it.
    #[must_use]
    pub fn poll_timeout(&self) -> Duration {
        match self.state {
            State::Down { next, .. } => next,
            // One question per silence of `ask_after`: a second one would tell nothing that the first does not.
            State::Up { heard, asked, .. } => {
                (heard.max(asked) + self.settings.ask_after).min(heard + self.settings.silence_max)
            }
        }
    }

    /// What to do now; [`Keeper::handle_timeout`] may set it.
    pub fn poll_step(&mut self) -> Option<Step> {
        self.step.take()
    }

    fn wait(&mut self, max: Duration, attempts: u32, now: Duration) {
        let backoff = Backoff {
            first: self.settings.pause_first.min(max),
            max,
        };
        self.state = State::Down {
            next: now + backoff.wait(attempts, &mut self.random),
            attempts,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        pause_first: Duration::from_millis(50),
        pause_max: Duration::from_millis(400),
        refused_max: Duration::from_secs(2),
        lasting: Duration::from_secs(1),
        ask_after: Duration::from_millis(500),
        silence_max: Duration::from_secs(45),
    };

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// What is done until `end` by a shell that is never late, and when.
    fn steps(keeper: &mut Keeper, end: Duration) -> Vec<(Duration, Step)> {
        let mut steps = Vec::new();
        while keeper.poll_timeout() <= end {
            let now = keeper.poll_timeout();
            keeper.handle_timeout(now);
            steps.extend(keeper.poll_step().map(|step| (now, step)));
        }
        steps
    }

    #[test]
    fn it_tries_at_once_and_then_never_pauses_for_longer_than_said() {
        let mut keeper = Keeper::new(SETTINGS, 1, ms(7));
        let steps = steps(&mut keeper, ms(60_000));
        assert_eq!(steps[0], (ms(7), Step::Connect));
        for pair in steps.windows(2) {
            assert_eq!(pair[1].1, Step::Connect);
            let pause = pair[1].0 - pair[0].0;
            assert!(pause <= ms(400) && pause >= ms(37), "{pause:?}");
        }
        // A minute away costs at most so many small packets.
        assert!(steps.len() <= 200, "{}", steps.len());
    }

    #[test]
    fn it_is_tried_soon_after_the_connection_ended_however_long_it_was_away_before() {
        let mut keeper = Keeper::new(SETTINGS, 1, ms(0));
        steps(&mut keeper, ms(60_000));
        keeper.handle_up(ms(60_000));
        keeper.handle_down(ms(70_000));
        assert!(keeper.poll_timeout() <= ms(70_050));
    }

    #[test]
    fn two_who_lost_their_connections_together_do_not_come_back_together() {
        let attempts = |seed| {
            let mut keeper = Keeper::new(SETTINGS, seed, ms(0));
            keeper.handle_up(ms(0));
            keeper.handle_down(ms(1000));
            steps(&mut keeper, ms(5000))
        };
        assert_ne!(attempts(1), attempts(2));
    }

    #[test]
    fn who_is_refused_comes_back_more_and_more_seldom() {
        let mut keeper = Keeper::new(SETTINGS, 1, ms(0));
        let mut now = ms(0);
        let mut last = ms(0);
        for _ in 0..10 {
            keeper.handle_refused(now);
            last = keeper.poll_timeout() - now;
            now = keeper.poll_timeout();
        }
        assert!(last >= ms(1500), "{last:?}");
        keeper.handle_up(now);
        keeper.handle_down(now + ms(1000));
        assert!(keeper.poll_timeout() <= now + ms(1050));
    }

    /// As a broker does that has two clients with one name.
    #[test]
    fn who_is_let_in_and_put_out_at_once_comes_back_more_and_more_seldom() {
        let mut keeper = Keeper::new(SETTINGS, 1, ms(0));
        let mut now = ms(0);
        let mut last = ms(0);
        for _ in 0..10 {
            keeper.handle_up(now);
            now += ms(5);
            keeper.handle_down(now);
            last = keeper.poll_timeout() - now;
            now = keeper.poll_timeout();
        }
        assert!(last >= ms(1500), "{last:?}");
    }

    /// What was reached did not answer: it may have been the way.
    #[test]
    fn a_connection_that_came_to_nothing_does_not_begin_the_attempts_anew() {
        let mut keeper = Keeper::new(SETTINGS, 1, ms(0));
        steps(&mut keeper, ms(2000));
        keeper.handle_down(ms(2000));
        let pause = keeper.poll_timeout() - ms(2000);
        assert!(pause >= ms(300) && pause <= ms(400), "{pause:?}");
    }

    #[test]
    fn a_silent_peer_is_asked_and_given_up_in_the_end() {
        let mut keeper = Keeper::new(SETTINGS, 1, ms(0));
        keeper.handle_up(ms(0));
        let steps = steps(&mut keeper, ms(45_000));
        assert_eq!(steps[0], (ms(500), Step::Ask));
        assert_eq!(steps[1], (ms(1000), Step::Ask));
        assert_eq!(steps.last(), Some(&(ms(45_000), Step::GiveUp)));
        let given_up = steps.iter().filter(|(_, step)| *step == Step::GiveUp);
        assert_eq!(given_up.count(), 1);
    }

    #[test]
    fn nobody_is_asked_while_words_come() {
        let mut keeper = Keeper::new(SETTINGS, 1, ms(0));
        keeper.handle_up(ms(0));
        for now in (100..20_000).step_by(100) {
            assert_eq!(steps(&mut keeper, ms(now)), []);
            keeper.handle_heard(ms(now));
        }
    }

    /// The process was stopped for a minute: what came meanwhile has not been looked at yet.
    #[test]
    fn time_in_which_this_side_did_not_run_is_no_silence() {
        let mut keeper = Keeper::new(SETTINGS, 1, ms(0));
        keeper.handle_up(ms(0));
        keeper.handle_timeout(ms(60_000));
        assert_eq!(keeper.poll_step(), Some(Step::Ask));
        let steps = steps(&mut keeper, ms(60_000 + 44_000));
        assert!(steps.iter().all(|(_, step)| *step == Step::Ask));
    }
}
