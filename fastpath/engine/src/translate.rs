//! The rewriting itself: what the flow says becomes the packet's addresses and ports.

use crate::batch::{Kind, Lane, Step};
use crate::flow::Flow;
use crate::icmp;
use crate::locate::{self, Location};
use sluice_memory::{Checksum, Frame};
use sluice_tables::Tables;
use sluice_wire::{Protocol, Rewrite, mss, rewrite, tcp_flag};

/// Caller's NsIP and the address dialled become InstanceIP and the receiver's NsIP.
#[inline(always)]
pub(crate) fn outbound(
    frame: &mut Frame,
    lane: &Lane,
    flow: &Flow,
    location: &Location<'_>,
    inner_mtu: u16,
) -> Step<()> {
    let key = &flow.forward;
    let to = Rewrite {
        src: Some(location.src),
        dst: Some(location.dst),
        src_port: changed(key.src_port, flow.wire_src_port),
        dst_port: changed(key.dst_port, flow.wire_dst_port),
    };
    if lane.kind == Kind::Error {
        // The quote is what was delivered to the local instance; the other side knows it as it was on the wire.
        let as_sent = Rewrite {
            src: Some(flow.remote_ip.ip()),
            dst: None,
            src_port: changed(key.dst_port, flow.wire_dst_port),
            dst_port: changed(key.src_port, flow.wire_src_port),
        };
        return icmp::rewrite(frame, lane, &as_sent, &to);
    }
    let narrower = || location.peer.map_or(u16::MAX, |(_, peer)| peer.mtu);
    apply(frame, lane, &to, || inner_mtu.min(narrower()));
    Ok(())
}

/// The sender's InstanceIP becomes the address that the local instance dialled; for a passive flow nothing changes.
#[inline(always)]
pub(crate) fn inbound(
    frame: &mut Frame,
    lane: &Lane,
    flow: &Flow,
    tables: &Tables,
    inner_mtu: u16,
) -> Step<()> {
    let key = &flow.forward;
    let to = Rewrite {
        src: Some(key.dst),
        dst: None,
        src_port: changed(flow.wire_dst_port, key.dst_port),
        dst_port: changed(flow.wire_src_port, key.src_port),
    };
    if lane.kind == Kind::Error {
        // The quote is what we sent on the wire; the local instance knows it as it sent it.
        let as_sent = Rewrite {
            src: Some(key.src),
            dst: Some(key.dst),
            src_port: changed(flow.wire_src_port, key.src_port),
            dst_port: changed(flow.wire_dst_port, key.dst_port),
        };
        return icmp::rewrite(frame, lane, &as_sent, &to);
    }
    apply(frame, lane, &to, || {
        inner_mtu.min(locate::mtu_of_remote(flow, tables))
    });
    Ok(())
}

/// `mtu` is what both ends of a connection may fill: it is asked when one begins.
#[inline(always)]
fn apply(frame: &mut Frame, lane: &Lane, to: &Rewrite, mtu: impl FnOnce() -> u16) {
    let complete = is_complete(frame);
    let packet = &lane.packet;
    if packet.protocol == Protocol::Tcp && packet.tcp_flags & tcp_flag::SYN != 0 {
        let mss_max = mss::limit(packet.family, mtu());
        mss::clamp(frame.bytes_mut(), packet, mss_max, complete);
    }
    rewrite(frame.bytes_mut(), packet, complete, to);
}

/// Whether the frame's layer-4 checksum is complete, right or wrong.
pub(crate) const fn is_complete(frame: &Frame) -> bool {
    !matches!(frame.checksum, Checksum::Partial { .. })
}

#[inline(always)]
fn changed(from: u16, to: u16) -> Option<u16> {
    (from != to).then_some(to)
}
