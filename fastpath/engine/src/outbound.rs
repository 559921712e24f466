//! The way out of a local instance: parse, flow, (policy, select), locate, translate, encap.

use crate::batch::{Lane, Now, Step, Turn};
use crate::engine::{Engine, Output, Side};
use crate::trace::Entry;
use crate::{flow, fragment, locate, parse, translate};
use arrayvec::ArrayVec;
use sluice_memory::{Account, BATCH_MAX, Batch, Frame, Pool};
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
        self.outbound_turn(batch, &mut Turn::new(tables, now, pool, account, out));
    }

    pub(crate) fn outbound_turn(&mut self, batch: &mut Batch, turn: &mut Turn<'_>) {
        let flows = &self.shared.flows;
        let loaded = flows.is_loaded();
        let mut lanes: ArrayVec<Step<Lane>, BATCH_MAX> = ArrayVec::new();
        for frame in &*batch {
            lanes.push(parse::outbound(frame, turn.tables, flows, loaded));
        }
        for lane in lanes.iter_mut().flatten() {
            flows.prefetch_entry(&mut lane.probe);
        }
        let mut exits: ArrayVec<Step<Exit>, BATCH_MAX> = ArrayVec::new();
        for (frame, lane) in batch.iter_mut().zip(&lanes) {
            exits.push(match lane {
                Ok(lane) => self.outbound_packet(frame, lane, turn),
                Err(stop) => Err(*stop),
            });
        }
        let mut beside = Batch::new();
        for ((frame, lane), exit) in batch.drain(..).zip(&lanes).zip(exits) {
            match exit {
                Ok(Exit::Tunnel) => turn.out.to_underlay.push(frame),
                Ok(Exit::Pieces { mtu }) => match fragment::cut(frame, mtu, turn) {
                    Ok(()) => {}
                    Err((frame, stop)) => self.stop(frame, None, stop, Side::Outbound, turn),
                },
                Ok(Exit::Beside) => beside.push(frame),
                Err(stop) => self.stop(frame, lane.as_ref().ok(), stop, Side::Outbound, turn),
            }
        }
        self.counters.tunnels.set(self.tunnels.len() as u64);
        self.inbound_turn(&mut beside, turn);
        self.release_fragments(turn);
    }

    #[inline(always)]
    fn outbound_packet(&mut self, frame: &mut Frame, lane: &Lane, turn: &Turn<'_>) -> Step<Exit> {
        let flow = match self.known_outbound(frame, lane, turn)? {
            Some(flow) => flow,
            None => self.select(frame, lane, turn)?,
        };
        let ends = flow::ends(&flow, turn.tables)?;
        let location = locate::remote(&flow, &ends, turn.tables)?;
        locate::check_size(frame, &lane.packet, &location)?;
        self.bind_first(lane, &flow, turn)?;
        translate::outbound(frame, lane, &flow, &location, self.settings.inner_mtu)?;
        self.encap(frame, &location, turn)
    }
}
