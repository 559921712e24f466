//! Fragments: later ones follow the binding that their first left; nothing is ever reassembled.
//!
//! The first fragment has the ports, so it finds or begins a flow like any packet, and binds (source, destination,
//! protocol, identification) to it in a table that all workers share. Later fragments get the flow's addresses and
//! nothing else, so they stay consistent with whatever happened to the first one's ports. Those that come before
//! their first one are held a moment.

use crate::batch::{Lane, Now, Step, Stop, Turn, drop_as};
use crate::engine::{Engine, Side};
use crate::flow::index::HashKeys;
use crate::flow::{Flow, SharedError};
use crate::translate;
use arrayvec::ArrayVec;
use sluice_memory::{Batch, Checksum, Frame, Words};
use sluice_wire::{DropReason, Fragment, FragmentKey, checksum, parse};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};

/// Words of a binding: one cache line.
const WORDS: usize = 8;
/// Places a key may have.
const WAYS: usize = 8;
/// A binding younger than this is not replaced: its later fragments are on their way.
const KEEP_MS: u64 = 100;
/// The longest a datagram's fragments are expected to spread (RFC 1122 section 3.3.2 reassembles for 60 to 120 s; a hole
/// of that length is loss here).
const LIFE_MS: u64 = 30_000;
/// Fragments waiting for their first one: three 60 KB datagrams.
const WAITING_MAX: usize = 128;
/// How often another worker's bindings are looked for while fragments wait.
const LOOK_MS: u64 = 2;

// Where things are in a binding.
const SEQUENCE: usize = 0;
const KEY: usize = 1;
const FLOW: usize = 6;
const BOUND_MS: usize = 7;

/// The bindings of all workers, in plain words like the flow table.
#[derive(Debug)]
pub(crate) struct Bindings {
    words: Words,
    keys: HashKeys,
    len: usize,
}

impl Bindings {
    pub(crate) fn new(fragments_max: u32, seed: u64) -> Result<Self, SharedError> {
        if !(1..=1 << 20).contains(&fragments_max) {
            return Err(SharedError::FragmentsMax(fragments_max));
        }
        let len = (fragments_max as usize).max(WAYS);
        let words = Words::anonymous(len * WORDS).map_err(|source| SharedError::Map {
            what: "fragment bindings",
            words: len * WORDS,
            source,
        })?;
        Ok(Self {
            words,
            keys: HashKeys::new(!seed),
            len,
        })
    }

    /// The entry and generation of the flow that the datagram's first fragment belonged to.
    pub(crate) fn flow_of(&self, key: &FragmentKey) -> Option<(u32, u16)> {
        let words = words_of(key);
        self.places(&words).find_map(|place| {
            let sequence = place[SEQUENCE].load(Acquire);
            if !sequence.is_multiple_of(2) || !holds(place, &words) {
                return None;
            }
            let flow = place[FLOW].load(Relaxed);
            fence(Acquire);
            let same = place[SEQUENCE].load(Relaxed) == sequence;
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the two fields of the word"
            )]
            (same && flow != 0).then_some((flow as u32, (flow >> 32) as u16))
        })
    }

    /// Binds the datagram to a flow; false when every place holds a binding too young to go.
    fn bind(&self, key: &FragmentKey, flow: &Flow, now: Now) -> bool {
        let words = words_of(key);
        let now_ms = now.ns / 1_000_000;
        let mine = self.places(&words).find(|place| holds(place, &words));
        let oldest = || {
            self.places(&words)
                .min_by_key(|place| place[BOUND_MS].load(Relaxed))
                .filter(|place| {
                    let bound_ms = place[BOUND_MS].load(Relaxed);
                    bound_ms == 0 || now_ms.saturating_sub(bound_ms) >= KEEP_MS
                })
        };
        let Some(place) = mine.or_else(oldest) else {
            return false;
        };
        let sequence = place[SEQUENCE].load(Relaxed);
        if !sequence.is_multiple_of(2)
            || place[SEQUENCE]
                .compare_exchange(sequence, sequence + 1, Acquire, Relaxed)
                .is_err()
        {
            return false;
        }
        fence(Release);
        for (at, word) in (KEY..).zip(words) {
            place[at].store(word, Relaxed);
        }
        // The top bit tells a binding from memory never used.
        let value = 1 << 63 | u64::from(flow.state.generation()) << 32 | u64::from(flow.index);
        place[FLOW].store(value, Relaxed);
        place[BOUND_MS].store(now_ms.max(1), Relaxed);
        place[SEQUENCE].store(sequence + 2, Release);
        true
    }

    /// Ends the binding if it is too old to be of the datagram at hand.
    fn forget_old(&self, key: &FragmentKey, now: Now) {
        let words = words_of(key);
        for place in self.places(&words) {
            let age_ms = (now.ns / 1_000_000).saturating_sub(place[BOUND_MS].load(Relaxed));
            if age_ms >= LIFE_MS && holds(place, &words) {
                place[FLOW].store(0, Relaxed);
            }
        }
    }

    fn places(&self, words: &[u64; 5]) -> impl Iterator<Item = &[AtomicU64; WORDS]> {
        let start = self.keys.hash(words, false).below(self.len);
        (0..WAYS).filter_map(move |way| {
            let at = (start + way) % self.len * WORDS;
            self.words.get(at..)?.first_chunk()
        })
    }
}

