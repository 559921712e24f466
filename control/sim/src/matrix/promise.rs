//! What the design promises for each cell of the fault table, whatever was recorded.

use super::cell::{Cell, Direction, Fault, Part, When, Where};
use super::outcome::Outcome;

/// Why a cell costs at most so much.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Promise {
    /// Whoever could answer is not concerned, or what is known is used without managers: nothing is lost.
    Nothing,
    /// Only who is away knows the service, or who calls it: new flows fail until it is back. What was asked meanwhile waits
    /// 2 s for an answer over HTTP, and is asked again within a second.
    Waits,
    /// The caller's own gateway is away, and everything with it.
    CutOff,
    /// One of two called nodes is away: new flows go to the other after a second, its own flows wait for it.
    FailsOver,
    /// As [`Promise::FailsOver`], but the node comes and goes, and each time new flows find out anew.
    FailsOverAgain,
    /// Its instances are gone, and it says so as soon as it is there again, after a second: a second later nobody is sent
    /// there.
    Ends,
}

/// The workload: ten requests a second of each of four flows, of which two are with each called node, and ten new flows.
const GOING_PER_S: u32 = 40;
const NEW_PER_S: u32 = 10;
const AWAY_S: u32 = 20;

/// What a cell may cost, by its nature.
#[must_use]
pub const fn promise(cell: Cell) -> Promise {
    match (cell.part, cell.when, cell.place, cell.direction) {
        (Part::Node, _, _, Direction::Out) => Promise::CutOff,
        (Part::Node, _, _, Direction::In) => match cell.fault {
            Fault::Killed | Fault::Partitioned => Promise::FailsOver,
            // Nothing is under way to the caller that could come late: it hears the node when all is over.
            Fault::Slow if matches!(cell.when, When::Before) => Promise::FailsOver,
            Fault::Slow | Fault::Flapping => Promise::FailsOverAgain,
            Fault::Wiped => Promise::Ends,
        },
        // What is known is used without managers; and a cluster knows what runs in it.
        (_, When::After, _, _) | (Part::Root, When::Before, Where::Same, _) => Promise::Nothing,
        // Also inwards from another cluster: the called gateway has to learn who calls before it lets an answer go.
        (Part::Root | Part::Cluster | Part::Broker, When::Before, _, _) => Promise::Waits,
    }
}

/// What may come on top of the file where new flows find out that a called node is away: a change anywhere in the system moves
/// where round robin and the timers of probes stand when the fault strikes. `None` elsewhere: nothing depends on that.
///
/// Going flows do not either: of four, round robin gives two to each called node. The figures are the spread over 20 moments
/// of the fault in a second ([`Moment`](super::Moment)), in words:
/// * who is in use is looked at four times a second, so that everything may be a quarter of a second later, and half of the
///   new flows of that time go to the node;
/// * of a node that comes and goes, each second time may cost one more;
/// * what a slow node says late brings it back for a moment, once or twice more, four new flows each time.
#[must_use]
pub const fn chance(cell: Cell) -> Option<Outcome> {
    let (new_lost, new_ms) = match (promise(cell), cell.fault) {
        (Promise::Nothing | Promise::Waits | Promise::CutOff, _) => return None,
        (Promise::FailsOver | Promise::Ends, _) => (2, Some(300)),
        // Which time was the last that cost a new flow says nothing.
        (Promise::FailsOverAgain, Fault::Slow) => (8, None),
        (Promise::FailsOverAgain, _) => (5, None),
    };
    Some(Outcome {
        flows_lost: GOING_PER_S / 4,
        new_lost,
        new_ms,
        equal_ms: Some(1000),
    })
}

impl Promise {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Waits => "waits",
            Self::CutOff => "cut-off",
            Self::FailsOver => "fails-over",
            Self::FailsOverAgain => "fails-over-again",
            Self::Ends => "ends",
        }
    }

    /// The most it may cost.
    #[must_use]
    pub const fn limit(self) -> Outcome {
        let (flows_lost, new_lost, new_ms) = match self {
            Self::Nothing => (0, 0, 0),
            Self::Waits | Self::CutOff => {
                let s = AWAY_S + 3;
                (s * GOING_PER_S, s * NEW_PER_S, s * 1000)
            }
            // All going flows may be with that node.
            Self::FailsOver => ((AWAY_S + 1) * GOING_PER_S, NEW_PER_S, 1000),
            Self::Ends => (2 * GOING_PER_S, 2 * NEW_PER_S, 2000),
            // A new flow a second, and none in between: a tenth of them.
            Self::FailsOverAgain => {
                let s = AWAY_S + 1;
                (s * GOING_PER_S, s * NEW_PER_S / 10, s * 1000)
            }
        };
        Outcome {
            flows_lost,
            new_lost,
            new_ms: Some(new_ms),
            equal_ms: Some(5000),
        }
    }
}
