//! One session: packets are sealed and opened in place, by several workers at once, without a lock (the paper, section 5.4.6).
//!
//! ```text
//!   0      4           8         16                  16 + len     padded     + 16
//!   ├──────┼───────────┼─────────┼───────────────────┼────────────┼──────────┤
//!   │ type │ receiver  │ counter │ packet            │ zeros      │ tag      │
//!   └──────┴───────────┴─────────┴───────────────────┴────────────┴──────────┘
//! ```
//!
//! A counter is drawn with one atomic addition, so that no two packets of a session ever have the same; what came is noted in a
//! [replay window](crate::replay) that workers share, too.

use crate::activity::Activity;
use crate::aead::{Cipher, TAG_LEN};
use crate::noise::TransportKeys;
use crate::noise::message::{TRANSPORT_HEADER_LEN, TRANSPORT_LEN_MIN, TransportHeader};
use crate::refusal::Refusal;
use crate::replay::ReplayWindow;
use crate::timers::{
    REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME,
    REKEY_AFTER_TIME_RECEIVING,
};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Room that [`Session::seal`] needs in front of a packet.
pub const HEADROOM: usize = TRANSPORT_HEADER_LEN;

/// Room that [`Session::seal`] needs behind a packet at most.
pub const TAILROOM: usize = PADDING_MULTIPLE - 1 + TAG_LEN;

/// Packets are filled up to a multiple of this, so that their length tells less.
const PADDING_MULTIPLE: usize = 16;

/// Why a packet could not be sealed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SealError {
    /// The session is too old, or has sent too much; a handshake makes the next one.
    #[error("the session has ended")]
    Ended,
    /// The buffer is shorter than the datagram.
    #[error(
        "a packet of {packet_len} bytes needs {HEADROOM} bytes before it and {TAILROOM} behind, and not a buffer of {buffer_len}"
    )]
    NoRoom {
        packet_len: usize,
        buffer_len: usize,
    },
}

/// A sealed packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sealed {
    /// Length of the datagram, which begins where the buffer does.
    pub len: usize,
    /// The session is to be replaced: a handshake should begin, if none is under way.
    pub rekey_due: bool,
}

/// An opened datagram.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Opened {
    /// Length of the packet, which begins [`HEADROOM`] bytes into the datagram, with the zeros behind it: its own header says
    /// where it ends. 0 for a keepalive.
    pub len: usize,
    /// Nothing authentic came in this session before: its initiator has the keys, and we may send with them.
    pub first: bool,
    /// As [`Sealed::rekey_due`].
    pub rekey_due: bool,
}

/// The secrets of one session and what was done with them. Workers share it; the secrets are overwritten when the last lets go.
pub struct Session {
    sending: Cipher,
    receiving: Cipher,
    local_index: u32,
    remote_index: u32,
    initiated: bool,
    established: Duration,
    /// The next one to be sent.
    counter: AtomicU64,
    window: ReplayWindow,
    heard: AtomicBool,
    activity: Arc<Activity>,
}

impl Session {
    /// The session of a handshake that ended at `now`.
    pub(crate) fn new(keys: &TransportKeys, activity: Arc<Activity>, now: Duration) -> Self {
        Self {
            sending: Cipher::new(&keys.sending),
            receiving: Cipher::new(&keys.receiving),
            local_index: keys.local_index,
            remote_index: keys.remote_index,
            initiated: keys.initiated,
            established: now,
            counter: AtomicU64::new(0),
            window: ReplayWindow::new(),
            heard: AtomicBool::new(false),
            activity,
        }
    }

    /// What the session is called in datagrams that come.
    #[must_use]
    pub const fn local_index(&self) -> u32 {
        self.local_index
    }

    /// Whether we began its handshake, and so begin the next.
    #[must_use]
    pub const fn initiated(&self) -> bool {
        self.initiated
    }

    /// When the handshake ended.
    #[must_use]
    pub const fn established(&self) -> Duration {
        self.established
    }

    /// Whether it can be used no longer. `now` counts from the caller's origin, as everywhere here.
    #[inline]
    #[must_use]
    pub fn ended(&self, now: Duration) -> bool {
        self.age(now) >= REJECT_AFTER_TIME
            || self.counter.load(Ordering::Relaxed) >= REJECT_AFTER_MESSAGES
    }

