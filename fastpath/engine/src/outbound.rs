//! The way out of a local instance: parse, flow, (policy, select), locate, translate, encap.

use crate::batch::{Lane, Now, Step, Stops, Turn};
use crate::engine::{Engine, Output, Side};
use crate::shortcut::Glances;
use crate::trace::Entry;
use crate::{flow, fragment, locate, parse, shortcut, translate};
use arrayvec::ArrayVec;
use sluice_memory::{Account, BATCH_MAX, Batch, Frame, Pool, append};
use sluice_tables::Tables;

/// Where a packet leaves the outbound path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Exit {
    /// Through the tunnel.
    Tunnel,
    /// Through the tunnel, in pieces of at most so many bytes.
    Pieces { mtu: u16 },
    /// To an instance of this node: inbound, on the same frame.
    Beside,
    /// Its way ended; why is kept apart, because it seldom happens.
    Stopped,
}

impl Engine {
    /// Takes all frames of `batch`, which came from local services, and leaves them in `out` or holds them.
    pub fn outbound(
        &mut self,
        batch: &mut Batch,
        tables: &Tables,
        now: Now,
        pool: &mut Pool,
        account: &Account,
        out: &mut Output,
    ) {
        self.shared.tracer.mark(batch, Entry::Outbound);
        let samples = self.next_samples();
        let turn = Turn::new(tables, now, pool, account, out);
        self.outbound_turn(batch, &mut Turn { samples, ..turn });
    }

    pub(crate) fn outbound_turn(&mut self, batch: &mut Batch, turn: &mut Turn<'_>) {
        let mut glances = Glances::new();
        shortcut::look_up(batch, &self.shared.flows, true, &mut glances);
        // Nearly every packet goes through the tunnel.
        let mut others: ArrayVec<(usize, Exit), BATCH_MAX> = ArrayVec::new();
        let mut stops = Stops::new();
        for (at, (frame, glanced)) in batch.iter_mut().zip(&glances).enumerate() {
            let quick = glanced.as_ref();
            let exit = match quick.and_then(|glanced| self.shortcut_outbound(frame, glanced, turn))
            {
                Some(exit) => exit,
                None => self.outbound_stages(at, frame, &mut stops, turn),
            };
            if exit != Exit::Tunnel {
                others.push((at, exit));
            }
        }
        let mut beside = Batch::new();
        if others.is_empty() {
            append(&mut turn.out.to_underlay, batch);
        }
        // Drained, because moving what is seldom used would cost more than all else here.
        let (mut others, mut stops) = (others.drain(..).peekable(), stops.drain(..));
        for (at, frame) in batch.drain(..).enumerate() {
            match others.next_if(|(other, _)| *other == at) {
                None | Some((_, Exit::Tunnel)) => turn.out.to_underlay.push(frame),
                Some((_, Exit::Pieces { mtu })) => fragment::cut(frame, mtu, Side::Outbound, turn),
                Some((_, Exit::Beside)) => beside.push(frame),
                Some((_, Exit::Stopped)) => {
                    if let Some((_, lane, stop)) = stops.next() {
                        self.stop(frame, Some(&lane), stop, Side::Outbound, turn);
                    }
                }
            }
        }
        self.counters.tunnels.set(self.tunnels.len() as u64);
        self.inbound_turn(&mut beside, turn);
        self.release_fragments(turn);
    }

    /// The long way.
    #[inline(never)]
    fn outbound_stages(
        &mut self,
        at: usize,
        frame: &mut Frame,
        stops: &mut Stops,
        turn: &Turn<'_>,
    ) -> Exit {
        let lane = parse::outbound(frame, turn.tables);
        self.outbound_packet(frame, &lane, turn)
            .unwrap_or_else(|stop| {
                stops.push((at, lane, stop));
                Exit::Stopped
            })
    }

    fn outbound_packet(&mut self, frame: &mut Frame, lane: &Lane, turn: &Turn<'_>) -> Step<Exit> {
        let flow = match self.known_outbound(frame, lane, turn)? {
            Some(flow) => flow,
            None => self.select(frame, lane, turn)?,
        };
        let flow = if flow.state.is_relayed() {
            self.end_silent_detour(flow, turn)
        } else {
            flow
        };
        let ends = flow::ends(&flow, turn.tables)?;
        let location = locate::remote(&flow, &ends, turn.tables)?;
        locate::check_size(frame, &lane.packet, &location)?;
        self.bind_first(lane, &flow, turn)?;
        translate::outbound(frame, lane, &flow, &location, self.settings.inner_mtu)?;
        self.encap(frame, &location, turn)
    }
}
