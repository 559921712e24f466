//! Tunnel formats and the list of active tunnels, sans-IO.
//!
//! One UDP port carries every format; the first byte of a datagram tells which ([`Format`]). Which format a peer speaks is
//! in the tables ([`sluice_tables::TunnelFormat`]), never guessed from what it sends. Today workers speak one, [`plain`];
//! the encrypted format, WireGuard's, is here as a value that nothing uses yet: [`Speaker`] is one end of it, [`Session`] what
//! workers share, and [`noise`] the handshake. A tunnel's lanes (one source port, and one session, per worker) are to become
//! a field of [`active::Tunnel`]: plain admission already ignores outer source ports.
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
