//! What the offload's programs and we share; the same as `bpf/flow.h`, which explains the fields.

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
    /// Packets get the addresses and ports of `to`, as long as `grounds` hold.
    #[must_use]
    pub fn new(to: &wire::FlowKey, grounds: &Grounds) -> Self {
        Self {
            source: to.src.into(),
            destination: to.dst.into(),
            source_port: to.src_port.to_be(),
            destination_port: to.dst_port.to_be(),
            grounds: *grounds,
        }
    }

    #[must_use]
    pub const fn grounds(&self) -> &Grounds {
        &self.grounds
    }
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
    local_port: u16,
    device: u32,
    mtu: u32,
    /// Entries made with another version are not believed.
    pub version: u32,
}

impl Peer {
    /// The node at `to`, which knows us as `from`, behind Ethernet device `device`. `mtu`: the longest inner packet it takes.
    #[must_use]
    pub fn new(to: (Ip, u16), from: (Ip, u16), device: u32, mtu: u16) -> Self {
        Self {
            ip: to.0.into(),
            local: from.0.into(),
            port: to.1.to_be(),
            local_port: from.1.to_be(),
            device,
            mtu: u32::from(mtu),
            version: 0,
        }
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
    zero: u32,
}

impl Lease {
    #[must_use]
    pub fn new(until_ns: u64, paused: bool) -> Self {
        Self {
            until_ns,
            paused: u32::from(paused),
            zero: 0,
        }
    }
}

/// `struct offload_settings`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub(super) struct Settings {
    tunnel_port: u16,
    zero: u16,
    uplink: u32,
}

impl Settings {
    pub(super) const fn new(tunnel_port: u16, uplink: u32) -> Self {
        Self {
            tunnel_port: tunnel_port.to_be(),
            zero: 0,
            uplink,
        }
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
    use crate::offload::OBJECT;
    use object::{Object as _, ObjectSection as _};
    use std::mem::{offset_of, size_of};

    #[test]
    fn c_and_rust_lay_the_shared_structs_out_alike() {
        let file = object::File::parse(OBJECT).unwrap();
        let section = file
            .section_by_name("abi")
            .expect("bpf/offload.c has abi_layout");
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
            size_of::<Lease>(),
            offset_of!(Lease, paused),
            size_of::<Settings>(),
            offset_of!(Settings, uplink),
            super::super::COUNTERS,
            INSTANCES_MAX as usize,
            PEERS_MAX as usize,
        ];
        assert_eq!(c, rust);
    }
}
