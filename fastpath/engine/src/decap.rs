//! Out of the tunnel: is it a packet in a format that is spoken here?

use crate::batch::{Lane, Step, Stop, drop_as};
use crate::flow::Table;
use crate::parse;
use sluice_memory::Frame;
use sluice_tables::Tables;
use sluice_tunnel::plain;
use sluice_wire::{Class, DropReason, IcmpKind, checksum};

/// A packet from the tunnel, or from an instance beside.
#[inline]
pub(crate) fn inbound(frame: &Frame, tables: &Tables, flows: &Table, loaded: bool) -> Step<Lane> {
    if frame.outer.is_some() {
        plain::open(frame.bytes()).map_err(Stop::Drop)?;
    }
    let packet = parse::headers(frame)?;
    // RFC 1812 section 5.2.2. The receiver checks layer 4; updates keep damage recognisable.
    if !checksum::verify_ipv4_header(frame.bytes(), &packet) {
        return drop_as(DropReason::BadChecksum);
    }
    // Only instances speak, and gateways where they report an error.
    let is_error = matches!(packet.icmp, Some(IcmpKind::Error(_)));
    match tables.plan.class(packet.src) {
        Class::Semantic => {}
        Class::Node if is_error => {}
        Class::Node | Class::Foreign => {
            let known = frame
                .outer
                .is_some_and(|outer| !tables.peers_at(outer.ip).is_empty());
            return drop_as(if known {
                DropReason::SourceForged
            } else {
                DropReason::PeerUnknown
            });
        }
    }
    parse::lane(frame, packet, flows, false, loaded)
}
