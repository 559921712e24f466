//! Out of the tunnel: is it a packet in a format that is spoken here?

use crate::admit;
use crate::batch::{Kind, Lane, Step, Stop, drop_as};
use crate::flow::Table;
use crate::parse;
use sluice_memory::Frame;
use sluice_tables::Tables;
use sluice_tunnel::plain;
use sluice_wire::{DropReason, checksum};

/// A packet from the tunnel, or from an instance beside.
#[inline(always)]
pub(crate) fn inbound(frame: &Frame, tables: &Tables, flows: &Table, loaded: bool) -> Step<Lane> {
    if frame.outer.is_some() {
        plain::open(frame.bytes()).map_err(Stop::Drop)?;
    }
    let packet = parse::headers(frame)?;
    // RFC 1812 section 5.2.2. The receiver checks layer 4; updates keep damage recognisable.
    if !checksum::verify_ipv4_header(frame.bytes(), &packet) {
        return drop_as(DropReason::BadChecksum);
    }
    let lane = parse::lane(frame, packet, flows, false, loaded)?;
    // What has its own flow needs no such question: no flow has a source that may not speak.
    if lane.kind != Kind::Own {
        admit::check_speaker(&packet, frame.outer, tables)?;
    }
    Ok(lane)
}
