//! Bytes to a lane: the headers, and where in the caches the packet's flow is to be looked for.

use crate::batch::{Kind, Lane, Step, Stop, UNPARSED};
use crate::flow::Table;
use crate::flow::table::{Probe, Sought};
use crate::policy;
use sluice_memory::Frame;
use sluice_tables::Tables;
use sluice_wire::{DropReason, FlowKey, Fragment, IcmpKind, Parsed, Protocol, parse as wire};

/// A packet from the service side.
#[inline(always)]
pub(crate) fn outbound(frame: &Frame, tables: &Tables, flows: &Table, loaded: bool) -> Lane {
    let mut lane = headers(frame);
    // What has its own flow needs no such question: an address that is no service's begins none.
    if matches!(lane.kind, Kind::Error | Kind::Later)
        && let Err(Stop::Drop(reason)) = policy::check_dialled(&lane.packet, tables)
    {
        lane.kind = Kind::Unfit(reason);
    }
    look_up(frame, &mut lane, flows, true, loaded);
    lane
}

/// A frame's headers, and how its flow is to be found.
#[inline(always)]
pub(crate) fn headers(frame: &Frame) -> Lane {
    let packet = match wire::parse(frame.bytes()) {
        Ok(packet) => packet,
        Err(reason) => return Lane::unfit(reason, UNPARSED),
    };
    let mut lane = Lane {
        packet,
        kind: Kind::Own,
        probe: Probe::NONE,
    };
    // The kernel took one off the hop limit on the way here; nobody does after us. Zero should not have reached us.
    if lane.packet.hop_limit == 0 {
        lane.kind = Kind::Unfit(DropReason::TtlExpired);
    } else if !has_own_flow(&lane.packet) {
        lane.kind = kind(&lane.packet);
    }
    lane
}

/// What nearly every packet is.
#[inline(always)]
fn has_own_flow(packet: &Parsed) -> bool {
    matches!(packet.protocol, Protocol::Tcp | Protocol::Udp) && packet.fragment == Fragment::Whole
}

#[inline(never)]
fn kind(packet: &Parsed) -> Kind {
    match (packet.protocol, packet.fragment) {
        (_, Fragment::Later { .. }) => Kind::Later,
        (Protocol::Tcp | Protocol::Udp, _) => Kind::Own,
        (Protocol::Icmp, _) => match packet.icmp {
            Some(IcmpKind::EchoRequest | IcmpKind::EchoReply) => Kind::Own,
            Some(IcmpKind::Error(_)) => Kind::Error,
            Some(IcmpKind::Other(_)) | None => Kind::Unfit(DropReason::ProtocolUnsupported),
        },
        (Protocol::Other(_), _) => Kind::Unfit(DropReason::ProtocolUnsupported),
    }
}

/// Asks the caches for the packet's flow.
#[inline(always)]
pub(crate) fn look_up(frame: &Frame, lane: &mut Lane, flows: &Table, outbound: bool, loaded: bool) {
    if matches!(lane.kind, Kind::Own | Kind::Error) {
        match sought(frame, lane, outbound) {
            Ok(sought) => {
                lane.probe = flows.probe(&sought);
                flows.prefetch_index(&lane.probe, loaded);
            }
            Err(_) => lane.kind = Kind::Unfit(DropReason::Malformed),
        }
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
