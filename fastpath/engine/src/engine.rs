//! The engine a worker owns: what it keeps between turns, and how packets that go no further end.

use crate::batch::{Answer, Lane, Now, Stop, Turn};
use crate::counters::Counters;
use crate::deliver::ServiceMtu;
use crate::flow::limits::seed_of;
use crate::flow::{self, Limits, SharedError, Table, Timeouts};
use crate::fragment::{self, Bindings, Waiting};
use crate::hold::Hold;
use crate::limit::Limiter;
use crate::random::Random;
use crate::trace::{Decision, Tracer};
use arrayvec::ArrayVec;
use sluice_memory::{Account, Frame, Pool};
use sluice_tables::{InstanceState, Tables, Upcall, Upcalls};
use sluice_tunnel::Tunnels;
use sluice_wire::icmp_error::{self, ERROR_LEN_MAX_V6};
use sluice_wire::{DropReason, Ip, Parsed};
use std::sync::Arc;

/// Frames one call can leave behind: a full batch, all held frames, and the pieces of packets cut in between.
pub const OUTPUT_MAX: usize = 512;
/// Frames held for answers; with those waiting for a first fragment and a batch they fit [`OUTPUT_MAX`] twice.
pub const HELD_FRAMES_MAX: usize = 128;

/// What one worker's engine may do and keep.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The largest packet that TCP connections through the gateway are told to use.
    pub inner_mtu: u16,
    /// Frames held for an answer of control; at most [`HELD_FRAMES_MAX`].
    pub held_frames_max: usize,
    /// Bytes of those frames.
    pub held_bytes_max: usize,
    /// How long they wait.
    pub held_ms: u64,
    /// How long a later fragment waits for its first.
    pub fragment_wait_ms: u64,
    pub timeouts: Timeouts,
    /// Seconds in which the workers together look at every flow once, to end the idle ones.
    pub sweep_s: u32,
    /// ICMP errors to one address per second, and twice that at once.
    pub errors_per_s: u32,
    /// Questions about inner sources that one outer address may cause per second, and four times that at once.
    pub questions_per_s: u32,
    pub tunnels_max: usize,
    pub tunnel_idle_s: u32,
    /// Control is told which established flows are worth being offloaded.
    pub offload: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            inner_mtu: 1420,
            held_frames_max: HELD_FRAMES_MAX,
            held_bytes_max: 4 << 20,
            held_ms: 5_000,
            fragment_wait_ms: 1_000,
            timeouts: Timeouts::default(),
            sweep_s: 10,
            errors_per_s: 50,
            questions_per_s: 16,
            tunnels_max: 1024,
            tunnel_idle_s: 300,
            offload: false,
        }
    }
}

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    pub(crate) flows: Table,
    pub(crate) bindings: Bindings,
    pub(crate) tracer: Tracer,
    pub(crate) service_mtu: ServiceMtu,
}

impl Shared {
    /// # Errors
    /// When a limit is out of range or memory cannot be mapped.
    pub fn new(limits: &Limits) -> Result<Arc<Self>, SharedError> {
        Ok(Arc::new(Self {
            flows: Table::new(limits)?,
            bindings: Bindings::new(limits.fragments_max, seed_of(limits))?,
            tracer: Tracer::default(),
            service_mtu: ServiceMtu::default(),
        }))
    }

    /// The flows of all workers.
    #[must_use]
    pub const fn flows(&self) -> &Table {
        &self.flows
    }

    /// Follows chosen packets through the stages.
    #[must_use]
    pub const fn tracer(&self) -> &Tracer {
        &self.tracer
    }
}

/// Where a call leaves its frames. The worker empties all three.
#[derive(Debug, Default)]
pub struct Output {
    /// To be sent through the tunnel; `outer` is the destination. A partial checksum is the link's to complete.
    pub to_underlay: ArrayVec<Frame, OUTPUT_MAX>,
    /// To be delivered to local services.
    pub to_service: ArrayVec<Frame, OUTPUT_MAX>,
    /// Buffers to go back to the pool; already accounted for.
    pub done: ArrayVec<Frame, OUTPUT_MAX>,
}

