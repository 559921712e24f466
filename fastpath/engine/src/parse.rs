//! Bytes to a lane: the headers, and how the packet's flow is to be found.

use crate::batch::{Kind, Lane, Step, Stop, UNPARSED};
use crate::flow::table::Sought;
use crate::policy;
use sluice_memory::Frame;
use sluice_tables::Tables;
use sluice_wire::{DropReason, FlowKey, Fragment, IcmpKind, Parsed, Protocol, parse as wire};

/// A packet from the service side.
pub(crate) fn outbound(frame: &Frame, tables: &Tables) -> Lane {
    let mut lane = headers(frame);
    // What has its own flow needs no such question: an address that is no service's begins none.
    if matches!(lane.kind, Kind::Error | Kind::Later)
        && let Err(Stop::Drop(reason)) = policy::check_dialled(&lane.packet, tables)
    {
        lane.kind = Kind::Unfit(reason);
    }
    lane
}

/// A frame's headers, and how its flow is to be found.
pub(crate) fn headers(frame: &Frame) -> Lane {
    let packet = match wire::parse(frame.bytes()) {
        Ok(packet) => packet,
        Err(reason) => return Lane::unfit(reason, UNPARSED),
    };
    let mut lane = Lane {
        packet,
        kind: Kind::Own,
        relay: None,
    };
    // The kernel took one off the hop limit on the way here; nobody does after us. Zero should not have reached us.
    if lane.packet.hop_limit == 0 {
        lane.kind = Kind::Unfit(DropReason::TtlExpired);
    } else if !has_own_flow(&lane.packet) {
        lane.kind = kind(&lane.packet);
    }
    if lane.kind == Kind::Error && lane.quote(frame.bytes()).is_err() {
        lane.kind = Kind::Unfit(DropReason::Malformed);
    }
    lane
}

/// What nearly every packet is.
fn has_own_flow(packet: &Parsed) -> bool {
    matches!(packet.protocol, Protocol::Tcp | Protocol::Udp) && packet.fragment == Fragment::Whole
}

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

/// The key of the packet's flow.
///
/// An outbound error quotes what was delivered, so its flow is the quote's reverse. An inbound one quotes what was sent on
/// the wire, whose destination is an NsIP; the flow knows the remote side by its InstanceIP, the error's own source.
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
