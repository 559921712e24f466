//! The way out of a local instance: parse, flow, (policy, select), locate, translate, encap.

use crate::batch::{Lane, Now, Step, Stops, Turn};
use crate::engine::{Engine, Output, Side};
use crate::flow::Flow;
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
        self.outbound_turn(batch, &mut Turn::new(tables, now, pool, account, out));
    }

    pub(crate) fn outbound_turn(&mut self, batch: &mut Batch, turn: &mut Turn<'_>) {
        let flows = &self.shared.flows;
        let loaded = flows.is_loaded();
        let mut lanes: ArrayVec<Lane, BATCH_MAX> = ArrayVec::new();
        for frame in &*batch {
            lanes.push(parse::outbound(frame, turn.tables, flows, loaded));
        }
        for lane in &mut lanes {
            flows.prefetch_entry(&mut lane.probe);
        }
        let mut exits: ArrayVec<Exit, BATCH_MAX> = ArrayVec::new();
        let mut stops = Stops::new();
        let mut flow = Flow::none();
        for (at, (frame, lane)) in batch.iter_mut().zip(&lanes).enumerate() {
            match self.outbound_packet(frame, lane, &mut flow, turn) {
                Ok(exit) => exits.push(exit),
                Err(stop) => {
                    exits.push(Exit::Stopped);
                    stops.push((at, stop));
                }
            }
        }
        let mut beside = Batch::new();
        if exits.iter().all(|exit| *exit == Exit::Tunnel) {
            turn.out.to_underlay.extend(batch.drain(..));
        }
        let mut stops = stops.into_iter();
        for (frame, exit) in batch.drain(..).zip(exits) {
            match exit {
                Exit::Tunnel => turn.out.to_underlay.push(frame),
                Exit::Pieces { mtu } => fragment::cut(frame, mtu, turn),
                Exit::Beside => beside.push(frame),
                Exit::Stopped => {
                    if let Some((at, stop)) = stops.next() {
                        self.stop(frame, lanes.get(at), stop, Side::Outbound, turn);
                    }
                }
            }
        }
        self.counters.tunnels.set(self.tunnels.len() as u64);
        self.inbound_turn(&mut beside, turn);
        self.release_fragments(turn);
    }

    #[inline(always)]
    fn outbound_packet(
        &mut self,
        frame: &mut Frame,
        lane: &Lane,
        flow: &mut Flow,
        turn: &Turn<'_>,
    ) -> Step<Exit> {
        if !self.known_outbound(frame, lane, flow, turn)? {
            *flow = self.select(frame, lane, turn)?;
        }
        let ends = flow::ends(flow, turn.tables)?;
        let location = locate::remote(flow, &ends, turn.tables)?;
        locate::check_size(frame, &lane.packet, &location)?;
        self.bind_first(lane, flow, turn)?;
        translate::outbound(frame, lane, flow, &location, self.settings.inner_mtu)?;
        self.encap(frame, &location, turn)
    }
}
