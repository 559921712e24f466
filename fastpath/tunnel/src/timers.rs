//! When things happen by themselves: the timers of the paper (section 6), in words and numbers.
//!
//! * A session is used for sending and receiving for [`REJECT_AFTER_TIME`]. Its initiator begins a new handshake when it sends
//!   after [`REKEY_AFTER_TIME`], or receives shortly before the end ([`REKEY_AFTER_TIME_RECEIVING`]); either side when it has
//!   sent [`REKEY_AFTER_MESSAGES`].
//! * An initiation that is not answered is repeated after [`REKEY_TIMEOUT`] and up to a third of a second, for
//!   [`REKEY_ATTEMPT_TIME`]; a packet to be sent begins that time anew.
//! * Whoever received packets and sent nothing for [`KEEPALIVE_TIMEOUT`] sends an empty one.
//! * Whoever sent packets and received nothing at all for that time and a [`REKEY_TIMEOUT`] begins a handshake: the peer is
//!   gone, or has lost the session.
//! * Where it is configured an empty packet goes after every silence of that length, to keep a NAT's mapping.
//! * Secrets that were not renewed for [`FORGET_AFTER_TIME`] are overwritten.

use std::time::Duration;

/// Age of a session at which its initiator, if it sends, begins the next.
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// Age of a session at which it is used no longer.
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// Time between two initiations.
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long initiations are repeated.
pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// How long one may owe an answer.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// At most so much, at random, is added to [`REKEY_TIMEOUT`], lest two sides begin at once again and again.
pub const REKEY_JITTER_MAX: Duration = Duration::from_millis(333);
/// Age of a session at which its initiator, if it receives, begins the next: one more keepalive could come, one more initiation
/// be repeated.
pub const REKEY_AFTER_TIME_RECEIVING: Duration = Duration::from_secs(180 - 10 - 5);
/// Age of the last session at which all secrets of a peer are forgotten.
pub const FORGET_AFTER_TIME: Duration = Duration::from_secs(3 * 180);
/// How long the sessions of a peer's former key are used after it has another: the next handshake takes its time where everybody
/// begins one at once.
pub const FORMER_KEY_LASTS: Duration = Duration::from_secs(30);
/// Packets after which either side begins a new session.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// Counters from here on are not sent: 2^64 - 2^13 - 1. What is received ends before: [`crate::replay::COUNTER_MAX`].
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