    /// Seals the packet of `packet_len` bytes that begins [`HEADROOM`] bytes into the buffer, and has [`TAILROOM`] behind it.
    /// It is filled up with zeros, but not beyond `mtu`. 0 bytes make a keepalive.
    ///
    /// # Errors
    /// [`SealError`]; the packet is as it was then.
    #[inline]
    pub fn seal(
        &self,
        buffer: &mut [u8],
        packet_len: usize,
        mtu: usize,
        now: Duration,
    ) -> Result<Sealed, SealError> {
        let padded_len = packet_len
            .checked_next_multiple_of(PADDING_MULTIPLE)
            .map_or(packet_len, |padded| padded.min(mtu).max(packet_len));
        let buffer_len = buffer.len();
        let no_room = SealError::NoRoom {
            packet_len,
            buffer_len,
        };
        let (header, rest) = buffer.split_first_chunk_mut::<HEADROOM>().ok_or(no_room)?;
        let (packet, rest) = rest.split_at_mut_checked(padded_len).ok_or(no_room)?;
        let tag = rest.first_chunk_mut::<TAG_LEN>().ok_or(no_room)?;
        let counter = self.draw(now)?;

        packet[packet_len..].fill(0);
        *tag = self.sending.seal(counter, &[], packet);
        *header = TransportHeader {
            receiver: self.remote_index,
            counter,
        }
        .to_bytes();
        self.activity.sent(packet_len > 0, now);
        Ok(Sealed {
            len: HEADROOM + padded_len + TAG_LEN,
            rekey_due: counter >= REKEY_AFTER_MESSAGES
                || self.initiated && self.age(now) >= REKEY_AFTER_TIME,
        })
    }

    /// Opens a datagram of transport data in place.
    ///
    /// # Errors
    /// [`Refusal`]; the datagram is of no use then. One that came before is refused without being decrypted.
    #[inline]
    pub fn open(&self, datagram: &mut [u8], now: Duration) -> Result<Opened, Refusal> {
        let header = TransportHeader::parse(datagram)?;
        if header.receiver != self.local_index {
            return Err(Refusal::UnknownSession);
        }
        if self.age(now) >= REJECT_AFTER_TIME {
            return Err(Refusal::SessionEnded);
        }
        self.window.check(header.counter)?;
        let (_, sealed) = datagram.split_at_mut(TRANSPORT_HEADER_LEN);
        let len = self.receiving.open(header.counter, &[], sealed)?.len();
        self.window.take(header.counter)?;

        self.activity.received(len > 0, now);
        Ok(Opened {
            len,
            // The load spares all packets but the first a write that workers would fight for.
            first: !self.heard.load(Ordering::Relaxed) && !self.heard.swap(true, Ordering::Relaxed),
            rekey_due: self.initiated && self.age(now) >= REKEY_AFTER_TIME_RECEIVING,
        })
    }

    /// A keepalive, and [`Sealed::rekey_due`].
    ///
    /// # Errors
    /// [`SealError::Ended`].
    pub(crate) fn seal_keepalive(
        &self,
        now: Duration,
    ) -> Result<([u8; TRANSPORT_LEN_MIN], bool), SealError> {
        let mut datagram = [0; TRANSPORT_LEN_MIN];
        let sealed = self.seal(&mut datagram, 0, 0, now)?;
        Ok((datagram, sealed.rekey_due))
    }

    /// Draws the counter of one packet.
    #[inline]
    fn draw(&self, now: Duration) -> Result<u64, SealError> {
        // Looked at before it is added to: from the end on nobody adds, so that it never comes round to zero. What workers
        // add between their look and their addition is one each, and there are 8,192 left.
        if self.ended(now) {
            return Err(SealError::Ended);
        }
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        if counter >= REJECT_AFTER_MESSAGES {
            return Err(SealError::Ended);
        }
        Ok(counter)
    }

    #[inline]
    fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.established)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("local_index", &self.local_index)
            .field("remote_index", &self.remote_index)
            .field("initiated", &self.initiated)
            .field("established", &self.established)
            .field("counter", &self.counter)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
