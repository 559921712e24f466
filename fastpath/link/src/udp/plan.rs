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
    class: u8,
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
            // What stands for a session is no destination: it should have been sealed.
            let Some(outer) = frame.outer.filter(|outer| !outer.ip.is_discard_only()) else {
                account.drop_frame(DropReason::NoTunnel);
                cursor.frame += 1;
                continue;
            };
            let to = SocketAddress::new(outer, family);
            if frame.is_empty() {
                // A datagram of zero bytes would crash a legacy peer.
                account.drop_frame(DropReason::Empty);
                cursor.frame += 1;
            } else if let (None, Some(train)) = (frame.gso, frame.train) {
                let stride = usize::from(train.stride).max(1);
                let count = frame.len().div_ceil(stride);
                let from = cursor.piece;
                let count = (count - from).min(if runs { RUN_MAX } else { 1 });
                let count = count.min(self.parts.remaining_capacity());
                if count == 0 {
                    return;
                }
                self.push_run(to, frame, stride, from..from + count);
                if (from + count) * stride >= frame.len() {
                    (cursor.frame, cursor.piece) = (cursor.frame + 1, 0);
                } else {
                    cursor.piece += count;
                    account.split.add(1);
                }
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
        let first = frames.first();
        self.parts
            .extend(frames.iter().map(|frame| IoSlice::new(frame.bytes())));
        self.messages.push(Planned {
            to,
            class: first.map_or(0, |frame| frame.class),
            first_part,
            parts_per_datagram: 1,
            datagrams: frames.len(),
            datagram_len: first.map_or(0, Frame::len),
        });
    }

    /// One message with so many of the datagrams that the frame holds.
    fn push_run(&mut self, to: SocketAddress, frame: &'a Frame, stride: usize, of: Range<usize>) {
        let first_part = self.parts.len();
        let datagrams = frame.bytes().chunks(stride).skip(of.start).take(of.len());
        self.parts.extend(datagrams.map(IoSlice::new));
        self.messages.push(Planned {
            to,
            class: frame.class,
            first_part,
            parts_per_datagram: 1,
            datagrams: of.len(),
            datagram_len: stride,
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
                class: frame.class,
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
            class: message.class,
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
            class: message.class,
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

/// How many frames from the front on can be one run: one destination and class, one length (the last may be shorter).
fn run_of(frames: &[Frame]) -> usize {
    let Some(first) = frames.first() else {
        return 0;
    };
    let most = RUN_MAX.min(RUN_BYTES_MAX / first.len().max(1));
    let mut run = 1;
    for frame in frames.iter().take(most).skip(1) {
        if frame.gso.is_some()
            || frame.train.is_some()
            || frame.is_empty()
            || frame.outer != first.outer
            || frame.class != first.class
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

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_memory::{Endpoint, Pool, Train};

    fn frame(pool: &mut Pool, ip: &str, len: usize) -> Frame {
        let mut frame = Frame::new(pool.take().unwrap());
        frame.fill(&vec![4; len]);
        frame.outer = Some(Endpoint {
            ip: ip.parse().unwrap(),
            port: 50103,
        });
        frame
    }

    /// The datagrams of each message.
    fn planned(frames: &[Frame], runs: bool, account: &Account) -> Vec<Vec<usize>> {
        let mut scratch = [0; SCRATCH_LEN];
        let mut cursor = Cursor::default();
        let mut messages = Vec::new();
        while cursor.frame < frames.len() {
            let mut plan = Plan::default();
            let family = Family::V6;
            plan.fill(frames, &mut cursor, &mut scratch, family, runs, account);
            messages.extend(plan.messages.iter().map(|message| {
                let lens = |index| plan.single(message, index).parts[0].len();
                (0..message.datagrams).map(lens).collect::<Vec<_>>()
            }));
        }
        messages
    }

    #[test]
    fn what_was_not_sealed_does_not_leave() {
        let mut pool = Pool::new(2, 2000).unwrap();
        let account = Account::default();
        let frames = [frame(&mut pool, "100::1", 99), frame(&mut pool, "::1", 99)];
        assert_eq!(planned(&frames, true, &account), [[99]]);
        assert_eq!(account.dropped(DropReason::NoTunnel), 1);
        for frame in frames {
            pool.release(frame.into_buffer());
        }
    }

    #[test]
    fn a_frame_with_a_run_of_datagrams_is_one_message_or_one_each() {
        let mut pool = Pool::new(2, 2000).unwrap();
        let mut frames = [frame(&mut pool, "::1", 1000), frame(&mut pool, "::1", 50)];
        frames[0].train = Some(Train {
            stride: 300,
            header_len: 0,
        });
        let account = Account::default();
        let run = vec![300, 300, 300, 100];
        assert_eq!(planned(&frames, true, &account), [run.clone(), vec![50]]);
        assert_eq!(account.split.value(), 0);
        let each: Vec<_> = run.into_iter().chain([50]).map(|len| vec![len]).collect();
        assert_eq!(planned(&frames, false, &account), each);
        assert_eq!(account.split.value(), 3);
        for frame in frames {
            pool.release(frame.into_buffer());
        }
    }
}
