//! A link whose wire is bad: loss, delay, reordering, duplication and corruption of what it sends, from a seed.
//!
//! Faults meet packets as a wire does: super-frames are cut first, with complete checksums, so that a corrupted packet
//! can be found out. The account stays balanced: cutting, copying, holding and losing are each counted. To fault both
//! directions, wrap both ends.

use crate::pieces::{Pieces, complete_checksum};
use crate::{Arrival, Health, Link, LinkDown};
use arrayvec::ArrayVec;
use sluice_memory::{Account, BATCH_MAX, Batch, Checksum, Frame, HEADROOM, Pool};
use sluice_wire::DropReason;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// Frames that can be delayed at once; more pass without delay.
const DELAYED_MAX: usize = 128;

/// How bad the wire is. Chances are in parts per million, each applied to each packet on its own.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Faults {
    pub lose_ppm: u32,
    pub duplicate_ppm: u32,
    /// One bit of the packet is flipped.
    pub corrupt_ppm: u32,
    /// The packet waits while others overtake it.
    pub delay_ppm: u32,
    /// For so many calls of the link, receiving or sending: links know no time.
    pub delay_calls: u32,
}

/// A link inside a bad wire.
#[derive(Debug)]
pub struct FaultLink<L> {
    inner: L,
    faults: Faults,
    random: u64,
    calls: u64,
    delayed: VecDeque<(u64, Frame)>,
}

impl<L: Link> FaultLink<L> {
    /// The same `seed` and the same frames give the same faults.
    #[must_use]
    pub fn new(inner: L, faults: Faults, seed: u64) -> Self {
        Self {
            inner,
            faults,
            random: seed,
            calls: 0,
            delayed: VecDeque::with_capacity(DELAYED_MAX),
        }
    }

    /// Changes how bad the wire is from now on.
    pub const fn set(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// The link inside. What is still delayed is lost with the wrapper.
    #[must_use]
    pub fn into_inner(self) -> L {
        self.inner
    }

    /// splitmix64 (Steele, Lea, Flood 2014).
    const fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    const fn happens(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.next() % 1_000_000 < ppm as u64
    }

    /// Sends the delayed packets whose time has come.
    fn release(&mut self, pool: &mut Pool, account: &Account) {
        self.calls += 1;
        let mut due = Batch::new();
        while !due.is_full()
            && self
                .delayed
                .front()
                .is_some_and(|(at, _)| *at <= self.calls)
            && let Some((_, frame)) = self.delayed.pop_front()
        {
            account.held.sub(1);
            due.push(frame);
        }
        if !due.is_empty() {
            self.inner.transmit(&mut due, pool, account);
        }
    }

    /// Lets one packet into the wire.
    fn enter(&mut self, mut frame: Frame, out: &mut Batch, pool: &mut Pool, account: &Account) {
        if self.happens(self.faults.lose_ppm) {
            account.drop_frame(DropReason::Injected);
            pool.release(frame.into_buffer());
            return;
        }
        if self.happens(self.faults.corrupt_ppm) && !frame.is_empty() {
            let bit = self.next();
            let len = frame.len() as u64;
            let at = usize::try_from(bit / 8 % len).unwrap_or(0);
            if let Some(byte) = frame.bytes_mut().get_mut(at) {
                *byte ^= 1 << (bit % 8);
            }
            frame.checksum = Checksum::Unknown;
        }
        if self.happens(self.faults.duplicate_ppm)
            && let Some(buffer) = pool.take()
        {
            let mut copy = Frame::new(buffer);
            copy.copy_from(&frame);
            account.originated.add(1);
            self.leave(copy, out, pool, account);
        }
        if self.happens(self.faults.delay_ppm) && self.delayed.len() < DELAYED_MAX {
            account.held.add(1);
            let at = self.calls + u64::from(self.faults.delay_calls);
            self.delayed.push_back((at, frame));
            return;
        }
        self.leave(frame, out, pool, account);
    }

    fn leave(&mut self, frame: Frame, out: &mut Batch, pool: &mut Pool, account: &Account) {
        if out.is_full() {
            self.inner.transmit(out, pool, account);
        }
        out.push(frame);
    }

    /// Cuts a super-frame and lets its pieces into the wire.
    fn enter_pieces(
        &mut self,
        frame: &Frame,
        out: &mut Batch,
        pool: &mut Pool,
        account: &Account,
    ) -> Result<(), DropReason> {
        let pieces = Pieces::of(frame)?;
        account.split.add(pieces.len() as u64 - 1);
        for index in 0..pieces.len() {
            let Some(buffer) = pool.take() else {
                account.drop_frame(DropReason::PoolEmpty);
                continue;
            };
            let mut piece = Frame::new(buffer);
            piece.set_range(HEADROOM, pieces.header_len());
            if let Err(reason) = pieces.header(index, piece.bytes_mut()) {
                account.drop_frame(reason);
                pool.release(piece.into_buffer());
                continue;
            }
            piece.append(pieces.payload(index));
            piece.outer = frame.outer;
            piece.checksum = Checksum::Verified;
            self.enter(piece, out, pool, account);
        }
        Ok(())
    }
}

impl<L: Link> Link for FaultLink<L> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.fd()
    }

    fn receive(
        &mut self,
        pool: &mut Pool,
        account: &Account,
        batch: &mut Batch,
    ) -> Result<Arrival, LinkDown> {
        self.release(pool, account);
        self.inner.receive(pool, account, batch)
    }

    fn transmit<const N: usize>(
        &mut self,
        frames: &mut ArrayVec<Frame, N>,
        pool: &mut Pool,
        account: &Account,
    ) {
        self.release(pool, account);
        let mut out = Batch::new();
        for mut frame in frames.drain(..) {
            if frame.gso.is_some() {
                if let Err(reason) = self.enter_pieces(&frame, &mut out, pool, account) {
                    account.drop_frame(reason);
                }
                pool.release(frame.into_buffer());
            } else if let Err(reason) = complete_checksum(&mut frame) {
                account.drop_frame(reason);
                pool.release(frame.into_buffer());
            } else {
                self.enter(frame, &mut out, pool, account);
            }
        }
        if !out.is_empty() {
            self.inner.transmit(&mut out, pool, account);
        }
    }

    fn pending(&self) -> bool {
        !self.delayed.is_empty() || self.inner.pending()
    }

    fn takes_runs(&self) -> bool {
        // Faults meet each datagram for itself.
        self.faults == Faults::default() && self.inner.takes_runs()
    }

    fn watch_class(&mut self) {
        self.inner.watch_class();
    }

    fn take_opened(&mut self, frame: Frame) -> Option<Frame> {
        self.inner.take_opened(frame)
    }

    fn health(&self) -> Arc<Health> {
        self.inner.health()
    }
}

