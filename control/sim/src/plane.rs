//! The data plane of a simulated gateway: the real engine on the real tables, with frames instead of links.

use sluice_engine::{Engine, Limits, Now, Output, Settings, Shared};
use sluice_memory::{Account, Batch, Endpoint, Frame, Pool};
use sluice_routes::Routes;
use sluice_tables::{Publisher, Tables, Upcall, Upcalls, Writer};
use sluice_wire::{AddressPlan, DropReason, Dual, Ip};
use std::sync::Arc;
use std::time::Duration;

/// The tunnel port of every node.
pub const TUNNEL_PORT: u16 = 50103;
/// Bytes of an inner packet that reach any peer.
const PATH_MTU: u16 = 1450;
/// The workers' clock does not begin at 0, which means "never" there.
const EPOCH: Duration = Duration::from_secs(1000);

/// What a gateway did with a packet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Left {
    /// Sent through the tunnel, to this node.
    Tunnel(Endpoint, Vec<u8>),
    /// Given to an instance of the node, or to its application as an error.
    Service(Vec<u8>),
}

/// See the module.
#[derive(Debug)]
pub struct Plane {
    pub routes: Routes,
    shared: Arc<Shared>,
    engine: Engine,
    publisher: Publisher,
    upcalls: Arc<Upcalls>,
    pool: Pool,
    account: Account,
    output: Box<Output>,
}

/// The workers' clock.
fn at(now: Duration) -> Now {
    Now {
        ns: u64::try_from(Plane::clock(now).as_nanos()).unwrap_or(u64::MAX),
    }
}

impl Plane {
    /// The data plane of the node at `own`.
    ///
    /// # Panics
    /// When memory for flows or frames cannot be mapped.
    #[must_use]
    pub fn new(own: Ip, seed: u64) -> Self {
        let writer = Writer::new(AddressPlan::oakestra(), Dual::default());
        let limits = Limits {
            flows_max: 1 << 12,
            // A gateway's own table is so large that a caller's share is not soon used up by calls that nobody answers.
            embryonic_per_owner_max: 1 << 9,
            fragments_max: 64,
            seed: Some(seed),
            ..Limits::default()
        };
        let shared = Shared::new(&limits).expect("memory for flows");
        let upcalls = Arc::new(Upcalls::new(64));
        let publisher = writer.publisher();
        let mut routes = Routes::new(writer, |_, _, _| PATH_MTU);
        routes.set_own((own, TUNNEL_PORT));
        Self {
            routes,
            engine: Engine::new(
                Arc::clone(&shared),
                Arc::clone(&upcalls),
                &Settings::default(),
                seed,
            ),
            shared,
            publisher,
            upcalls,
            pool: Pool::new(320, 2048).expect("memory for frames"),
            account: Account::default(),
            output: Box::default(),
        }
    }

    /// What the workers' clock shows at `now`.
    #[must_use]
    pub fn clock(now: Duration) -> Duration {
        EPOCH + now
    }

    /// When it is that the workers' clock shows `clock`.
    #[must_use]
    pub fn of_clock(clock: Duration) -> Duration {
        clock.saturating_sub(EPOCH)
    }

    /// A packet of a local instance.
    pub fn outbound(&mut self, bytes: &[u8], now: Duration) -> Vec<Left> {
        let mut batch = self.batch(bytes, None);
        let tables = self.publisher.snapshot();
        self.engine.outbound(
            &mut batch,
            &tables,
            at(now),
            &mut self.pool,
            &self.account,
            &mut self.output,
        );
        self.settle()
    }

    /// A tunnelled packet from the node at `from`.
    pub fn inbound(&mut self, from: Ip, bytes: &[u8], now: Duration) -> Vec<Left> {
        let outer = Endpoint {
            ip: from,
            port: TUNNEL_PORT,
        };
        let mut batch = self.batch(bytes, Some(outer));
        let tables = self.publisher.snapshot();
        self.engine.inbound(
            &mut batch,
            &tables,
            at(now),
            &mut self.pool,
            &self.account,
            &mut self.output,
        );
        self.settle()
    }

    /// Makes the edits of the routes visible, which lets go what waited for them, and ends what is not allowed any more.
    pub fn publish(&mut self, now: Duration) -> Vec<Left> {
        self.routes.publish();
        let tables = self.publisher.snapshot();
        if self.routes.take_revoked() {
            self.shared.end_forbidden(&tables, |_| ());
        }
        self.engine.release_held(
            &tables,
            at(now),
            &mut self.pool,
            &self.account,
            &mut self.output,
        );
        self.settle()
    }

    /// Drops what waited too long and ends idle flows.
    pub fn handle_timeout(&mut self, now: Duration) -> Vec<Left> {
        if self.engine.poll_timeout().is_none_or(|due| due > at(now)) {
            return Vec::new();
        }
        let tables = self.publisher.snapshot();
        self.engine.handle_timeout(
            &tables,
            at(now),
            &mut self.pool,
            &self.account,
            &mut self.output,
        );
        self.settle()
    }

    /// What the engine wants control to know.
    pub fn poll_upcall(&self) -> Option<Upcall> {
        self.upcalls.pop()
    }

    #[must_use]
    pub fn has_upcalls(&self) -> bool {
        !self.upcalls.is_empty()
    }

    /// The second of the workers' clock from which on a use counts as "since the last look", a second ago.
    #[must_use]
    pub fn used_since_s(now: Duration) -> u32 {
        at(now).s().saturating_sub(2)
    }

    /// The tables that packets meet now.
    #[must_use]
    pub fn tables(&self) -> Arc<Tables> {
        self.publisher.snapshot()
    }

    /// Every drop by its reason's name, for a failing seed.
    #[must_use]
    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        DropReason::ALL
            .iter()
            .map(|reason| (reason.name(), self.account.dropped(*reason)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    fn batch(&mut self, bytes: &[u8], outer: Option<Endpoint>) -> Batch {
        let mut frame = Frame::new(self.pool.take().expect("every buffer comes back"));
        frame.fill(bytes);
        frame.outer = outer;
        self.account.received.add(1);
        let mut batch = Batch::new();
        batch.push(frame);
        batch
    }

    /// Plays the links; the account balances after every call.
    fn settle(&mut self) -> Vec<Left> {
        let output = &mut *self.output;
        let mut left = Vec::new();
        for frame in output
            .to_underlay
            .drain(..)
            .chain(output.to_service.drain(..))
        {
            self.account.forwarded.add(1);
            left.push(match frame.outer {
                Some(to) => Left::Tunnel(to, frame.bytes().to_vec()),
                None => Left::Service(frame.bytes().to_vec()),
            });
            self.pool.release(frame.into_buffer());
        }
        for frame in output.done.drain(..) {
            self.pool.release(frame.into_buffer());
        }
        let (came, went) = self.account.balance();
        assert_eq!(came, went, "the account balances: {:?}", self.drops());
        left
    }
}
