//! What the offload's programs and we share; the same as `bpf/flow.h`, which explains the fields.

use crate::af_xdp::Mac;
use crate::bpf::abi::Address;
use sluice_wire::{self as wire, Ip};

/// Instance slots and peer slots below these can take part.
pub const INSTANCES_MAX: u32 = 65_536;
pub const PEERS_MAX: u32 = 4096;

/// `struct flow_key`. Ports are in network byte order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct FlowKey {
    source: Address,
    destination: Address,
    source_port: u16,
    destination_port: u16,
    protocol: u8,
    inbound: u8,
    zero: [u8; 2],
}

impl FlowKey {
    /// Packets of local instances with this key.
    #[must_use]
    pub fn outbound(key: &wire::FlowKey) -> Self {
        Self {
            source: key.src.into(),
            destination: key.dst.into(),
            source_port: key.src_port.to_be(),
            destination_port: key.dst_port.to_be(),
            protocol: key.protocol,
            inbound: 0,
            zero: [0; 2],
        }
    }

    /// Packets out of the tunnel with this key.
    #[must_use]
    pub fn inbound(key: &wire::FlowKey) -> Self {
        Self {
            inbound: 1,
            ..Self::outbound(key)
        }
    }
}

/// A slot and its version.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Versioned {
    pub slot: u32,
    pub version: u32,
}

/// `struct binding`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Binding {
    source: Address,
    destination: Address,
    source_port: u16,
    destination_port: u16,
    grounds: Grounds,
    address_change: u16,
    port_change: u16,
    lane: u16,
    mac: Mac,
    device: u32,
}

/// What both directions of a flow have in common.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Grounds {
    /// The state's index and its generation, which is not 0.
    pub id: u32,
    pub generation: u32,
    pub local: Versioned,
    pub remote: Versioned,
    pub peer: Versioned,
}

impl Binding {
    /// Packets with the addresses and ports of `from` get those of `to`, as long as `grounds` hold.
    #[must_use]
    pub fn new(from: &wire::FlowKey, to: &wire::FlowKey, grounds: &Grounds) -> Self {
        Self {
            source: to.src.into(),
            destination: to.dst.into(),
            source_port: to.src_port.to_be(),
            destination_port: to.dst_port.to_be(),
            grounds: *grounds,
            address_change: change(
                &[from.src.octets_v6(), from.dst.octets_v6()].concat(),
                &[to.src.octets_v6(), to.dst.octets_v6()].concat(),
            ),
            port_change: change(
                &[from.src_port.to_be_bytes(), from.dst_port.to_be_bytes()].concat(),
                &[to.src_port.to_be_bytes(), to.dst_port.to_be_bytes()].concat(),
            ),
            lane: 0,
            mac: [0; 6],
            device: 0,
        }
    }

    /// The same, delivered through the veth pair whose end on the host is `device`, and whose other end has the Ethernet
    /// address `mac`.
    #[must_use]
    pub const fn through(self, device: u32, mac: Mac) -> Self {
        Self {
            device,
            mac,
            ..self
        }
    }

    /// The same, sent from that outer source port.
    #[must_use]
    pub const fn on_lane(self, port: u16) -> Self {
        Self {
            lane: port.to_be(),
            ..self
        }
    }

    /// The same for an instance with that Ethernet address.
    #[must_use]
    pub const fn to_mac(self, mac: Mac) -> Self {
        Self { mac, ..self }
    }

    #[must_use]
    pub const fn mac(&self) -> Mac {
        self.mac
    }

    #[must_use]
    pub const fn grounds(&self) -> &Grounds {
        &self.grounds
    }
}

/// What replacing `old` by `new`, of the same even length, adds to a checksum that has not been complemented: RFC 1624
/// eqn. 3, in words as they lie in memory.
fn change(old: &[u8], new: &[u8]) -> u16 {
    let words = |bytes: &[u8]| {
        let word = |pair: &[u8]| u16::from_ne_bytes([pair[0], pair[1]]);
        bytes.chunks_exact(2).map(word).collect::<Vec<_>>()
    };
    let mut sum: u32 = 0;
    for (old, new) in words(old).into_iter().zip(words(new)) {
        sum += u32::from(!old) + u32::from(new);
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // What changes nothing sums up to 0xffff, the other zero.
    u16::try_from(sum % 0xffff).unwrap_or(0)
}

/// `struct flow_state`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct FlowState {
    /// CLOCK_MONOTONIC; 0 before the first packet.
    pub last_seen_ns: u64,
    /// 0 once a packet took the flow out.
    pub generation: u32,
    zero: u32,
}

impl FlowState {
    /// Of a flow that begins to be offloaded now.
    #[must_use]
    pub const fn new(generation: u32) -> Self {
        Self {
            last_seen_ns: 0,
            generation,
            zero: 0,
        }
    }
}

/// `struct peer`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Peer {
    ip: Address,
    local: Address,
    port: u16,
    mac: Mac,
    device: u32,
    mtu: u32,
    /// Entries made with another version are not believed.
    pub version: u32,
}

