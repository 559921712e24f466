//! What to send: frames become messages, each one datagram or a run of datagrams that the kernel cuts.

use crate::pieces::Pieces;
use crate::sys::address::SocketAddress;
use crate::sys::udp::{MESSAGES_MAX, Message};
use arrayvec::ArrayVec;
use sluice_memory::{Account, Frame};
use sluice_wire::{DropReason, Family};
use std::io::IoSlice;
use std::ops::Range;

/// Datagrams in one run: UDP_MAX_SEGMENTS of the oldest kernels.
const RUN_MAX: usize = 64;
/// Bytes in one run: an IPv4 packet of 65,535 bytes less IPv4 and UDP header.
const RUN_BYTES_MAX: usize = 65_507;
/// Parts of all messages of a plan; each message stays below IOV_MAX (1024) because a run has at most 2 * 64.
const PARTS_MAX: usize = 512;
/// Bytes for the headers of pieces: two full runs with the longest headers.
pub(super) const SCRATCH_LEN: usize = 2 * RUN_MAX * sluice_wire::segment::HEADER_LEN_MAX;

/// One message of a plan.
#[derive(Clone, Copy, Debug)]
pub(super) struct Planned {
    to: SocketAddress,
    first_part: usize,
    parts_per_datagram: usize,
    pub(super) datagrams: usize,
    /// Bytes of every datagram but the last.
    datagram_len: usize,
}

/// Messages that can be sent now. Borrows frames and the scratch memory that holds new headers.
#[derive(Debug, Default)]
pub(super) struct Plan<'a> {
    parts: ArrayVec<IoSlice<'a>, PARTS_MAX>,
    pub(super) messages: ArrayVec<Planned, MESSAGES_MAX>,
}

/// How far planning has come: frames before `frame` are planned, and of that one the first `piece` pieces.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    pub(super) frame: usize,
    piece: usize,
}

impl<'a> Plan<'a> {
    /// Plans as many of `frames` as fit, from `cursor` on, which it moves. Counts what is cut, joined or refused.
    pub(super) fn fill(
        &mut self,
        frames: &'a [Frame],
        cursor: &mut Cursor,
        mut scratch: &'a mut [u8],
        family: Family,
        runs: bool,
        account: &Account,
    ) {
        while let Some(frame) = frames.get(cursor.frame) {
            if self.messages.is_full() {
                return;
            }
            let Some(outer) = frame.outer else {
                account.drop_frame(DropReason::NoTunnel);
                cursor.frame += 1;
                continue;
            };
            let to = SocketAddress::new(outer, family);
            if frame.is_empty() {
                // A datagram of zero bytes would crash a legacy peer.
                account.drop_frame(DropReason::Empty);
                cursor.frame += 1;
            } else if frame.gso.is_none() {
                let rest = &frames[cursor.frame..];
                let run = if runs { run_of(rest) } else { 1 };
                let run = run.min(self.parts.remaining_capacity());
                if run == 0 {
                    return;
                }
                self.push_whole(to, &rest[..run]);
                account.merged.add(run as u64 - 1);
                cursor.frame += run;
            } else {
                match self.push_pieces(to, frame, cursor.piece, scratch, runs) {
                    Err(reason) => {
                        account.drop_frame(reason);
                        (cursor.frame, cursor.piece) = (cursor.frame + 1, 0);
                        scratch = &mut [];
                    }
                    Ok(Progress { rest, next, end }) => {
                        scratch = rest;
                        if next == cursor.piece {
                            return;
                        }
                        cursor.piece = next;
                        if end {
                            (cursor.frame, cursor.piece) = (cursor.frame + 1, 0);
                        } else {
                            // The frame goes on in another message.
                            account.split.add(1);
                        }
                    }
                }
            }
        }
    }

    /// One datagram, or a run of whole frames of one length.
    fn push_whole(&mut self, to: SocketAddress, frames: &'a [Frame]) {
        let first_part = self.parts.len();
        self.parts
            .extend(frames.iter().map(|frame| IoSlice::new(frame.bytes())));
        self.messages.push(Planned {
            to,
            first_part,
            parts_per_datagram: 1,
            datagrams: frames.len(),
            datagram_len: frames.first().map_or(0, Frame::len),
        });
    }

    /// One message with as many pieces of `frame`, from piece `from` on, as fit.
    fn push_pieces(
        &mut self,
        to: SocketAddress,
        frame: &'a Frame,
        from: usize,
        mut scratch: &'a mut [u8],
        runs: bool,
    ) -> Result<Progress<'a>, DropReason> {
        let pieces = Pieces::of(frame)?;
        let header_len = pieces.header_len();
        let datagram_len = header_len + pieces.payload(from).len();
        let most = if runs {
            RUN_MAX.min(RUN_BYTES_MAX / datagram_len).max(1)
        } else {
            1
        };
        let count = most
            .min(pieces.len() - from)
            .min(scratch.len() / header_len)
            .min(self.parts.remaining_capacity() / 2);
        let first_part = self.parts.len();
        for index in from..from + count {
            let (header, rest) = scratch.split_at_mut(header_len);
            scratch = rest;
            if let Err(reason) = pieces.header(index, header) {
                self.parts.truncate(first_part);
                return Err(reason);
            }
            self.parts.push(IoSlice::new(header));
            self.parts.push(IoSlice::new(pieces.payload(index)));
        }
        if count > 0 {
            self.messages.push(Planned {
                to,
                first_part,
                parts_per_datagram: 2,
                datagrams: count,
                datagram_len,
            });
        }
        Ok(Progress {
            rest: scratch,
            next: from + count,
            end: from + count == pieces.len(),
        })
    }

    fn parts(&self, message: &Planned, datagrams: Range<usize>) -> &[IoSlice<'a>] {
        let start = message.first_part + datagrams.start * message.parts_per_datagram;
        let end = message.first_part + datagrams.end * message.parts_per_datagram;
        self.parts.get(start..end).unwrap_or(&[])
    }

    /// The message as one send.
    pub(super) fn whole(&self, message: &Planned) -> Message<'_> {
        Message {
            to: message.to,
            parts: self.parts(message, 0..message.datagrams),
            segment: if message.datagrams > 1 {
                u16::try_from(message.datagram_len).ok()
            } else {
                None
            },
        }
    }

    /// Datagram `index` of the message as a send of its own.
    pub(super) fn single(&self, message: &Planned, index: usize) -> Message<'_> {
        Message {
            to: message.to,
            parts: self.parts(message, index..index + 1),
            segment: None,
        }
    }
}

/// What [`Plan::push_pieces`] did.
struct Progress<'a> {
    /// Scratch memory that is left.
    rest: &'a mut [u8],
    next: usize,
    end: bool,
}

/// How many frames from the front on can be one run: one destination, one length (the last may be shorter).
fn run_of(frames: &[Frame]) -> usize {
    let Some(first) = frames.first() else {
        return 0;
    };
    let most = RUN_MAX.min(RUN_BYTES_MAX / first.len().max(1));
    let mut run = 1;
    for frame in frames.iter().take(most).skip(1) {
        if frame.gso.is_some()
            || frame.is_empty()
            || frame.outer != first.outer
            || frame.len() > first.len()
        {
            break;
        }
        run += 1;
        if frame.len() < first.len() {
            break;
        }
    }
    run
}
