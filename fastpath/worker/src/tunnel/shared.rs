//! What workers share of the encrypted tunnel: the sessions, published whole, and the notes to their keeper.

use arc_swap::{ArcSwap, Cache};
use crossbeam_queue::ArrayQueue;
use sluice_engine::Now;
use sluice_link::sys::Event;
use sluice_memory::Endpoint;
use sluice_tables::PeerSlot;
use sluice_tables::slots::Slot;
use sluice_tunnel::Session;
use sluice_tunnel::key::Identity;
use sluice_tunnel::noise::message::INITIATION_LEN;
use sluice_tunnel::session::Opened;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Notes that wait for the keeper. A flood fills it; what authentic packets say is said again by the next ones.
const NOTES_MAX: usize = 256;

/// Orders that wait for the keeper, which looks within a turn.
const ORDERS_MAX: usize = 16;

/// A session in which packets come.
#[derive(Clone, Debug)]
pub(super) struct Incoming {
    pub(super) peer: PeerSlot,
    /// As in the row of the peer whose session it is.
    pub(super) epoch: u32,
    /// The keeper waits to hear that something came in it.
    pub(super) is_next: bool,
    /// Where the peer's packets came from lately.
    pub(super) from: Option<Endpoint>,
    pub(super) session: Arc<Session>,
}

/// How packets to a peer are sealed, and where they go.
#[derive(Clone, Debug)]
pub(super) struct OutgoingSession {
    pub(super) epoch: u32,
    pub(super) to: Endpoint,
    pub(super) session: Arc<Session>,
}

/// All sessions at one time. Immutable.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// Grows with each.
    pub(super) version: u64,
    /// By peer slot.
    pub(super) outgoing: Vec<Option<OutgoingSession>>,
    /// By receiver index, which is random, so that nobody can choose many that collide.
    pub(super) incoming: HashMap<u32, Incoming>,
}

impl Published {
    /// How to send to the peer that has the slot since `epoch`.
    #[inline]
    pub(super) fn outgoing(&self, peer: PeerSlot, epoch: u32) -> Option<&OutgoingSession> {
        let outgoing = self.outgoing.get(peer.index() as usize)?.as_ref();
        outgoing.filter(|outgoing| outgoing.epoch == epoch)
    }
}

/// Something that the keeper is to know.
#[derive(Debug)]
pub(super) enum Note {
    /// A handshake message.
    Message {
        bytes: [u8; INITIATION_LEN],
        len: usize,
        from: Endpoint,
    },
    /// A packet waits for a session with the peer, or its session is old.
    Request(PeerSlot),
    /// A datagram in no session came from there.
    Stray(Endpoint),
    /// A datagram was opened with the session of that index.
    Opened {
        index: u32,
        opened: Opened,
        from: Endpoint,
    },
}

/// What control wants of the keeper.
#[derive(Debug)]
pub(super) enum Order {
    /// The node has another key.
    Identity(Identity),
    /// The time since 1970 at the workers' time.
    WallClock(Duration, Now),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Exchange {
    published: Arc<ArcSwap<Published>>,
    notes: ArrayQueue<Note>,
    /// Apart from notes, which a flood may fill.
    orders: ArrayQueue<Order>,
    /// One per worker; the first is the keeper's.
    events: Vec<Event>,
}

impl Exchange {
    pub(super) fn new(workers: usize) -> io::Result<Self> {
        Ok(Self {
            published: Arc::default(),
            notes: ArrayQueue::new(NOTES_MAX),
            orders: ArrayQueue::new(ORDERS_MAX),
            events: (0..workers)
                .map(|_| Event::new())
                .collect::<io::Result<_>>()?,
        })
    }

    pub(super) fn reader(&self) -> Reader {
        Reader(Cache::new(Arc::clone(&self.published)))
    }

    /// Makes all workers use these sessions, and look at what they hold. Returns those before.
    pub(super) fn publish(&self, sessions: Published) -> Arc<Published> {
        let before = self.published.swap(Arc::new(sessions));
        for event in &self.events {
            event.notify();
        }
        before
    }

    pub(super) fn event(&self, worker: usize) -> &Event {
        &self.events[worker]
    }

    pub(super) fn wake_keeper(&self) {
        self.events[0].notify();
    }

    /// The oldest goes when there are too many.
    pub(super) fn order(&self, order: Order) {
        self.orders.force_push(order);
        self.wake_keeper();
    }

    pub(super) fn take_order(&self) -> Option<Order> {
        self.orders.pop()
    }

    /// False when there are too many.
    pub(super) fn leave(&self, note: Note) -> bool {
        self.notes.push(note).is_ok()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.notes.is_empty()
    }

    pub(super) fn take(&self) -> Option<Note> {
        self.notes.pop()
    }
}

/// A worker's view: one relaxed check per load while nothing was published.
pub(super) struct Reader(Cache<Arc<ArcSwap<Published>>, Arc<Published>>);

impl Reader {
    #[inline]
    pub(super) fn load(&mut self) -> &Arc<Published> {
        self.0.load()
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}
