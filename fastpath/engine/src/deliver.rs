//! The last step to a local instance: what does not fit the service side is answered or cut, as what does not fit the tunnel.

use crate::admit::{self, Sender};
use crate::batch::{Answer, Lane, Step, Stop};
use crate::engine::Shared;
use crate::locate;
use sluice_memory::Frame;
use sluice_tables::Tables;
use std::sync::atomic::{AtomicU16, Ordering};

/// The longest IP packet that all instances' links take, in bytes.
#[derive(Debug)]
pub(crate) struct ServiceMtu(AtomicU16);

impl Default for ServiceMtu {
    /// None is too long: where the kernel delivers packets, it answers or cuts them.
    fn default() -> Self {
        Self(AtomicU16::new(u16::MAX))
    }
}

impl ServiceMtu {
    #[inline(always)]
    pub(crate) fn get(&self) -> u16 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// Says how long IP packets to local instances may be, in bytes: the least that a link of theirs takes. Workers heed it
    /// from their next packet on. Without it, there is no limit.
    pub fn set_service_mtu(&self, mtu: u16) {
        self.service_mtu.0.store(mtu, Ordering::Relaxed);
    }
}

/// Refuses what is longer than `mtu` and must not be cut; its sender is told (RFC 1191, RFC 8201), with the packet quoted as it
/// came. To be asked before translation.
#[inline(always)]
pub(crate) fn check_size(
    frame: &Frame,
    lane: &Lane,
    sender: Sender<'_>,
    mtu: u16,
    tables: &Tables,
) -> Step<()> {
    locate::check_mtu(frame, &lane.packet, mtu)
        .map_err(|stop| told_afar(stop, sender, lane, tables))
}

/// Whether a packet that passed [`check_size`] has to be cut.
#[inline(always)]
pub(crate) const fn is_too_long(frame: &Frame, mtu: u16) -> bool {
    frame.gso.is_none() && frame.len() > mtu as usize
}

/// A refusal for the size that reaches an admitted sender elsewhere. One on this node was told on the way out.
pub(crate) fn told_afar(stop: Stop, sender: Sender<'_>, lane: &Lane, tables: &Tables) -> Stop {
    let Stop::Refuse(reason, Answer::TooBig { mtu }) = stop else {
        return stop;
    };
    match admit::way_back(sender, lane, tables) {
        Some((ns_ip, outer)) => Stop::Refuse(reason, Answer::RemoteTooBig { ns_ip, outer, mtu }),
        None => Stop::Drop(reason),
    }
}