impl Output {
    /// Frames that certainly still fit, wherever they go.
    pub(crate) fn room(&self) -> usize {
        self.to_underlay
            .remaining_capacity()
            .min(self.to_service.remaining_capacity())
            .min(self.done.remaining_capacity())
    }
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    Outbound,
    Inbound,
}

/// One batch in so many shows control the flows that are worth being offloaded: a busy one is met within a few requests,
/// and of many that end after a few packets most are not.
const SAMPLED_ONE_IN: u32 = 8;

/// The path. One per worker; calls are made by that worker only.
#[derive(Debug)]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
    pub(crate) upcalls: Arc<Upcalls>,
    pub(crate) settings: Settings,
    pub(crate) counters: Arc<Counters>,
    pub(crate) hold: Hold,
    pub(crate) waiting: Waiting,
    pub(crate) tunnels: Tunnels,
    pub(crate) errors: Limiter,
    /// Searches for the flow that a peer's gateway complains about.
    pub(crate) searches: Limiter,
    pub(crate) questions: Limiter,
    pub(crate) suspicions: Limiter,
    pub(crate) observations: Limiter,
    pub(crate) random: Random,
    next_sweep: Now,
    /// Batches so far, modulo [`SAMPLED_ONE_IN`].
    batches: u32,
}

impl Engine {
    /// `seed` makes a run repeatable; in production it is random and differs between workers.
    #[must_use]
    pub fn new(shared: Arc<Shared>, upcalls: Arc<Upcalls>, settings: &Settings, seed: u64) -> Self {
        Self {
            shared,
            upcalls,
            settings: *settings,
            counters: Arc::default(),
            hold: Hold::new(settings),
            waiting: Waiting::new(settings.fragment_wait_ms),
            tunnels: Tunnels::new(settings.tunnels_max, settings.tunnel_idle_s),
            errors: Limiter::new(settings.errors_per_s, settings.errors_per_s * 2, seed),
            searches: Limiter::new(settings.errors_per_s, settings.errors_per_s * 2, seed),
            questions: Limiter::new(settings.questions_per_s, settings.questions_per_s * 4, seed),
            suspicions: Limiter::new(1, 2, seed),
            observations: Limiter::new(1, 1, seed),
            random: Random::new(seed),
            next_sweep: Now::default(),
            batches: 0,
        }
    }

    /// This worker's counters beside the account, for control to read at any time.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Counts a batch, and says whether the flows of its packets are to be offloaded.
    #[inline]
    pub(crate) const fn next_samples(&mut self) -> bool {
        self.batches = (self.batches + 1) % SAMPLED_ONE_IN;
        self.batches == 0
    }

    #[must_use]
    pub const fn tunnels(&self) -> &Tunnels {
        &self.tunnels
    }

    /// Sends on what was held and has an answer in `tables`. To be called when their generation changed. What was held
    /// before the call and does not fit `out` stays held for the next one.
    pub fn release_held(
        &mut self,
        tables: &Tables,
        now: Now,
        pool: &mut Pool,
        account: &Account,
        out: &mut Output,
    ) {
        let mut turn = Turn::new(tables, now, pool, account, out);
        self.hold.forget_answered(tables);
        // Each at most once: one that has to ask again must not keep the worker here.
        let mut left = self.hold.len();
        while left > 0 {
            let room = (turn.out.room() / 2).min(left);
            let Some((side, mut batch)) = self.hold.take_answered(tables, room) else {
                break;
            };
            left -= batch.len();
            self.counters.held.sub(batch.len() as u64);
            account.held.sub(batch.len() as u64);
            match side {
                Side::Outbound => self.outbound_turn(&mut batch, &mut turn),
                Side::Inbound => self.inbound_turn(&mut batch, &mut turn),
            }
        }
    }

