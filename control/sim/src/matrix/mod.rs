//! The fault table: every part of the system fails in every way, and what that costs those who talk is known beforehand.
//!
//! | dimension | |
//! |---|---|
//! | part | the *root*; the *cluster* manager of the site, with the broker inside it; the *broker* of the site, as a process of its own whose manager goes on; the gateway of the *node* |
//! | fault | *killed* and started 20 s later; *partitioned* from everybody for 20 s; *slow*: everything it says and is told takes 10 s longer, for 20 s; *flapping*: ten times a second away (killed) and a second there; *wiped*: killed, and started a second later without its state |
//! | when | *before* consistency: the caller's gateway has not heard of the service when the fault strikes, and its first packet leaves then; *after*: it has the rows, and flows are under way |
//! | where | the called service runs in the caller's *same* cluster, or in the *other* one |
//! | direction | the fault strikes the observed node, or the managers of its cluster; *out*: its instance calls a service on two other nodes; *in*: an instance elsewhere calls a service, one of whose two instances runs on the observed node |
//!
//! **Time line.** The fault strikes at 0. At 10 s the called service gets a third instance on a healthy node: a change that
//! somebody must hear of. At 20 s everything is healed: a root without its store gets it back, and the instances of a
//! wiped node are attached again. At 40 s it ends.
//!
//! **Workload.** Four flows that go on, 10 requests a second each, and 10 new flows a second of one request each, all UDP
//! and to the ServiceIP. A request that is not answered within a second is lost.

mod cell;
mod outcome;
mod promise;
mod run;
mod table;

pub use cell::{Cell, Direction, Fault, Part, When, Where};
pub use outcome::Outcome;
pub use promise::{Promise, chance, promise};
pub use run::{Moment, run};
pub use table::{Checked, Expected, check_all, expected, run_all, to_csv};
