//! What came: buffers with one packet or a run of packets become frames, one per flow and run.
//!
//! Packets that continue one another (verified, contiguous, equal headers) leave as one frame with a [`Train`]: inside
//! a buffer without a copy, over buffers by appending the packet. A packet that was summed and is damaged is dropped
//! here; a packet that nothing could be joined to is not summed and leaves as it came, for its receiver to check.

use crate::pieces::Merge;
use sluice_memory::{Account, Batch, Checksum, Frame, Gso, GsoKind, Pool, TAILROOM, Train};
use sluice_wire::checksum::verify_l4;
use sluice_wire::segment::Run;
use sluice_wire::{DropReason, Family, Parsed, Protocol, parse};

/// A received buffer with more than so many bytes is not appended to a frame: copying it costs more than one write.
const APPEND_MAX: usize = 16 * 1024;

/// A packet that others may follow, and those that did.
#[derive(Clone, Debug)]
struct Growing {
    /// Of the first packet.
    parsed: Parsed,
    run: Run,
    /// The first packet's checksum was found to be right. Those of the others are, always.
    verified: bool,
}

/// What offering a packet came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Offer {
    Joined,
    Refused,
    /// The first packet, not summed before, is damaged.
    FirstDamaged,
    /// The packet offered is damaged.
    Damaged,
}

impl Growing {
    fn start(first: &[u8], merge: Merge) -> Option<Self> {
        let parsed = parse(first).ok()?;
        if !merge.of(parsed.protocol) {
            return None;
        }
        Some(Self {
            parsed,
            run: Run::start(first, &parsed)?,
            verified: false,
        })
    }

    /// Sums are done last: most packets that do not belong together are told apart by their headers.
    fn offer(&mut self, first: &[u8], next: &[u8]) -> Offer {
        let Ok(parsed) = parse(next) else {
            return Offer::Refused;
        };
        let mut longer = self.run;
        if !longer.join(first, next, &parsed) {
            return Offer::Refused;
        }
        if !self.verified {
            if !verify_l4(first, &self.parsed) {
                return Offer::FirstDamaged;
            }
            self.verified = true;
        }
        if !verify_l4(next, &parsed) {
            return Offer::Damaged;
        }
        self.run = longer;
        Offer::Joined
    }
}

/// A received buffer and how far it was worked off.
#[derive(Debug)]
pub(super) struct Source {
    frame: Frame,
    /// Bytes of every packet but the last.
    stride: usize,
    at: usize,
    /// The packet at `at` is known to be damaged.
    damaged: bool,
    /// Outcomes so far, for the account: each but the first is a split.
    groups: u32,
}

impl Source {
    pub(super) const fn new(frame: Frame, stride: usize) -> Self {
        Self {
            frame,
            stride,
            at: 0,
            damaged: false,
            groups: 0,
        }
    }

    const fn is_used_up(&self) -> bool {
        self.at >= self.frame.len()
    }

    fn packet(&self, at: usize) -> &[u8] {
        let bytes = self.frame.bytes();
        bytes
            .get(at..bytes.len().min(at + self.stride))
            .unwrap_or(&[])
    }

    fn count_group(&mut self, account: &Account) {
        if self.groups > 0 {
            account.split.add(1);
        }
        self.groups += 1;
    }

    /// Drops the packet at `at`.
    fn drop_packet(&mut self, account: &Account) {
        self.at += self.packet(self.at).len();
        self.damaged = false;
        self.count_group(account);
        account.drop_frame(DropReason::BadChecksum);
    }

    /// The longest run from `at` on: what it is, and where it ends. `None` when the first packet is damaged.
    fn run(&mut self, merge: Merge) -> Option<(Option<Growing>, usize)> {
        let first = self.packet(self.at);
        let mut end = self.at + first.len();
        let mut growing = Growing::start(first, merge);
        let mut damaged = false;
        if let Some(growing) = &mut growing {
            while end < self.frame.len() {
                let next = self.packet(end);
                match growing.offer(first, next) {
                    Offer::Joined => end += next.len(),
                    Offer::Refused => break,
                    Offer::Damaged => {
                        damaged = true;
                        break;
                    }
                    Offer::FirstDamaged => return None,
                }
            }
        }
        self.damaged = damaged;
        Some((growing, end))
    }
}

/// The frame being built.
#[derive(Debug)]
struct Open {
    frame: Frame,
    /// `None`: nothing can follow.
    growing: Option<Growing>,
    /// Bytes of the first packet.
    stride: usize,
    /// Its only packet is known to be damaged.
    damaged: bool,
}

