//! Names as an instance resolves them (thesis 3.6.2): unicast DNS (RFC 1035, EDNS of RFC 6891) on the gateway's address.
//!
//! In the order in which a query meets them: [`Server`] takes it and holds it while an answer is fetched; [`zone`] says
//! what the name means; [`decide()`] what to do, from a snapshot of [`Names`]; [`reply`] writes the message, which `repeated` keeps for the next time; [`Exchange`]
//! asks upstream resolvers for names that are not ours. No socket, no clock: the gateway's shell has those.

pub mod zone;
pub mod names;
mod allowance;
mod decide;
mod reply;
mod repeated;
mod outcome;
mod server;
mod upstream;

pub use decide::{Decision, Question, decide};
pub use names::{Known, Names, Service};
pub use outcome::{Counts, Outcome};
pub use reply::{Body, Rr};
pub use server::{Forward, Reply, Server, Settings, Transport};
pub use upstream::{Exchange, Step, Verdict};
pub use zone::{Choice, Subject, ZoneError, Zones};
