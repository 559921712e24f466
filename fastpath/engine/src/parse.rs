//! Bytes to a lane: the headers, and where in the caches the packet's flow is to be looked for.

use crate::batch::{Kind, Lane, Step, Stop, drop_as};
use crate::engine::check_hop_limit;
use crate::flow::Table;
use crate::flow::table::{Probe, Sought};
use crate::policy;
use sluice_memory::Frame;
use sluice_tables::Tables;
use sluice_wire::{DropReason, FlowKey, Fragment, IcmpKind, Parsed, Protocol, parse as wire};

/// A packet from the service side.
#[inline(always)]
pub(crate) fn outbound(frame: &Frame, tables: &Tables, flows: &Table, loaded: bool) -> Step<Lane> {
    let lane = lane(frame, headers(frame)?, flows, true, loaded)?;
    // What has its own flow needs no such question: an address that is no service's begins none.
    if lane.kind != Kind::Own {
        policy::check_dialled(&lane.packet, tables)?;
    }
    Ok(lane)
}

/// A packet's headers.
#[inline(always)]
pub(crate) fn headers(frame: &Frame) -> Step<Parsed> {
    let packet = wire::parse(frame.bytes()).map_err(Stop::Drop)?;
    check_hop_limit(&packet)?;
    Ok(packet)
}

/// Says how the packet's flow is found and asks the caches for it.
#[inline(always)]
pub(crate) fn lane(
    frame: &Frame,
    packet: Parsed,
    flows: &Table,
    outbound: bool,
    loaded: bool,
) -> Step<Lane> {
    let mut lane = Lane {
        packet,
        kind: kind(&packet)?,
        probe: Probe::NONE,
    };
    if lane.kind != Kind::Later {
        lane.probe = flows.probe(&sought(frame, &lane, outbound)?);
        flows.prefetch_index(&lane.probe, loaded);
    }
    Ok(lane)
}

#[inline(always)]
fn kind(packet: &Parsed) -> Step<Kind> {
    match (packet.protocol, packet.fragment) {
        (_, Fragment::Later { .. }) => Ok(Kind::Later),
        (Protocol::Tcp | Protocol::Udp, _) => Ok(Kind::Own),
        (Protocol::Icmp, _) => match packet.icmp {
            Some(IcmpKind::EchoRequest | IcmpKind::EchoReply) => Ok(Kind::Own),
            Some(IcmpKind::Error(_)) => Ok(Kind::Error),
            Some(IcmpKind::Other(_)) | None => drop_as(DropReason::ProtocolUnsupported),
        },
        (Protocol::Other(_), _) => drop_as(DropReason::ProtocolUnsupported),
    }
}

/// The key of the packet's flow.
///
/// An outbound error quotes what was delivered, so its flow is the quote's reverse. An inbound one quotes what was sent on
/// the wire, whose destination is an NsIP; the flow knows the remote side by its InstanceIP, the error's own source.
#[inline(always)]
pub(crate) fn sought(frame: &Frame, lane: &Lane, outbound: bool) -> Step<Sought> {
    let packet = &lane.packet;
    if lane.kind == Kind::Own {
        return Ok(Sought::new(&packet.flow_key(), outbound));
    }
    let key = lane.quote(frame.bytes())?.flow_key().reversed();
    let key = if outbound {
        key
    } else {
        FlowKey {
            src: packet.src,
            dst: packet.dst,
            ..key
        }
    };
    Ok(Sought::new(&key, outbound))
}
