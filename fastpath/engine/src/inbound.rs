//! The way in to a local instance: decap, parse, flow, admit, accept, translate, deliver.

use crate::batch::{Lane, Now, Step, Stop, Stops, Turn};
use crate::engine::{Engine, Output, Side};
use crate::shortcut::Glances;
use crate::trace::{Decision, Entry};
use crate::{decap, deliver, liveness, relay, shortcut, translate};
use sluice_memory::{Account, Batch, Frame, Pool, append};
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
        let samples = self.next_samples();
        if samples {
            liveness::hear(batch, tables, now.ns);
        }
        let turn = Turn::new(tables, now, pool, account, out);
        self.inbound_turn(batch, &mut Turn { samples, ..turn });
    }

    /// The same for packets of the tunnel and for those of an instance beside, which have no outer source.
    pub(crate) fn inbound_turn(&mut self, batch: &mut Batch, turn: &mut Turn<'_>) {
        if batch.is_empty() {
            return;
        }
        let mut glances = Glances::new();
        shortcut::look_up(batch, &self.shared.flows, false, &mut glances);
        let mut stops = Stops::new();
        for (at, (frame, glanced)) in batch.iter_mut().zip(&glances).enumerate() {
            let quick = glanced.as_ref();
            let delivered = quick.and_then(|glanced| self.shortcut_inbound(frame, glanced, turn));
            if delivered.is_none() {
                self.inbound_stages(at, frame, &mut stops, turn);
            }
        }
        if stops.is_empty() {
            append(&mut turn.out.to_service, batch);
        }
        let mut stops = stops.drain(..).peekable();
        for (at, frame) in batch.drain(..).enumerate() {
            match stops.next_if(|(stopped, ..)| *stopped == at) {
                Some((_, lane, stop)) => self.stop(frame, Some(&lane), stop, Side::Inbound, turn),
                None => turn.out.to_service.push(frame),
            }
        }
        self.release_fragments(turn);
    }

    /// The long way.
    #[inline(never)]
    fn inbound_stages(&mut self, at: usize, frame: &mut Frame, stops: &mut Stops, turn: &Turn<'_>) {
        let lane = decap::inbound(frame, turn.tables);
        if let Err(stop) = self.inbound_packet(frame, &lane, turn) {
            stops.push((at, lane, stop));
        }
    }

    fn inbound_packet(&mut self, frame: &mut Frame, lane: &Lane, turn: &Turn<'_>) -> Step<()> {
        if liveness::is_for_gateway(frame, lane, turn.tables) {
            return self.answer_echo(frame, lane, turn);
        }
        // While instances that moved are still called where they were.
        if turn.tables.knows_moves()
            && let Some(detour) = relay::detour(frame, lane, turn.tables)
        {
            return self.take_detour(frame, lane, detour, turn);
        }
        self.receive(frame, lane, turn)
    }

    /// A packet for an instance of this node, under the NsIP that it has now.
    pub(crate) fn receive(&mut self, frame: &mut Frame, lane: &Lane, turn: &Turn<'_>) -> Step<()> {
        // The flow is looked up before admission because its slot hint spares admission a search by address.
        let known = self.known_inbound(frame, lane, turn)?;
        let sender = self.admit(frame, lane, known.as_ref(), turn)?;
        self.hear_suspect(lane, &sender, turn);
        self.end_detour(frame, lane, known.as_ref(), turn);
        let flow = self.accept(frame, lane, known, sender, turn)?;
        self.suspect_unreachable(lane, &flow, turn);
        let mtu = self.shared.service_mtu.get();
        deliver::check_size(frame, lane, sender, mtu, turn.tables)?;
        self.bind_first(lane, &flow, turn)?;
        translate::inbound(frame, lane, &flow, turn.tables, self.settings.inner_mtu)?;
        frame.outer = None;
        if deliver::is_too_long(frame, mtu) {
            let to = flow.local.slot;
            return Err(Stop::Pieces { to, mtu });
        }
        self.note(frame, Decision::Delivered(flow.local.slot));
        Ok(())
    }
}
