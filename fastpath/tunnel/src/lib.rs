//! Tunnel formats and the list of active tunnels, sans-IO.
//!
//! One UDP port carries every format; the first byte of a datagram tells which ([`Format`]). Which format a peer speaks is
//! in the tables ([`sluice_tables::TunnelFormat`]), never guessed from what it sends: [`plain`], or the encrypted one, which is
//! WireGuard's. [`Speaker`] is one end of that, [`Session`] what workers share, and [`noise`] the handshake.
#![forbid(unsafe_code)]

pub mod format;
pub mod plain;
pub mod active;
pub mod speaker;
pub mod peer;
pub mod lane;
pub mod session;
pub mod replay;
pub mod noise;
pub mod cookie;
pub mod load;
pub mod timers;
mod activity;
pub mod address;
pub mod key;
pub mod key_log;
mod aead;
pub mod entropy;
pub mod refusal;
#[cfg(test)]
mod testing;

pub use active::{Tunnel, Tunnels};
pub use format::Format;
pub use refusal::Refusal;
pub use session::Session;
pub use speaker::Speaker;
