//! The encrypted tunnel in a worker: what the engine sends to a session's address is sealed, and what comes is opened.
//!
//! Workers seal and open alone, with sessions that all of them share and read without a lock ([`shared`]). One worker, the first,
//! also keeps the sessions ([`keeper`]): it has the speaker, which shakes hands. The others leave it notes.
//!
//! ```text
//!   engine ──► seal ──► underlay ──► open ──► engine        each worker
//!                │ no session:          │ a handshake message, or the speaker should know
//!                ▼ held                 ▼
//!              notes ───────────────► keeper ──► sessions    one worker
//! ```

mod dscp;
mod keeper;
mod open;
mod seal;
mod shared;
mod waiting;

pub use crate::tunnel::dscp::Dscp;
use crate::tunnel::keeper::Keeper;
use crate::tunnel::open::Group;
pub(crate) use crate::tunnel::open::concerns_tunnel;
use crate::tunnel::shared::{Exchange, Note, Order};
use crate::tunnel::waiting::Waiting;
use sluice_engine::Now;
use sluice_link::Link;
use sluice_memory::{Accounts, BATCH_MAX, Endpoint, Frame, Pool};
use sluice_tables::slots::Slot;
use sluice_tables::{PeerSlot, Tables, Upcalls};
use sluice_tunnel::Speaker;
use sluice_tunnel::key::Identity;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// A worker asks for a session with one peer no more often than this.
const ASK_AGAIN_MS: u64 = 100;

/// A worker tells of datagrams in no session no more often than this: anybody can send them.
const STRAY_MS: u64 = 10;

/// Frames that leave sealed, until the link takes them.
type Outgoing = arrayvec::ArrayVec<Frame, BATCH_MAX>;

/// What a call of the tunnel works with.
pub(crate) struct Surroundings<'a, U> {
    pub(crate) underlay: &'a mut U,
    pub(crate) pool: &'a mut Pool,
    pub(crate) accounts: &'a Accounts,
    pub(crate) tables: &'a Tables,
    pub(crate) now: Now,
}

impl<U: Link> Surroundings<'_, U> {
    /// Sends and empties `frames`.
    pub(crate) fn transmit<const N: usize>(&mut self, frames: &mut arrayvec::ArrayVec<Frame, N>) {
        if !frames.is_empty() {
            let account = &self.accounts.underlay;
            self.underlay.transmit(frames, self.pool, account);
        }
    }

    fn drop_frame(&mut self, frame: Frame, reason: sluice_wire::DropReason) {
        self.accounts.engine.drop_frame(reason);
        self.pool.release(frame.into_buffer());
    }
}

/// Control's way to the tunnel, while workers run.
#[derive(Clone, Debug)]
pub struct Orders(Arc<Exchange>);

impl Orders {
    /// The node goes on with another key. Sessions last, and are renewed with the new one.
    pub fn set_identity(&self, identity: Identity) {
        self.0.order(Order::Identity(identity));
    }

    /// Says the wall clock again, which may have been set: `unix` is the time since 1970 at `now`.
    pub fn set_wall_clock(&self, unix: Duration, now: Now) {
        self.0.order(Order::WallClock(unix, now));
    }
}

/// One worker's part of the encrypted tunnel.
#[derive(Debug)]
pub struct Tunnel {
    exchange: Arc<Exchange>,
    worker: usize,
    sessions: shared::Reader,
    keeper: Option<Box<Keeper>>,
    waiting: Waiting,
    dscp: Dscp,
    /// The sessions under which held packets were last looked at.
    looked_at: u64,
    /// By peer slot, when a session was last asked for.
    asked: Vec<Option<Now>>,
    /// When a datagram in no session was last told of.
    strayed: Option<Now>,
    sealed: Outgoing,
    groups: Vec<Group>,
}

impl Tunnel {
    /// The parts of a gateway's workers, 1 or more; the first keeps the sessions. The speaker knows no peer yet: they come from
    /// the tables. Its times are those of the workers' clock. Who wants a session with a key that no row says is told to control.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn of_workers(
        speaker: Speaker,
        workers: usize,
        upcalls: Arc<Upcalls>,
    ) -> io::Result<(Orders, Vec<Self>)> {
        let exchange = Arc::new(Exchange::new(workers.max(1))?);
        let mut keeper = Some(Box::new(Keeper::new(speaker, upcalls)));
        let part = |worker| Self {
            sessions: exchange.reader(),
            exchange: Arc::clone(&exchange),
            worker,
            keeper: keeper.take(),
            waiting: Waiting::new(),
            dscp: Dscp::default(),
            looked_at: 0,
            asked: Vec::new(),
            strayed: None,
            sealed: Outgoing::new(),
            groups: Vec::new(),
        };
        let orders = Orders(Arc::clone(&exchange));
        Ok((orders, (0..workers.max(1)).map(part).collect()))
    }

    /// What the DSCP of datagrams is from now on.
    #[must_use]
    pub const fn with_dscp(mut self, dscp: Dscp) -> Self {
        self.dscp = dscp;
        self
    }

    /// Readable when another worker left something for this one to look at.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.exchange.event(self.worker).as_fd()
    }

    /// What made it readable is looked at in the next turn.
    pub(crate) fn hear(&self) {
        self.exchange.event(self.worker).clear();
    }

    /// When [`Tunnel::work`] has something to do though nothing came.
    pub(crate) fn poll_timeout(&self) -> Option<Now> {
        let keeper = self
            .keeper
            .as_ref()
            .and_then(|keeper| keeper.poll_timeout());
        [keeper, self.waiting.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// What is to be done besides packets: at the end of each turn.
    pub(crate) fn work<U: Link>(&mut self, around: &mut Surroundings<'_, U>) {
        if let Some(keeper) = &mut self.keeper {
            keeper.work(&self.exchange, self.dscp, around);
        }
        let sessions = Arc::clone(self.sessions.load());
        if sessions.version != self.looked_at {
            self.looked_at = sessions.version;
            self.send_held(&sessions, around);
        }
        while let Some(frame) = self.waiting.take_overdue(around.now) {
            around.accounts.engine.held.sub(1);
            around.drop_frame(frame, sluice_wire::DropReason::PeerSilent);
        }
    }

    /// Tells the keeper something; false when it has too much to do.
    fn note(&self, note: Note) -> bool {
        let noted = self.exchange.leave(note);
        if noted && self.keeper.is_none() {
            self.exchange.wake_keeper();
        }
        noted
    }

    /// Somebody sends in a session that is not known, perhaps of this node's life before.
    fn tell_stray(&mut self, from: Endpoint, now: Now) {
        let is_due = self.strayed.is_none_or(|at| now >= at.plus_ms(STRAY_MS));
        if is_due && self.note(Note::Stray(from)) {
            self.strayed = Some(now);
        }
    }

    /// Wants a session with the peer, or a newer one.
    fn request(&mut self, peer: PeerSlot, now: Now) {
        let at = peer.index() as usize;
        if at >= self.asked.len() {
            // Only a peer never sent to before gets here.
            self.asked.resize(at + 1, None);
        }
        let is_due = self.asked[at].is_none_or(|asked| now >= asked.plus_ms(ASK_AGAIN_MS));
        if is_due && self.note(Note::Request(peer)) {
            self.asked[at] = Some(now);
        }
    }
}

/// The workers' clock as the tunnel's.
const fn time(now: Now) -> Duration {
    Duration::from_nanos(now.ns)
}
