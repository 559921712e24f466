//! Out of the tunnel: is it a packet in a format that is spoken here?

use crate::admit;
use crate::batch::{Kind, Lane, Stop, UNPARSED};
use crate::parse;
use sluice_memory::Frame;
use sluice_tables::Tables;
use sluice_tunnel::plain;
use sluice_wire::{DropReason, checksum};

/// A packet from the tunnel, or from an instance beside.
pub(crate) fn inbound(frame: &Frame, tables: &Tables) -> Lane {
    if frame.outer.is_some()
        && let Err(reason) = plain::open(frame.bytes())
    {
        return Lane::unfit(reason, UNPARSED);
    }
    let mut lane = parse::headers(frame);
    // RFC 1812 section 5.2.2. The receiver checks layer 4; updates keep damage recognisable.
    if !checksum::verify_ipv4_header(frame.bytes(), &lane.packet) {
        lane.kind = Kind::Unfit(DropReason::BadChecksum);
    }
    // What has its own flow needs no such question: no flow has a source that may not speak.
    if matches!(lane.kind, Kind::Error | Kind::Later)
        && let Err(Stop::Drop(reason)) = admit::check_speaker(&lane.packet, frame.outer, tables)
    {
        lane.kind = Kind::Unfit(reason);
    }
    lane
}
