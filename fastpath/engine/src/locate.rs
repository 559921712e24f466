//! Where is the instance now? Read from its slot for every packet, so that flows follow it.
//!
//! Comes before translation, because the NsIP is part of the location, and so that a packet too big for the place is
//! quoted to its sender as it was sent.

use crate::batch::{Answer, Step, Stop, drop_as};
use crate::flow::{self, Ends, Flow};
use crate::{policy, relay};
use sluice_memory::Frame;
use sluice_tables::{Peer, PeerSlot, Placement, Question, Tables};
use sluice_wire::{DropReason, InstanceIp, Ip, NsIp, Parsed};

/// Where a packet goes, and under which addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Location<'a> {
    /// The sender's InstanceIP.
    pub(crate) src: Ip,
    /// The receiver's NsIP.
    pub(crate) dst: Ip,
    /// `None` for an instance of this node.
    pub(crate) peer: Option<(PeerSlot, &'a Peer)>,
}

/// The remote instance's location.
#[inline(always)]
pub(crate) fn remote<'a>(flow: &Flow, ends: &Ends<'_>, tables: &'a Tables) -> Step<Location<'a>> {
    let Ends { local, remote } = *ends;
    let family = flow.forward.src.family();
    let (Some(src), Some(dst)) = (local.instance_ip.of(family), remote.ns_ip.of(family)) else {
        return policy::refuse(DropReason::NoAddress);
    };
    if flow.state.is_relayed()
        && let Some(location) = relay::location(flow, ends, tables)
    {
        return Ok(location);
    }
    let peer = match remote.placement {
        Placement::Local => None,
        Placement::Peer(slot) => match tables.peer(slot) {
            Some(peer) if peer.can_be_reached() => Some((slot, peer)),
            Some(_) | None => return drop_as(DropReason::NoTunnel),
        },
        Placement::Nowhere => {
            return Err(Stop::Ask(Question::Dialled(flow.remote_ip.ip())));
        }
    };
    Ok(Location {
        src: InstanceIp::ip(src),
        dst: NsIp::ip(dst),
        peer,
    })
}

/// Whether the packet, or each segment of a super-frame, fits the peer. What may be fragmented is, later.
///
/// The limit is what the peer takes (1,450 for legacy peers), not the 1,420 of the services' routes: that is advice.
#[inline(always)]
pub(crate) fn check_size(frame: &Frame, packet: &Parsed, location: &Location<'_>) -> Step<()> {
    match location.peer {
        Some((_, peer)) => check_mtu(frame, packet, peer.mtu),
        None => Ok(()),
    }
}

/// The longest packet that goes to the node of the flow's other end; no limit if that is here or nowhere.
pub(crate) fn mtu_of_remote(flow: &Flow, tables: &Tables) -> u16 {
    let remote = flow::remote(flow, tables).map(|remote| remote.placement);
    let Some(Placement::Peer(slot)) = remote else {
        return u16::MAX;
    };
    tables.peer(slot).map_or(u16::MAX, |peer| peer.mtu)
}

/// The same for a way that takes `mtu` bytes.
#[inline(always)]
pub(crate) fn check_mtu(frame: &Frame, packet: &Parsed, mtu: u16) -> Step<()> {
    let len = match frame.gso {
        Some(gso) => usize::from(gso.header_len) + usize::from(gso.segment_size),
        None => packet.total_len as usize,
    };
    if len > usize::from(mtu) && (packet.dont_fragment || frame.gso.is_some()) {
        return Err(Stop::Refuse(DropReason::TooBig, Answer::TooBig { mtu }));
    }
    Ok(())
}
