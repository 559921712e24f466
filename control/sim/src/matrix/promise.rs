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

    /// Whether it depends on who had chosen the node that fails, which any change of a hash moves: such cells are held to
    /// the promise alone, and what is recorded is an example.
    #[must_use]
    pub const fn is_chance(self) -> bool {
        match self {
            Self::Nothing | Self::Waits | Self::CutOff => false,
            Self::FailsOver | Self::FailsOverAgain | Self::Ends => true,
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
