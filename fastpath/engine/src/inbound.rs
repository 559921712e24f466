//! The way in to a local instance: decap, parse, flow, admit, accept, translate, deliver.

use crate::batch::{Lane, Now, Step, Stops, Turn};
use crate::engine::{Engine, Output, Side};
use crate::flow::Flow;
use crate::trace::{Decision, Entry};
use crate::{decap, translate};
use arrayvec::ArrayVec;
use sluice_memory::{Account, BATCH_MAX, Batch, Frame, Pool};
use sluice_tables::Tables;

impl Engine {
    /// Takes all frames of `batch`, which came through the tunnel from `frame.outer`, and leaves them in `out` or
    /// holds them.
    pub fn inbound(
        &mut self,
        batch: &mut Batch,
        tables: &Tables,
        now: Now,
        pool: &mut Pool,
        account: &Account,
        out: &mut Output,
    ) {
        self.shared.tracer.mark(batch, Entry::Inbound);
        self.inbound_turn(batch, &mut Turn::new(tables, now, pool, account, out));
    }

    /// The same for packets of the tunnel and for those of an instance beside, which have no outer source.
    pub(crate) fn inbound_turn(&mut self, batch: &mut Batch, turn: &mut Turn<'_>) {
        if batch.is_empty() {
            return;
        }
        let flows = &self.shared.flows;
        let loaded = flows.is_loaded();
        let mut lanes: ArrayVec<Lane, BATCH_MAX> = ArrayVec::new();
        for frame in &*batch {
            lanes.push(decap::inbound(frame, turn.tables, flows, loaded));
        }
        for lane in &mut lanes {
            flows.prefetch_entry(&mut lane.probe);
        }
        let mut stops = Stops::new();
        let mut flow = Flow::none();
        for (at, (frame, lane)) in batch.iter_mut().zip(&lanes).enumerate() {
            if let Err(stop) = self.inbound_packet(frame, lane, &mut flow, turn) {
                stops.push((at, stop));
            }
        }
        if stops.is_empty() {
            turn.out.to_service.extend(batch.drain(..));
        }
        let mut stops = stops.into_iter().peekable();
        for (at, frame) in batch.drain(..).enumerate() {
            match stops.next_if(|(stopped, _)| *stopped == at) {
                Some((_, stop)) => self.stop(frame, lanes.get(at), stop, Side::Inbound, turn),
                None => turn.out.to_service.push(frame),
            }
        }
        self.release_fragments(turn);
    }

    #[inline(always)]
    fn inbound_packet(
        &mut self,
        frame: &mut Frame,
        lane: &Lane,
        flow: &mut Flow,
        turn: &Turn<'_>,
    ) -> Step<()> {
        // The flow is looked up before admission because its slot hint spares admission a search by address.
        let known = self.known_inbound(frame, lane, flow, turn)?;
        let sender = self.admit(frame, lane, known.then_some(&*flow), turn)?;
        self.accept(frame, lane, known, sender, flow, turn)?;
        self.suspect_unreachable(lane, flow, turn);
        self.bind_first(lane, flow, turn)?;
        translate::inbound(frame, lane, flow, self.settings.inner_mtu)?;
        self.note(frame, Decision::Delivered(flow.local.slot));
        frame.outer = None;
        Ok(())
    }
}