    /// Drops what waited too long, looks for idle flows and closes idle tunnels. Does a bounded amount of work.
    pub fn handle_timeout(
        &mut self,
        tables: &Tables,
        now: Now,
        pool: &mut Pool,
        account: &Account,
        out: &mut Output,
    ) {
        let mut turn = Turn::new(tables, now, pool, account, out);
        self.drop_unanswered(&mut turn);
        self.waiting.look_again();
        self.release_fragments(&mut turn);
        self.drop_unmatched(&mut turn);
        if now >= self.next_sweep {
            self.shared.flows.collapse_index();
            let used = self.shared.flows.used();
            // Every entry once in `sweep_s` seconds; one worker alone manages that, more only do it sooner.
            let slices = self.settings.sweep_s.max(1) * SWEEPS_PER_S;
            let entries = used.div_ceil(slices).min(SWEEP_ENTRIES_MAX);
            let now_s = turn.now_s;
            self.shared
                .flows
                .sweep(entries, &self.settings.timeouts, now_s, |flow| {
                    // Undeploying an instance frees its flows.
                    let withdrawn = [flow.local, flow.remote].into_iter().any(|pin| {
                        let row = tables.instance(pin.slot);
                        row.is_some_and(|row| {
                            row.epoch > pin.epoch || row.state == InstanceState::Withdrawn
                        })
                    });
                    if withdrawn && !flow::is_ahead(flow, tables) {
                        return false;
                    }
                    // A row and its interest live while a flow uses them.
                    flow::touch_rows(flow, tables, now_s);
                    true
                });
            self.next_sweep = now.plus_ms(1000 / u64::from(SWEEPS_PER_S));
        }
        let flows = &self.shared.flows;
        if self
            .tunnels
            .poll_timeout()
            .is_some_and(|at_s| turn.now_s >= at_s)
        {
            self.tunnels
                .handle_timeout(turn.now_s, |peer| flows.live_of_peer(peer));
            self.counters.tunnels.set(self.tunnels.len() as u64);
        }
    }

