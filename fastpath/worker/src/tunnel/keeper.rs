//! The keeper of sessions: the speaker, its peers as the tables have them, and what it says and publishes.

use super::open::reason_of;
use super::shared::{Exchange, Incoming, Note, Order, OutgoingSession, Published};
use super::{Dscp, Outgoing, Surroundings, time};
use sluice_engine::Now;
use sluice_link::Link;
use sluice_memory::{Endpoint, Frame};
use sluice_tables::slots::Slot;
use sluice_tables::{PeerSlot, Tables, TunnelFormat, Upcall, Upcalls};
use sluice_tunnel::address::Address;
use sluice_tunnel::key::{PresharedKey, PublicKey};
use sluice_tunnel::lane::Event;
use sluice_tunnel::peer::PeerSettings;
use sluice_tunnel::{Refusal, Speaker};
use sluice_wire::DropReason;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Notes that are read in one turn.
const NOTES_PER_TURN: usize = 64;

/// The speaker's timers see what workers sealed and opened when they are looked at: so often.
const LOOK_MS: u64 = 1_000;

/// A peer as the speaker knows it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Known {
    epoch: u32,
    key: PublicKey,
    address: Address,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Keeper {
    speaker: Speaker,
    upcalls: Arc<Upcalls>,
    peers: BTreeMap<PeerSlot, Known>,
    /// By where the tables say that they are.
    at: BTreeMap<Address, PeerSlot>,
    /// Of the tables that `peers` are from; `None` before the first.
    generation: Option<u64>,
    look_at: Option<Now>,
    /// The sessions are others than published.
    is_changed: bool,
    version: u64,
    /// Those before, until no worker has them: none frees many sessions while it moves packets.
    retired: Vec<Arc<Published>>,
}

impl Keeper {
    pub(super) const fn new(speaker: Speaker, upcalls: Arc<Upcalls>) -> Self {
        Self {
            speaker,
            upcalls,
            peers: BTreeMap::new(),
            at: BTreeMap::new(),
            generation: None,
            look_at: None,
            is_changed: false,
            version: 0,
            retired: Vec::new(),
        }
    }

    pub(super) const fn poll_timeout(&self) -> Option<Now> {
        self.look_at
    }

    /// A handshake message came.
    ///
    /// # Errors
    /// Why it was refused.
    pub(super) fn take_message(
        &mut self,
        datagram: &[u8],
        from: Endpoint,
        tables: &Tables,
        now: Now,
    ) -> Result<(), Refusal> {
        // The sender may have become known in this very turn.
        self.follow(tables, now);
        let mut bytes = [0; sluice_tunnel::noise::message::INITIATION_LEN];
        let message = bytes.get_mut(..datagram.len()).ok_or(Refusal::Malformed)?;
        message.copy_from_slice(datagram);
        let from = address_of(from);
        // What it says, and be it a cookie, is sent at the end of the turn.
        self.look_at = Some(now);
        self.speaker.handle_datagram(message, from, time(now))?;
        Ok(())
    }

    /// Obeys orders, follows the tables, reads notes, does what is due, sends and publishes.
    pub(super) fn work<U: Link>(
        &mut self,
        exchange: &Exchange,
        dscp: Dscp,
        around: &mut Surroundings<'_, U>,
    ) {
        let mut has_worked = self.obey(exchange, around.now);
        has_worked |= self.follow(around.tables, around.now);
        for note in std::iter::from_fn(|| exchange.take()).take(NOTES_PER_TURN) {
            self.read(note, around);
            has_worked = true;
        }
        if self.look_at.is_some_and(|at| at <= around.now) {
            self.speaker.handle_timeout(time(around.now));
            has_worked = true;
        }
        if !has_worked {
            return;
        }
        while let Some(event) = self.speaker.poll_event() {
            match event {
                Event::SessionsChanged { .. }
                | Event::Established { .. }
                | Event::Roamed { .. } => self.is_changed = true,
                // What waits for it is dropped by its time.
                Event::Unreachable { .. } => {}
                // If the queue is full the initiator says it again.
                Event::Unknown { key, .. } => {
                    let key = *key.as_bytes();
                    self.upcalls.push(Upcall::Initiator { key });
                }
            }
        }
        if std::mem::take(&mut self.is_changed) {
            self.publish(exchange);
        }
        self.transmit(dscp, around);
        self.look_at = self.speaker.poll_timeout().map_or_else(
            // Packets may set timers that are not set yet.
            || (!self.peers.is_empty()).then(|| around.now.plus_ms(LOOK_MS)),
            |at| {
                let ns = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
                Some(Now { ns }.min(around.now.plus_ms(LOOK_MS)))
            },
        );
        if !exchange.is_empty() {
            exchange.wake_keeper();
        }
    }

    fn obey(&mut self, exchange: &Exchange, now: Now) -> bool {
        let mut has_obeyed = false;
        while let Some(order) = exchange.take_order() {
            has_obeyed = true;
            match order {
                Order::Identity(identity) => self.speaker.set_identity(identity, time(now)),
                Order::WallClock(unix, at) => self.speaker.set_wall_clock(unix, time(at)),
            }
        }
        has_obeyed
    }

