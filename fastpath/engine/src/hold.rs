//! Packets held until control has answered a question, about an address or the rules of a service; each is asked once.

use crate::batch::{Answer, Now, Stop, Turn};
use crate::engine::{Engine, HELD_FRAMES_MAX, Settings, Side};
use crate::parse;
use sluice_memory::{Batch, Frame};
use sluice_tables::{Known, Placement, Question, Tables, Target, Upcall};
use sluice_wire::icmp_error::Unreachable;
use sluice_wire::{DropReason, Ip};

/// An unanswered question is asked again after this time, if packets still wait for it.
const ASK_AGAIN_MS: u64 = 1_000;
/// Questions remembered as asked; beyond that the oldest may be asked twice, which control coalesces.
const ASKED_MAX: usize = 256;

#[derive(Debug)]
struct Held {
    frame: Frame,
    question: Question,
    side: Side,
    since: Now,
}

/// Packets of one question that may wait in any case.
const HELD_PER_QUESTION_MIN: usize = 4;

/// One worker's held packets.
#[derive(Debug)]
pub(crate) struct Hold {
    held: Vec<Held>,
    bytes: usize,
    asked: Vec<(Question, Now)>,
    frames_max: usize,
    bytes_max: usize,
    hold_ms: u64,
}

impl Hold {
    pub(crate) fn new(settings: &Settings) -> Self {
        let frames_max = settings.held_frames_max.min(HELD_FRAMES_MAX);
        Self {
            held: Vec::with_capacity(frames_max),
            bytes: 0,
            asked: Vec::with_capacity(ASKED_MAX),
            frames_max,
            bytes_max: settings.held_bytes_max,
            hold_ms: settings.held_ms,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether one more packet of that question may wait. No question, and no flood of strangers through the tunnel,
    /// takes all places.
    fn has_place(&self, question: Question, side: Side) -> bool {
        let alike = self
            .held
            .iter()
            .filter(|held| held.question == question)
            .count();
        let inbound = self
            .held
            .iter()
            .filter(|held| held.side == Side::Inbound)
            .count();
        self.held.len() < self.frames_max
            && alike < (self.frames_max / 4).max(HELD_PER_QUESTION_MIN)
            && (side == Side::Outbound || inbound < self.frames_max.div_ceil(2))
    }

    pub(crate) fn poll_timeout(&self) -> Option<Now> {
        // In order of arrival.
        Some(self.held.first()?.since.plus_ms(self.hold_ms))
    }

    pub(crate) fn forget_answered(&mut self, tables: &Tables) {
        self.asked
            .retain(|(question, _)| !is_answered(*question, tables));
    }

    /// Takes up to `room` frames of one side whose question is answered, in order of arrival.
    pub(crate) fn take_answered(&mut self, tables: &Tables, room: usize) -> Option<(Side, Batch)> {
        self.take(room, |held| is_answered(held.question, tables))
    }

    fn take(&mut self, room: usize, due: impl Fn(&Held) -> bool) -> Option<(Side, Batch)> {
        let side = self.held.iter().find(|held| due(held))?.side;
        let mut batch = Batch::new();
        let room = room.min(batch.capacity());
        let mut at = 0;
        while at < self.held.len() && batch.len() < room {
            let held = &self.held[at];
            if held.side == side && due(held) {
                let held = self.held.remove(at);
                self.bytes -= held.frame.len();
                batch.push(held.frame);
            } else {
                at += 1;
            }
        }
        (!batch.is_empty()).then_some((side, batch))
    }

    /// Whether the question was asked lately.
    fn is_asked(&self, question: Question, now: Now) -> bool {
        self.asked
            .iter()
            .any(|(asked, at)| *asked == question && now < at.plus_ms(ASK_AGAIN_MS))
    }

    fn note_asked(&mut self, question: Question, now: Now) {
        self.asked.retain(|(asked, _)| *asked != question);
        if self.asked.len() >= ASKED_MAX {
            self.asked.remove(0);
        }
        self.asked.push((question, now));
    }
}

impl Engine {
    /// Asks control and holds the packet; gives it back with the reason when it cannot wait.
    pub(crate) fn ask(
        &mut self,
        frame: Frame,
        question: Question,
        side: Side,
        turn: &Turn<'_>,
    ) -> Result<(), (Frame, DropReason)> {
        if !self.hold.is_asked(question, turn.now) {
            if !self.may_ask(question, turn) {
                return Err((frame, DropReason::QuestionLimit));
            }
            if self.tell(Upcall::Ask(question)) {
                self.counters.questions.add(1);
                self.hold.note_asked(question, turn.now);
            }
        }
        let hold = &mut self.hold;
        if !hold.has_place(question, side) || hold.bytes + frame.len() > hold.bytes_max {
            return Err((frame, DropReason::HoldFull));
        }
        hold.bytes += frame.len();
        hold.held.push(Held {
            frame,
            question,
            side,
            since: turn.now,
        });
        turn.account.held.add(1);
        self.counters.held.add(1);
        Ok(())
    }

    /// Drops what waited too long; a local caller is told.
    pub(crate) fn drop_unanswered(&mut self, turn: &mut Turn<'_>) {
        let (now, hold_ms) = (turn.now, self.hold.hold_ms);
        let due = |held: &Held| now >= held.since.plus_ms(hold_ms);
        while let Some((side, batch)) = self.hold.take(turn.out.room(), due) {
            self.counters.held.sub(batch.len() as u64);
            turn.account.held.sub(batch.len() as u64);
            for frame in batch {
                let stop = match side {
                    Side::Outbound => Stop::Refuse(
                        DropReason::Unanswered,
                        Answer::Unreachable(Unreachable::Host),
                    ),
                    Side::Inbound => Stop::Drop(DropReason::Unanswered),
                };
                let lane = parse::headers(&frame);
                self.stop(frame, Some(&lane), stop, side, turn);
            }
        }
        self.hold
            .asked
            .retain(|(_, at)| now < at.plus_ms(hold_ms.max(ASK_AGAIN_MS)));
    }
}

/// Whether the tables say enough for the packet to go on, or to be dropped for good.
fn is_answered(question: Question, tables: &Tables) -> bool {
    let address: Ip = match question {
        Question::Dialled(address)
        | Question::InnerSource {
            source: address, ..
        } => address,
        Question::Rules(service) => {
            return !tables.service(service).is_some_and(|row| row.awaits_rules);
        }
    };
    match tables.semantic(address) {
        None => false,
        Some(Known::Target(Target::Instance(slot))) => tables
            .instance(slot)
            .is_some_and(|row| row.placement != Placement::Nowhere),
        Some(Known::Target(Target::Service { .. }) | Known::Unavailable | Known::Absent) => true,
    }
}
