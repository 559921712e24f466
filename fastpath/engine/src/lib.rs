//! The path of a packet, as one worker runs it. No socket, no clock, no thread: frames in, frames out.
//!
//! Modules are in packet order: [`outbound`] and [`inbound`] each read as one screen, the stages they call follow.
//! `fastpath/README.md` tells a packet's life.
#![forbid(unsafe_code)]

pub mod engine;
pub mod batch;
mod outbound;
mod inbound;
mod shortcut;
mod decap;
mod parse;
mod policy;
pub mod flow;
mod admit;
mod select;
mod locate;
mod relay;
mod fragment;
mod translate;
mod icmp;
mod liveness;
mod encap;
mod deliver;
mod hold;
mod limit;
mod random;
pub mod counters;
pub mod trace;

pub use batch::Now;
pub use counters::Counters;
pub use engine::{Engine, HELD_FRAMES_MAX, OUTPUT_MAX, Output, Settings, Shared};
pub use flow::{Flow, Limits, SharedError, State, Table, Timeouts};
