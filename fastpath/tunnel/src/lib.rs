//! Tunnel formats and the list of active tunnels, sans-IO.
//!
//! One UDP port carries every format; the first byte of a datagram tells which ([`Format`]). Which format a peer speaks is
//! in the tables ([`sluice_tables::TunnelFormat`]), never guessed from what it sends. Today there is one, [`plain`];
//! WireGuard messages have their first bytes reserved, and a tunnel's lanes (one source port, and one session, per
//! worker) are to become a field of [`active::Tunnel`]: plain admission already ignores outer source ports.
#![forbid(unsafe_code)]

pub mod format;
pub mod plain;
pub mod active;

pub use active::{Tunnel, Tunnels};
pub use format::Format;
