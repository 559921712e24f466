//! The wire crate against packets that `etherparse` built: an independent voice on lengths, fields and checksums.
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "helpers of tests: a wrong length or result fails the test"
)]

mod packets;
mod parse;
mod rewrite;
mod glance;
mod answers;
mod echo;
mod segment;
mod any_bytes;