    /// When [`Engine::handle_timeout`] has something to do; `None` when it has nothing. Changes with every call.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Now> {
        let sweep = (self.shared.flows.live() > 0).then_some(self.next_sweep);
        // Idle tunnels are looked at once a minute; that they close a little late does no harm.
        let tunnels =
            (!self.tunnels.is_empty() && sweep.is_none()).then(|| self.next_sweep.plus_ms(60_000));
        [
            self.hold.poll_timeout(),
            self.waiting.poll_timeout(),
            sweep,
            tunnels,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Ends a packet's way as its stage decided.
    pub(crate) fn stop(
        &mut self,
        mut frame: Frame,
        lane: Option<&Lane>,
        stop: Stop,
        side: Side,
        turn: &mut Turn<'_>,
    ) {
        self.note(&frame, Decision::from(stop));
        let stop = match stop {
            Stop::Ask(question) => match self.ask(frame, question, side, turn) {
                Ok(()) => return,
                Err((back, reason)) => {
                    frame = back;
                    Stop::Drop(reason)
                }
            },
            Stop::AwaitFirst(key) => match self.waiting.push(frame, key, side, turn.now) {
                Ok(()) => {
                    turn.account.held.add(1);
                    self.counters.fragments_waiting.add(1);
                    return;
                }
                Err(back) => {
                    frame = back;
                    Stop::Drop(DropReason::FragmentTableFull)
                }
            },
            Stop::Drop(_)
            | Stop::Refuse(..)
            | Stop::Back(_)
            | Stop::Onward { .. }
            | Stop::Pieces { .. } => stop,
        };
        match stop {
            Stop::Refuse(reason, answer) => {
                turn.account.drop_frame(reason);
                self.refuse(frame, lane.map(|lane| &lane.packet), answer, turn);
            }
            Stop::Drop(reason) => {
                turn.account.drop_frame(reason);
                turn.out.done.push(frame);
            }
            Stop::Back(_) => turn.out.to_underlay.push(frame),
            Stop::Onward { outer, mtu } => self.send_onward(frame, outer, mtu, turn),
            Stop::Pieces { mtu, .. } => fragment::cut(frame, mtu, side, turn),
            Stop::Ask(_) | Stop::AwaitFirst(_) => {
                unreachable!("both were turned into a drop above")
            }
        }
    }

    /// Turns the dropped frame into the answer to its sender, if one is due.
    fn refuse(
        &mut self,
        mut frame: Frame,
        packet: Option<&Parsed>,
        answer: Answer,
        turn: &mut Turn<'_>,
    ) {
        let mut scratch = [0; ERROR_LEN_MAX_V6];
        let written =
            packet.and_then(|packet| self.write_answer(&frame, packet, answer, turn, &mut scratch));
        let Some(bytes) = written.and_then(|len| scratch.get(..len)) else {
            turn.out.done.push(frame);
            return;
        };
        if frame.buffer_mut().len() < sluice_memory::HEADROOM + bytes.len() {
            turn.out.done.push(frame);
            return;
        }
        frame.fill(bytes);
        turn.account.originated.add(1);
        match answer {
            Answer::Remote { outer, .. } | Answer::RemoteTooBig { outer, .. } => {
                frame.outer = Some(outer);
                turn.out.to_underlay.push(frame);
            }
            Answer::Unreachable(_) | Answer::TooBig { .. } | Answer::Reset => {
                frame.outer = None;
                turn.out.to_service.push(frame);
            }
        }
    }

    fn write_answer(
        &mut self,
        frame: &Frame,
        packet: &Parsed,
        answer: Answer,
        turn: &Turn<'_>,
        scratch: &mut [u8],
    ) -> Option<usize> {
        let quote = frame
            .bytes()
            .get(..packet.total_len as usize)
            .unwrap_or_else(|| frame.bytes());
        if answer == Answer::Reset {
            self.counters.resets_sent.add(1);
            return icmp_error::tcp_reset(quote, packet, scratch);
        }
        let from = turn.tables.gateway(packet.family)?;
        let to = match answer {
            Answer::Remote { ns_ip, .. } | Answer::RemoteTooBig { ns_ip, .. } => ns_ip,
            Answer::Unreachable(_) | Answer::TooBig { .. } | Answer::Reset => packet.src,
        };
        if !icmp_error::may_answer(packet) || !self.errors.allows(to.to_bits(), turn.now) {
            return None;
        }
        self.counters.errors_sent.add(1);
        match answer {
            Answer::Unreachable(reason) | Answer::Remote { reason, .. } => {
                icmp_error::unreachable(quote, from, to, reason, scratch)
            }
            Answer::TooBig { mtu } | Answer::RemoteTooBig { mtu, .. } => {
                icmp_error::too_big(quote, from, to, mtu, scratch)
            }
            Answer::Reset => None,
        }
    }

    /// Tells control something, unless its queue is full.
    pub(crate) fn tell(&self, upcall: Upcall) -> bool {
        let told = self.upcalls.push(upcall);
        if !told {
            self.counters.upcalls_lost.add(1);
        }
        told
    }

    #[inline]
    pub(crate) fn note(&self, frame: &Frame, decision: Decision) {
        if frame.trace != 0 {
            self.shared.tracer.record(frame.trace, decision);
        }
    }
}

/// Sweeps per second, each of a slice of the table.
const SWEEPS_PER_S: u32 = 20;
/// The most entries one sweep looks at: some 100 µs.
const SWEEP_ENTRIES_MAX: u32 = 8192;

/// Keys limits by address.
pub(crate) const fn limit_key(ip: Ip) -> u128 {
    ip.to_bits()
}
