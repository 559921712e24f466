//! Profiles as files, machines as trees of files, and what comes out of both.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, with the whole state in the message"
)]

mod files;
mod machines;
