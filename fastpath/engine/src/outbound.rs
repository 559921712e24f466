//! The way out of a local instance: parse, policy, flow, select, locate, translate, encap.

use crate::batch::{Lane, Now, Step, Turn};
use crate::engine::{Engine, Output, Side};
use crate::trace::Entry;
use crate::{locate, parse, translate};
use arrayvec::ArrayVec;
use sluice_memory::{Account, BATCH_MAX, Batch, Frame, Pool};
use sluice_tables::Tables;

/// Where a packet leaves the outbound path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Exit {
    /// Through the tunnel.
    Tunnel,
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
        let lanes: ArrayVec<Step<Lane>, BATCH_MAX> = batch
            .iter()
            .map(|frame| parse::outbound(frame, turn.tables, flows, loaded))
            .collect();
        for lane in lanes.iter().flatten() {
            flows.prefetch_entry(&lane.probe);
        }
        let mut beside = Batch::new();
        for (mut frame, lane) in batch.drain(..).zip(&lanes) {
            let exit = match lane {
                Ok(lane) => self.outbound_packet(&mut frame, lane, turn),
                Err(stop) => Err(*stop),
            };
            match exit {
                Ok(Exit::Tunnel) => {
                    turn.out.to_underlay.push(frame);
                    turn.out.to_underlay.extend(turn.after.drain(..));
                }
                Ok(Exit::Beside) => beside.push(frame),
                Err(stop) => self.stop(frame, lane.as_ref().ok(), stop, Side::Outbound, turn),
            }
        }
        self.counters.tunnels.set(self.tunnels.len() as u64);
        self.inbound_turn(&mut beside, turn);
        self.release_fragments(turn);
    }

    fn outbound_packet(
        &mut self,
        frame: &mut Frame,
        lane: &Lane,
        turn: &mut Turn<'_>,
    ) -> Step<Exit> {
        let flow = match self.known_outbound(frame, lane, turn)? {
            Some(flow) => flow,
            None => self.select(frame, lane, turn)?,
        };
        let location = locate::remote(&flow, turn.tables)?;
        locate::check_size(frame, &lane.packet, &location)?;
        self.bind_first(lane, &flow, turn)?;
        translate::outbound(frame, lane, &flow, &location, self.settings.inner_mtu);
        self.encap(frame, &location, turn)
    }
}