fn words_of(key: &FragmentKey) -> [u64; 5] {
    let halves = |bits: u128| {
        #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
        [(bits >> 64) as u64, bits as u64]
    };
    let ([a, b], [c, d]) = (halves(key.src.to_bits()), halves(key.dst.to_bits()));
    [a, b, c, d, u64::from(key.id) << 8 | u64::from(key.protocol)]
}

fn holds(place: &[AtomicU64; WORDS], words: &[u64; 5]) -> bool {
    place[FLOW].load(Relaxed) != 0 && (0..5).all(|at| place[KEY + at].load(Relaxed) == words[at])
}

#[derive(Debug)]
struct Waiter {
    frame: Frame,
    key: FragmentKey,
    side: Side,
    since: Now,
}

/// One worker's later fragments that came before their first.
#[derive(Debug)]
pub(crate) struct Waiting {
    waiters: Vec<Waiter>,
    wait_ms: u64,
    /// A first fragment was bound since the last look.
    look: bool,
    next_look: Now,
}

impl Waiting {
    pub(crate) fn new(wait_ms: u64) -> Self {
        Self {
            waiters: Vec::with_capacity(WAITING_MAX),
            wait_ms,
            look: false,
            next_look: Now::default(),
        }
    }

    /// Gives the frame back when too many wait.
    pub(crate) fn push(
        &mut self,
        frame: Frame,
        key: FragmentKey,
        side: Side,
        now: Now,
    ) -> Result<(), Frame> {
        if self.waiters.len() >= WAITING_MAX {
            return Err(frame);
        }
        self.next_look = now.plus_ms(LOOK_MS);
        self.waiters.push(Waiter {
            frame,
            key,
            side,
            since: now,
        });
        Ok(())
    }

    pub(crate) fn look_again(&mut self) {
        self.look = !self.waiters.is_empty();
    }

    pub(crate) fn poll_timeout(&self) -> Option<Now> {
        (!self.waiters.is_empty()).then_some(self.next_look)
    }

    /// Takes up to `room` waiters of one side that are `due`.
    fn take(&mut self, room: usize, due: impl Fn(&Waiter) -> bool) -> Option<(Side, Batch)> {
        let side = self.waiters.iter().find(|waiter| due(waiter))?.side;
        let mut batch = Batch::new();
        let room = room.min(batch.capacity());
        let mut at = 0;
        while at < self.waiters.len() && batch.len() < room {
            let waiter = &self.waiters[at];
            if waiter.side == side && due(waiter) {
                // Keeps the order of arrival.
                batch.push(self.waiters.remove(at).frame);
            } else {
                at += 1;
            }
        }
        (!batch.is_empty()).then_some((side, batch))
    }
}

impl Engine {
    /// A first fragment of a flow: leaves the binding for the later ones.
    #[inline(always)]
    pub(crate) fn bind_first(&mut self, lane: &Lane, flow: &Flow, turn: &Turn<'_>) -> Step<()> {
        let (Fragment::First { .. }, Some(key)) =
            (lane.packet.fragment, lane.packet.fragment_key())
        else {
            return Ok(());
        };
        if !self.shared.bindings.bind(&key, flow, turn.now) {
            return drop_as(DropReason::FragmentTableFull);
        }
        self.waiting.look_again();
        Ok(())
    }

    /// A later fragment: whatever an older datagram with the same identification left is not for it.
    #[inline(never)]
    pub(crate) fn bound_flow(&self, lane: &Lane, turn: &Turn<'_>) -> Step<Flow> {
        let Some(key) = lane.packet.fragment_key() else {
            return drop_as(DropReason::FragmentUnmatched);
        };
        self.shared.bindings.forget_old(&key, turn.now);
        self.shared
            .bindings
            .flow_of(&key)
            .and_then(|(index, generation)| self.shared.flows.at(index, generation))
            .ok_or(Stop::AwaitFirst(key))
    }

    /// Sends on the later fragments whose first has been here, as far as they fit the output.
    pub(crate) fn release_fragments(&mut self, turn: &mut Turn<'_>) {
        if !self.waiting.look {
            return;
        }
        self.waiting.look = false;
        self.waiting.next_look = turn.now.plus_ms(LOOK_MS);
        // Each waiter at most once: one that has to wait again must not keep the worker here.
        let mut left = self.waiting.waiters.len();
        while left > 0 {
            let (bindings, flows) = (&self.shared.bindings, &self.shared.flows);
            let room = (turn.out.room() / 2).min(left);
            // A binding outlives its flow.
            let due = |waiter: &Waiter| {
                let flow = bindings.flow_of(&waiter.key);
                flow.is_some_and(|(index, generation)| flows.at(index, generation).is_some())
            };
            let Some((side, mut batch)) = self.waiting.take(room, due) else {
                return;
            };
            left -= batch.len();
            self.uncount_waiting(batch.len(), turn);
            match side {
                Side::Outbound => self.outbound_turn(&mut batch, turn),
                Side::Inbound => self.inbound_turn(&mut batch, turn),
            }
            if turn.out.room() < OUTPUT_RESERVE {
                return;
            }
        }
    }

