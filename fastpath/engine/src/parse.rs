//! Bytes to a lane: the headers, and where in the caches the packet's flow is to be looked for.

use crate::batch::{Kind, Lane, Step, Stop, drop_as};
use crate::engine::check_hop_limit;
use crate::flow::Table;
use crate::flow::table::Probe;
use crate::policy;
use sluice_memory::Frame;
use sluice_tables::Tables;
use sluice_wire::{DropReason, FlowKey, Fragment, IcmpKind, Parsed, Protocol, parse as wire};

/// A packet from the service side.
#[inline]
pub(crate) fn outbound(frame: &Frame, tables: &Tables, flows: &Table, loaded: bool) -> Step<Lane> {
    let packet = headers(frame)?;
    policy::check_dialled(&packet, tables)?;
    lane(frame, packet, flows, true, loaded)
}

#[inline]
pub(crate) fn headers(frame: &Frame) -> Step<Parsed> {
    let packet = wire::parse(frame.bytes()).map_err(Stop::Drop)?;
    check_hop_limit(&packet)?;
    Ok(packet)
}

/// Says how the packet's flow is found and asks the caches for it.
#[inline]
pub(crate) fn lane(
    frame: &Frame,
    packet: Parsed,
    flows: &Table,
    outbound: bool,
    loaded: bool,
) -> Step<Lane> {
    let kind = match (packet.fragment, packet.fragment_key()) {
        (Fragment::Later { .. }, Some(key)) => Kind::Later(key),
        (Fragment::Whole | Fragment::First { .. } | Fragment::Later { .. }, _) => {
            match (packet.protocol, packet.icmp) {
                (Protocol::Tcp | Protocol::Udp, _)
                | (Protocol::Icmp, Some(IcmpKind::EchoRequest | IcmpKind::EchoReply)) => Kind::Own,
                (Protocol::Icmp, Some(IcmpKind::Error(_))) => {
                    let quote = wire::quoted(frame.bytes(), &packet).map_err(Stop::Drop)?;
                    Kind::Error(quote)
                }
                (Protocol::Icmp, Some(IcmpKind::Other(_)) | None) | (Protocol::Other(_), _) => {
                    return drop_as(DropReason::ProtocolUnsupported);
                }
            }
        }
    };
    let probe = match kind {
        Kind::Own => flows.probe(&packet.flow_key(), outbound),
        Kind::Error(quote) => flows.probe(&key_of_error(&packet, &quote, outbound), outbound),
        Kind::Later(_) => Probe::NONE,
    };
    flows.prefetch_index(&probe, loaded);
    Ok(Lane {
        packet,
        kind,
        probe,
    })
}

/// The key of the flow that an ICMP error is about, in the direction in which the error itself goes.
///
/// An outbound error quotes what was delivered, so it is the quote's reverse. An inbound one quotes what was sent on the
/// wire, whose destination is an NsIP; the flow knows the remote side by its InstanceIP, which is the error's own source.
pub(crate) fn key_of_error(packet: &Parsed, quote: &Parsed, outbound: bool) -> FlowKey {
    let key = quote.flow_key().reversed();
    if outbound {
        return key;
    }
    FlowKey {
        src: packet.src,
        dst: packet.dst,
        ..key
    }
}
