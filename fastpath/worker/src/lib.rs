//! A worker: one thread, pinned to a core, that moves frames between its two links through the engine.
//!
//! [`turn`] is one round of work and needs no thread; [`run`] is the loop around it that spins, sleeps and stops;
//! [`mod@cores`] pins. Control holds a [`Handle`] per worker and hears it through its [`Bell`].

pub mod turn;
pub mod run;
pub mod cores;
pub mod bell;
pub mod tunnel;

pub use bell::Bell;
pub use cores::{CoreError, cores};
pub use run::{Ended, Exit, Handle, Settings, SpawnError, spawn};
pub use tunnel::{Dscp, Orders, Tunnel};
pub use turn::{Ready, Turn, Worker};
