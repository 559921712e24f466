//! The two doors between control and workers.
//!
//! Down: [`Tables`], an immutable snapshot that control builds with a [`Writer`] and publishes whole; a worker reads it
//! through a [`Reader`], once per batch, without a lock. Up: [`Upcalls`], a bounded queue of questions and observations.
#![forbid(unsafe_code)]

pub mod snapshot;
pub mod route;
mod permits;
mod moves;
pub mod session;
pub mod slots;
pub mod publish;
pub mod upcall;

pub use moves::{SENT_ON_S, SENT_ON_S_MAX};
pub use permits::Isolation;
pub use publish::{Publisher, Reader, Writer};
pub use route::{PeerRoute, Route, Routed};
pub use session::{TunnelFormat, session_address, session_of};
pub use slots::{InstanceSlot, PeerSlot, ServiceSlot};
pub use snapshot::{
    Heard, Instance, InstanceState, Known, Peer, Placement, Policy, Reach, Service, Tables, Target,
    Used,
};
pub use upcall::{Question, Suspicion, Upcall, Upcalls};