impl Peer {
    /// The node at `to`, which knows us as `from`, behind Ethernet device `device`. `mtu`: the longest inner packet it takes.
    #[must_use]
    pub fn new(to: (Ip, u16), from: Ip, device: u32, mtu: u16) -> Self {
        Self {
            ip: to.0.into(),
            local: from.into(),
            port: to.1.to_be(),
            mac: [0; 6],
            device,
            mtu: u32::from(mtu),
            version: 0,
        }
    }

    /// The same, by that next hop.
    #[must_use]
    pub const fn by_hop(self, mac: Mac) -> Self {
        Self { mac, ..self }
    }

    /// The same under another version.
    #[must_use]
    pub const fn with_version(self, version: u32) -> Self {
        Self { version, ..self }
    }
}

/// `struct lease`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Lease {
    /// CLOCK_MONOTONIC.
    pub until_ns: u64,
    paused: u32,
    redirects: u32,
    longest_inbound: u32,
    zero: u32,
}

impl Lease {
    /// `longest_inbound`: bytes of the longest packet that the service side takes.
    #[must_use]
    pub fn new(until_ns: u64, paused: bool, redirects: Redirects, longest_inbound: u32) -> Self {
        let Redirects { out, inn, joined } = redirects;
        Self {
            until_ns,
            paused: u32::from(paused),
            redirects: u32::from(out) | u32::from(inn) << 1 | u32::from(joined) << 2,
            longest_inbound,
            zero: 0,
        }
    }
}

/// `enum redirect`: what may be done within XDP. Nothing of it where the links are not AF_XDP.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Redirects {
    /// The underlay's device takes frames.
    pub out: bool,
    /// The service side's device does.
    pub inn: bool,
    /// TCP segments are unwrapped for GRO and the program behind it.
    pub joined: bool,
}

/// `struct offload_settings`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub(crate) struct Settings {
    tunnel_port: u16,
    uplink_mac: Mac,
    at_port: u32,
    uplink: u32,
}

impl Settings {
    /// The outbound program is on the uplink, whose index and address these are.
    pub(crate) const fn new(tunnel_port: u16, (uplink, uplink_mac): (u32, Mac)) -> Self {
        Self {
            tunnel_port: tunnel_port.to_be(),
            uplink_mac,
            at_port: 0,
            uplink,
        }
    }

    /// It is on the bridge's port towards the uplink.
    pub(crate) const fn at_port(self) -> Self {
        Self { at_port: 1, ..self }
    }
}

macro_rules! pod {
    ($($kind:ty)*) => {
        $(
            // SAFETY: it consists of integers without padding, so that any bytes are a value and all bytes are set.
            unsafe impl aya::Pod for $kind {}
        )*
    };
}
pod!(FlowKey Binding FlowState Peer Lease Settings);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::OBJECT;
    use object::{Object as _, ObjectSection as _};
    use std::mem::{offset_of, size_of};

    /// RFC 1624 section 4: 0xdd2f becomes 0x0000 when 0x5555 becomes 0x3285.
    #[test]
    fn a_change_updates_a_checksum_as_the_rfc_says() {
        let change = u32::from(change(&[0x55, 0x55], &[0x32, 0x85]));
        let check = u16::from_ne_bytes([0xdd, 0x2f]);
        let sum = u32::from(!check) + change;
        let folded = (sum & 0xffff) + (sum >> 16);
        assert_eq!(!u16::try_from(folded).unwrap(), 0);
        assert_eq!(super::change(&[1, 2, 3, 4], &[1, 2, 3, 4]), 0);
    }

    #[test]
    fn c_and_rust_lay_the_shared_structs_out_alike() {
        let file = object::File::parse(OBJECT).unwrap();
        let section = file
            .section_by_name("flow_abi")
            .expect("bpf/programs.c has flow_layout");
        let c: Vec<usize> = section
            .data()
            .unwrap()
            .chunks_exact(4)
            .map(|word| u32::from_ne_bytes(word.try_into().unwrap()) as usize)
            .collect();
        let rust = vec![
            size_of::<FlowKey>(),
            offset_of!(FlowKey, protocol),
            size_of::<Binding>(),
            offset_of!(Binding, grounds.id),
            offset_of!(Binding, grounds.remote.version),
            offset_of!(Binding, grounds.peer),
            size_of::<FlowState>(),
            offset_of!(FlowState, generation),
            size_of::<Peer>(),
            offset_of!(Peer, device),
            offset_of!(Peer, version),
            offset_of!(Binding, lane),
            offset_of!(Binding, mac),
            offset_of!(Binding, device),
            size_of::<Lease>(),
            offset_of!(Lease, paused),
            offset_of!(Lease, longest_inbound),
            size_of::<Settings>(),
            offset_of!(Settings, uplink),
            super::super::COUNTERS,
            INSTANCES_MAX as usize,
            PEERS_MAX as usize,
        ];
        assert_eq!(c, rust);
    }
}
