//! Sources and sinks of frames: one trait, and the links that implement it.
//!
//! A worker owns one link towards its services and one towards the underlay. A link hands over layer-3 packets in
//! buffers of the worker's pool and takes them back; what it counts, and where, is written at [`Link`].

pub mod health;
pub mod sys;
mod pieces;
pub mod mem;
pub mod tun;
pub mod udp;
pub mod bpf;
pub mod af_xdp;
pub mod offload;
pub mod choose;
pub mod pcap;
pub mod fault;
#[cfg(test)]
mod testing;

pub use choose::{Chosen, Links, LinksError, LinksSettings};
pub use fault::{FaultLink, Faults};
pub use health::Health;
pub use mem::MemLink;
pub use pcap::{PcapError, PcapLink};
pub use pieces::{Merge, Pieces, complete_checksum};
pub use tun::{TunError, TunLink, TunSettings};
pub use udp::{UdpError, UdpLink, UdpSettings};

use arrayvec::ArrayVec;
use sluice_memory::{Account, Batch, Frame, Pool};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use thiserror::Error;

/// A source and sink of frames. Its worker is the only caller; nothing here waits.
///
/// A link counts, each at its own site: `received` per frame it took from its medium, `forwarded` per frame its medium
/// accepted, `split` and `merged` where it cuts or joins frames, `copied` where it copies one, and the drops it causes.
pub trait Link {
    /// The name for people: a device or an address.
    fn name(&self) -> &str;

    /// What to wait on for "readable"; `None` when the link cannot wake anybody and wants to be asked again.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Appends what has arrived to `batch`, up to its room, and says whether more may be there. Nothing that says to come from
    /// a discard-only address ([`sluice_wire::Ip::is_discard_only`]): those stand for sessions.
    ///
    /// # Errors
    /// When the link is gone for good; its worker stops.
    fn receive(
        &mut self,
        pool: &mut Pool,
        account: &Account,
        batch: &mut Batch,
    ) -> Result<Arrival, LinkDown>;

    /// Sends all `frames` and leaves it empty. Buffers go back to `pool`. What the medium refuses is dropped and
    /// counted, so that callers have no error path.
    fn transmit<const N: usize>(
        &mut self,
        frames: &mut ArrayVec<Frame, N>,
        pool: &mut Pool,
        account: &Account,
    );

    /// The link holds something back that its [`Link::fd`] does not announce: ask again within a millisecond.
    fn pending(&self) -> bool {
        false
    }

    /// Whether it sends frames that hold a run of datagrams: [`Frame::train`] without [`Frame::gso`].
    fn takes_runs(&self) -> bool {
        false
    }

    /// From now on received frames say the traffic class of their outer header ([`Frame::class`]), if there is one.
    fn watch_class(&mut self) {}

    /// Takes a received frame back whose encrypted datagrams were opened in place: a packet, or a run of them
    /// ([`Frame::train`]). [`Link::receive`] hands it out again, as if it had come so, and joins what belongs together; the
    /// frame is not counted again. A link that joins nothing gives it straight back.
    fn take_opened(&mut self, frame: Frame) -> Option<Frame> {
        Some(frame)
    }

    /// What control reads about the link while a worker owns it.
    fn health(&self) -> Arc<Health>;
}

/// What a [`Link::receive`] left behind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Arrival {
    /// Nothing: whatever comes now makes [`Link::fd`] readable.
    Drained,
    /// More may be there; ask again before waiting.
    More,
}

/// The link is gone for good: its device was removed, or its descriptor is no longer usable.
#[derive(Debug, Error)]
#[error(
    "link {link} is down: {source}; see `sluice status`, the gateway opens it again when it restarts"
)]
pub struct LinkDown {
    pub link: String,
    pub source: std::io::Error,
}
