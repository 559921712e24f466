//! Ends of encrypted tunnels as their callers see them: over a bad network, against another implementation, under attack.
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "helpers of tests: a wrong length or result fails the test"
)]

mod ends;
mod handshake;
mod timers;
mod network;
mod rotation;
mod flood;
mod garbage;
mod boringtun;