const _: () = assert!(DELAYED_MAX >= BATCH_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{Far, Memory, Packet};
    use crate::{MemLink, testing};
    use sluice_memory::{Gso, GsoKind};

    struct Wire {
        link: FaultLink<MemLink>,
        far: Far,
        pool: Pool,
        account: Account,
    }

    fn wire(faults: Faults, seed: u64) -> Wire {
        let (link, far) = MemLink::new("mem", 4096, Memory::Own).unwrap();
        Wire {
            link: FaultLink::new(link, faults, seed),
            far,
            pool: Pool::new(256, 65_535).unwrap(),
            account: Account::default(),
        }
    }

    /// Numbered packets through the wire; what came out, and whether the account balances.
    fn through(wire: &mut Wire, count: u16) -> Vec<Packet> {
        for number in 0..count {
            let bytes = number.to_be_bytes().repeat(10);
            assert!(wire.far.push(bytes));
        }
        let mut out = Vec::new();
        let mut batch = Batch::new();
        loop {
            wire.link
                .receive(&mut wire.pool, &wire.account, &mut batch)
                .unwrap();
            if batch.is_empty() && !wire.link.pending() {
                break;
            }
            wire.link
                .transmit(&mut batch, &mut wire.pool, &wire.account);
            out.extend(std::iter::from_fn(|| wire.far.pop()));
        }
        out.extend(std::iter::from_fn(|| wire.far.pop()));
        let (left, right) = wire.account.balance();
        assert_eq!(left, right, "{:?}", wire.account);
        assert_eq!(wire.account.held.value(), 0);
        assert_eq!(wire.pool.outstanding(), 0);
        out
    }

    fn numbers(packets: &[Packet]) -> Vec<u16> {
        let number = |packet: &Packet| u16::from_be_bytes([packet.bytes[0], packet.bytes[1]]);
        packets.iter().map(number).collect()
    }

    #[test]
    fn a_good_wire_changes_nothing() {
        let out = through(&mut wire(Faults::default(), 1), 1000);
        assert_eq!(numbers(&out), (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn loss_is_counted_and_repeats_with_its_seed() {
        let faults = Faults {
            lose_ppm: 100_000,
            ..Faults::default()
        };
        let mut first = wire(faults, 7);
        let out = numbers(&through(&mut first, 1000));
        let lost = first.account.dropped(DropReason::Injected);
        assert_eq!(out.len() as u64 + lost, 1000);
        assert!((50..200).contains(&lost), "{lost} of 1000 at 10 %");
        assert_eq!(numbers(&through(&mut wire(faults, 7), 1000)), out);
        assert_ne!(numbers(&through(&mut wire(faults, 8), 1000)), out);
    }

    #[test]
    fn delayed_packets_are_overtaken_and_none_is_lost() {
        let faults = Faults {
            delay_ppm: 100_000,
            delay_calls: 3,
            ..Faults::default()
        };
        let out = numbers(&through(&mut wire(faults, 7), 1000));
        let mut sorted = out.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
        assert_ne!(sorted, out);
    }

    #[test]
    fn copies_are_originated_and_corruption_flips_one_bit() {
        let faults = Faults {
            duplicate_ppm: 200_000,
            corrupt_ppm: 200_000,
            ..Faults::default()
        };
        let mut wire = wire(faults, 3);
        let out = through(&mut wire, 1000);
        assert_eq!(out.len() as u64, 1000 + wire.account.originated.value());
        assert!(wire.account.originated.value() > 100);
        let damaged = out
            .iter()
            .filter(|packet| packet.bytes[..2].repeat(10) != packet.bytes)
            .count();
        assert!(damaged > 100, "{damaged}");
    }

    #[test]
    fn a_super_frame_enters_the_wire_as_packets_with_complete_checksums() {
        let mut wire = wire(Faults::default(), 1);
        let packet = testing::tcp4_super_frame(5000, 1000);
        assert!(wire.far.push(Packet {
            bytes: packet,
            checksum: Checksum::Partial {
                start: 20,
                offset: 16
            },
            gso: Some(Gso {
                kind: GsoKind::Tcp4,
                segment_size: 1000,
                header_len: 40
            }),
            ..Packet::default()
        }));
        let out = through(&mut wire, 0);
        assert_eq!(out.len(), 5);
        assert_eq!(wire.account.split.value(), 4);
        for packet in out {
            let parsed = sluice_wire::parse(&packet.bytes).unwrap();
            assert!(sluice_wire::checksum::verify_l4(&packet.bytes, &parsed));
        }
    }
}