    /// Drops the later fragments that waited too long.
    pub(crate) fn drop_unmatched(&mut self, turn: &mut Turn<'_>) {
        let wait_ms = self.waiting.wait_ms;
        let now = turn.now;
        let due = |waiter: &Waiter| now >= waiter.since.plus_ms(wait_ms);
        while let Some((side, batch)) = self.waiting.take(turn.out.room(), due) {
            self.uncount_waiting(batch.len(), turn);
            for frame in batch {
                self.stop(
                    frame,
                    None,
                    Stop::Drop(DropReason::FragmentUnmatched),
                    side,
                    turn,
                );
            }
        }
    }

    fn uncount_waiting(&self, frames: usize, turn: &Turn<'_>) {
        turn.account.held.sub(frames as u64);
        self.counters.fragments_waiting.sub(frames as u64);
    }
}

/// Pieces one packet may be cut into: a 64 KB datagram in pieces of 1,280 bytes.
const PIECES_MAX: usize = 64;

/// Room of the output below which nothing that waits is released.
const OUTPUT_RESERVE: usize = 64;

/// Cuts an IPv4 packet that may be fragmented into pieces of at most `mtu` bytes (RFC 791 section 3.2) and puts them into
/// the output, in order: outbound ones for the tunnel, inbound ones for the service side. The frame becomes the first of them;
/// the others are in buffers of the pool.
pub(crate) fn cut(mut frame: Frame, mtu: u16, side: Side, turn: &mut Turn<'_>) {
    let mut rest: ArrayVec<Frame, PIECES_MAX> = ArrayVec::new();
    match pieces(&mut frame, mtu, &mut rest, turn) {
        Ok(()) => {
            turn.account.split.add(rest.len() as u64);
            let out = match side {
                Side::Outbound => &mut turn.out.to_underlay,
                Side::Inbound => &mut turn.out.to_service,
            };
            out.push(frame);
            out.extend(rest);
        }
        Err(reason) => {
            for piece in rest {
                turn.pool.release(piece.into_buffer());
            }
            turn.account.drop_frame(reason);
            turn.out.done.push(frame);
        }
    }
}

/// Makes the frame the first piece and fills `rest` with the others.
fn pieces(
    frame: &mut Frame,
    mtu: u16,
    rest: &mut ArrayVec<Frame, PIECES_MAX>,
    turn: &mut Turn<'_>,
) -> Result<(), DropReason> {
    let packet = parse(frame.bytes())?;
    if !translate::is_complete(frame) {
        checksum::complete_l4(frame.bytes_mut(), &packet);
        frame.checksum = Checksum::Unknown;
    }
    let (header_len, total_len) = (usize::from(packet.l3_len), packet.total_len as usize);
    let step = usize::from(mtu).saturating_sub(header_len) / 8 * 8;
    if step == 0 {
        return Err(DropReason::TooBig);
    }
    let count = (total_len - header_len).div_ceil(step);
    if turn.out.room() < count + OUTPUT_RESERVE {
        return Err(DropReason::PoolEmpty);
    }
    let whole = frame.bytes();
    let (header, payload) = whole.get(..total_len).unwrap_or(whole).split_at(header_len);
    for (number, part) in payload.chunks(step).enumerate().skip(1) {
        if rest.is_full() {
            return Err(DropReason::TooBig);
        }
        let mut piece = Frame::new(turn.pool.take().ok_or(DropReason::PoolEmpty)?);
        piece.fill(header);
        piece.append(part);
        piece.outer = frame.outer;
        piece.trace = frame.trace;
        mark(&mut piece, header_len, number * step, number + 1 < count);
        rest.push(piece);
    }
    frame.truncate(header_len + step);
    mark(frame, header_len, 0, true);
    Ok(())
}

/// Writes a piece's length, offset, more-fragments bit and header checksum. `offset` is relative to the packet that
/// was cut, which may itself be a fragment.
fn mark(piece: &mut Frame, header_len: usize, offset: usize, more: bool) {
    let len = piece.len();
    let Some(header) = piece.bytes_mut().get_mut(..header_len) else {
        return;
    };
    if header.len() < 20 {
        return;
    }
    let old = u16::from_be_bytes([header[6], header[7]]);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "an IPv4 packet has at most 65,535 bytes"
    )]
    let (len, units) = (len as u16, (offset / 8) as u16);
    let more = if more { MORE } else { old & MORE };
    let field = old & !(MORE | OFFSET) | ((old & OFFSET) + units) & OFFSET | more;
    header[2..4].copy_from_slice(&len.to_be_bytes());
    header[6..8].copy_from_slice(&field.to_be_bytes());
    header[10..12].fill(0);
    let checksum = !checksum::fold(checksum::sum(header));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