    /// Gives the speaker the peers that the tables have. True when they were others than those last seen.
    fn follow(&mut self, tables: &Tables, now: Now) -> bool {
        if self.generation == Some(tables.generation) {
            return false;
        }
        self.generation = Some(tables.generation);
        let wanted: BTreeMap<PeerSlot, Known> = tables
            .peers()
            .filter(|(slot, row)| tables.peers_at(row.ip).contains(slot))
            .filter_map(|(slot, row)| {
                let TunnelFormat::WireGuard { key } = row.format else {
                    return None;
                };
                let known = Known {
                    epoch: row.epoch,
                    key: PublicKey::from_bytes(key),
                    address: Address {
                        ip: row.node,
                        port: row.port,
                    },
                };
                Some((slot, known))
            })
            .collect();
        let same = |slot: &PeerSlot, known: &Known| {
            let now = wanted.get(slot);
            now.is_some_and(|now| now.epoch == known.epoch)
        };
        // First, so that a key can move from one slot to another.
        let gone: Vec<PeerSlot> = self
            .peers
            .iter()
            .filter(|(slot, known)| !same(slot, known))
            .map(|(slot, _)| *slot)
            .collect();
        for slot in &gone {
            self.speaker.remove(*slot);
            self.peers.remove(slot);
        }
        // Twice: the key of one may be that of another until that has its next one. What cannot be used, or is another's even so,
        // is tried again with the next tables; meanwhile the peer is silent.
        for (&slot, &known) in wanted.iter().chain(&wanted) {
            if self.peers.get(&slot) == Some(&known) {
                continue;
            }
            let settings = PeerSettings {
                key: known.key,
                preshared: PresharedKey::none(),
                address: Some(known.address),
                keepalive: None,
            };
            if self.speaker.add(slot, settings, time(now)).is_ok() {
                self.peers.insert(slot, known);
                // Its address may be another.
                self.is_changed = true;
            }
        }
        let known = self.peers.iter();
        self.at = known.map(|(&slot, known)| (known.address, slot)).collect();
        self.is_changed |= !gone.is_empty();
        true
    }

    fn read<U: Link>(&mut self, note: Note, around: &mut Surroundings<'_, U>) {
        let now = time(around.now);
        match note {
            Note::Message { bytes, len, from } => {
                let datagram = bytes.get(..len).unwrap_or_default();
                let refused = self
                    .take_message(datagram, from, around.tables, around.now)
                    .err();
                let account = &around.accounts.engine;
                account.originated.add(1);
                match refused.map(reason_of) {
                    Some(reason) => account.drop_frame(reason),
                    None => account.taken.add(1),
                }
            }
            Note::Request(peer) => self.speaker.request(peer, now),
            Note::Stray(from) => self.find_again(address_of(from), now),
            Note::Opened {
                index,
                opened,
                from,
            } => {
                let from = address_of(from);
                self.speaker.handle_opened(index, opened, from, now);
            }
        }
    }

    /// A peer that knows of a session where this node knows of none would send in vain until it wonders at the silence, for 15 s.
    /// Whoever only pretends to be there gets a peer an initiation, no more than one in 5 s.
    fn find_again(&mut self, from: Address, now: Duration) {
        if let Some(&peer) = self.at.get(&from)
            && self
                .speaker
                .sessions(peer)
                .is_some_and(|it| it.current.is_none())
        {
            self.speaker.request(peer, now);
        }
    }

    /// Makes the sessions, as they are, those that workers use.
    fn publish(&mut self, exchange: &Exchange) {
        self.version += 1;
        let mut published = Published {
            version: self.version,
            ..Published::default()
        };
        for (&peer, known) in &self.peers {
            let Some(sessions) = self.speaker.sessions(peer) else {
                continue;
            };
            let address = self.speaker.address(peer).map(endpoint_of);
            for session in sessions.iter() {
                let next = sessions.next.as_ref();
                let incoming = Incoming {
                    peer,
                    epoch: known.epoch,
                    is_next: next.is_some_and(|next| Arc::ptr_eq(next, session)),
                    from: address,
                    session: Arc::clone(session),
                };
                published.incoming.insert(session.local_index(), incoming);
            }
            if let (Some(session), Some(to)) = (&sessions.current, address) {
                let at = peer.index() as usize;
                if published.outgoing.len() <= at {
                    published.outgoing.resize(at + 1, None);
                }
                published.outgoing[at] = Some(OutgoingSession {
                    epoch: known.epoch,
                    to,
                    session: Arc::clone(session),
                });
            }
        }
        self.retired.push(exchange.publish(published));
        self.retired.retain(|before| Arc::strong_count(before) > 1);
    }

    /// Sends what the speaker says.
    fn transmit<U: Link>(&mut self, dscp: Dscp, around: &mut Surroundings<'_, U>) {
        let mut frames = Outgoing::new();
        while let Some(transmit) = self.speaker.poll_transmit() {
            around.accounts.engine.originated.add(1);
            let Some(buffer) = around.pool.take() else {
                around.accounts.engine.drop_frame(DropReason::PoolEmpty);
                continue;
            };
            let mut frame = Frame::new(buffer);
            frame.fill(transmit.datagram());
            frame.outer = Some(endpoint_of(transmit.to));
            frame.class = dscp.own_class();
            if frames.is_full() {
                around.transmit(&mut frames);
            }
            frames.push(frame);
        }
        around.transmit(&mut frames);
    }
}

const fn address_of(from: Endpoint) -> Address {
    Address {
        ip: from.ip,
        port: from.port,
    }
}

const fn endpoint_of(address: Address) -> Endpoint {
    Endpoint {
        ip: address.ip,
        port: address.port,
    }
}
