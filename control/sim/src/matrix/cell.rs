//! The dimensions of the fault table, and the names of their values.

use std::fmt;

macro_rules! dimension {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
        pub enum $name {
            $($(#[$value_doc])* $value),+
        }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$value),+];

            /// As the file of expected outcomes spells it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $text),+
                }
            }

            fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.name() == text)
            }
        }
    };
}

dimension! {
    /// What fails.
    Part { Root = "root", Cluster = "cluster", Broker = "broker", Node = "node" }
}
dimension! {
    /// How it fails.
    Fault {
        Killed = "killed",
        Partitioned = "partitioned",
        Slow = "slow",
        Flapping = "flapping",
        Wiped = "wiped",
    }
}
dimension! {
    /// Whether the caller's gateway knows the service when the fault strikes.
    When { Before = "before", After = "after" }
}
dimension! {
    /// Where the called service runs, seen from the caller.
    Where { Same = "same", Other = "other" }
}
dimension! {
    /// Whether the observed node, on whose side the fault strikes, calls or is called.
    Direction { Out = "out", In = "in" }
}

/// One of the 160.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Cell {
    pub part: Part,
    pub fault: Fault,
    pub when: When,
    pub place: Where,
    pub direction: Direction,
}

impl Cell {
    /// All, in the order of the file.
    pub fn all() -> impl Iterator<Item = Self> {
        let per = |part: usize, of: usize, index: usize| (index / part) % of;
        (0..160).map(move |index| Self {
            part: Part::ALL[per(40, 4, index)],
            fault: Fault::ALL[per(8, 5, index)],
            when: When::ALL[per(4, 2, index)],
            place: Where::ALL[per(2, 2, index)],
            direction: Direction::ALL[per(1, 2, index)],
        })
    }

    /// From the five names.
    #[must_use]
    pub fn parse(names: [&str; 5]) -> Option<Self> {
        let [part, fault, when, place, direction] = names;
        Some(Self {
            part: Part::parse(part)?,
            fault: Fault::parse(fault)?,
            when: When::parse(when)?,
            place: Where::parse(place)?,
            direction: Direction::parse(direction)?,
        })
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            part,
            fault,
            when,
            place,
            direction,
        } = self;
        let (part, fault, when) = (part.name(), fault.name(), when.name());
        write!(
            f,
            "{part},{fault},{when},{},{}",
            place.name(),
            direction.name()
        )
    }
}