/// Turns received buffers into frames of a batch. Keeps the last frame open until [`Joiner::flush`].
#[derive(Debug, Default)]
pub(super) struct Joiner {
    merge: Merge,
    open: Option<Open>,
}

impl Joiner {
    pub(super) const fn new(merge: Merge) -> Self {
        Self { merge, open: None }
    }

    /// Works off `source` while `batch` has room for two more frames: the open one, and the next. Returns the source
    /// when it is not used up.
    pub(super) fn take(
        &mut self,
        mut source: Source,
        pool: &mut Pool,
        account: &Account,
        batch: &mut Batch,
    ) -> Option<Source> {
        self.append(&mut source, account);
        while !source.is_used_up() {
            self.flush(pool, account, batch);
            if batch.remaining_capacity() < 2 {
                return Some(source);
            }
            if source.damaged {
                source.drop_packet(account);
                continue;
            }
            let start = source.at;
            let Some((growing, end)) = source.run(self.merge) else {
                source.drop_packet(account);
                continue;
            };
            source.count_group(account);
            let stride = source.packet(start).len();
            let open = |frame| Open {
                frame,
                growing,
                stride,
                damaged: false,
            };
            if end >= source.frame.len() {
                let mut frame = source.frame;
                // Cannot fail: `start` is inside the frame.
                let _ = frame.pull_front(start);
                self.open = Some(open(frame));
                return None;
            }
            // Another flow follows in the same buffer: this part moves to a buffer of its own.
            source.at = end;
            let Some(buffer) = pool.take() else {
                account.drop_frame(DropReason::PoolEmpty);
                continue;
            };
            let mut frame = Frame::new(buffer);
            frame.fill(source.frame.bytes().get(start..end).unwrap_or(&[]));
            frame.outer = source.frame.outer;
            account.copied.add(1);
            self.open = Some(open(frame));
        }
        pool.release(source.frame.into_buffer());
        None
    }

    /// Appends packets of `source` to the open frame as long as they continue it.
    fn append(&mut self, source: &mut Source, account: &Account) {
        let Some(open) = &mut self.open else {
            return;
        };
        let Some(growing) = &mut open.growing else {
            return;
        };
        if source.frame.len() > APPEND_MAX || source.frame.outer != open.frame.outer {
            return;
        }
        let mut joined = false;
        while !source.is_used_up() {
            let next = source.packet(source.at);
            if next.len() + TAILROOM > open.frame.tailroom() {
                break;
            }
            let first = open.frame.bytes().get(..open.stride).unwrap_or(&[]);
            match growing.offer(first, next) {
                Offer::Joined => {
                    open.frame.append(next);
                    source.at += next.len();
                    joined = true;
                }
                Offer::Damaged => {
                    source.damaged = true;
                    break;
                }
                Offer::FirstDamaged => {
                    open.damaged = true;
                    break;
                }
                Offer::Refused => break,
            }
        }
        if joined {
            source.count_group(account);
            account.merged.add(1);
        }
    }

    /// Ends the open frame and moves it to `batch`, which has room for it.
    pub(super) fn flush(&mut self, pool: &mut Pool, account: &Account, batch: &mut Batch) {
        match self.open.take() {
            None => {}
            Some(open) if open.damaged => {
                account.drop_frame(DropReason::BadChecksum);
                pool.release(open.frame.into_buffer());
            }
            Some(open) => batch.push(open.close()),
        }
    }
}

impl Open {
    /// Makes the first header stand for all packets.
    fn close(mut self) -> Frame {
        let Some(growing) = self.growing else {
            return self.frame;
        };
        if growing.verified {
            self.frame.checksum = Checksum::Verified;
        }
        let Some(joined) = growing.run.finish(self.frame.bytes_mut()) else {
            return self.frame;
        };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "headers of a run are at most 128 bytes, its packets at most 65,535"
        )]
        let (header_len, stride) = (joined.parsed.header_len() as u16, self.stride as u16);
        let kind = match (joined.parsed.protocol, joined.parsed.family) {
            (Protocol::Tcp, Family::V4) => GsoKind::Tcp4,
            (Protocol::Tcp, Family::V6) => GsoKind::Tcp6,
            (Protocol::Udp | Protocol::Icmp | Protocol::Other(_), _) => GsoKind::Udp,
        };
        self.frame.checksum = Checksum::Partial {
            start: joined.parsed.l3_len,
            offset: joined.checksum_offset,
        };
        self.frame.gso = Some(Gso {
            kind,
            segment_size: joined.segment_size,
            header_len,
        });
        self.frame.train = Some(Train { stride, header_len });
        self.frame
    }
}
