//! Why a packet ends: every reason has a name, a counter, a cause and a cure. The one list of them.

use std::fmt;

macro_rules! drop_reasons {
    ($($variant:ident $name:literal $cause:literal $cure:literal;)*) => {
        /// Why a packet was dropped. `name` is the metric label; `cause` and `cure` are the documentation.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $cause] $variant,)*
        }

        impl DropReason {
            /// All reasons, in counter order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable name in metrics and traces, in kebab case.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What happened.
            #[must_use]
            pub const fn cause(self) -> &'static str {
                match self { $(Self::$variant => $cause,)* }
            }

            /// What an operator can do about it.
            #[must_use]
            pub const fn cure(self) -> &'static str {
                match self { $(Self::$variant => $cure,)* }
            }
        }
    };
}

drop_reasons! {
    Malformed "malformed"
        "A header is truncated, or contradicts itself or the packet's length."
        "Capture on the named link; the sender or something between is broken.";
    NotIp "not-ip"
        "The first byte is neither IPv4 nor IPv6, nor a tunnel format that is switched on."
        "Something else sends to the tunnel port: a scanner, or a peer with another tunnel format.";
    Empty "empty"
        "A datagram of zero bytes."
        "A scanner, or a keep-alive of a foreign program on the tunnel port.";
    ProtocolUnsupported "protocol-unsupported"
        "The layer-4 protocol is not TCP, UDP or ICMP."
        "Services can talk TCP, UDP and ICMP echo by ServiceIP.";
    BadChecksum "bad-checksum"
        "The IPv4 header or layer-4 checksum of a received packet is wrong."
        "Packets are damaged on the way: check the underlay's NICs and offloads.";
    SourceNotLocal "source-not-local"
        "A packet came from the service side whose source is no instance of this node."
        "An instance uses an address it was not given, or was detached a moment ago.";
    DestinationNotSemantic "destination-not-semantic"
        "A packet reached the gateway for an address that is no ServiceIP or InstanceIP."
        "Routes of the instance lead other traffic to the gateway; compare with `sluice config check`.";
    Absent "absent"
        "The managers say that nothing has this address."
        "Use a ServiceIP of a deployed service: `sluice get services`.";
    Unavailable "unavailable"
        "No instance of the service can be reached, or the root manager, which alone knows the address, is away."
        "Deploy or repair an instance: `sluice get instances`; look at the managers: `sluice status`.";
    NotAllowed "not-allowed"
        "The two services may not talk to each other."
        "They are in different namespaces and no rule allows the direction.";
    Unanswered "unanswered"
        "The packet was held for an answer of the managers that did not come in time."
        "Check that cluster and root managers can be reached: `sluice status`.";
    HoldFull "hold-full"
        "Too many packets wait for an answer of the managers."
        "Many unknown addresses at once: a scan, or managers that do not answer.";
    FlowTableFull "flow-table-full"
        "No room for a new flow."
        "Raise `fastpath.flows_max`.";
    FlowQuota "flow-quota"
        "The caller, or the peer, has too many unfinished flows."
        "A flood from one instance or node; raise the quota if it is real work.";
    FlowBusy "flow-busy"
        "A flow entry was being written at every one of the retries, or made from newer tables than its receiver's."
        "Should stay near 0; report it if it grows.";
    NoSuchConnection "no-such-connection"
        "A TCP segment that opens nothing arrived for a flow that is not known."
        "The connection ended, timed out or lost its instance; the caller gets a reset.";
    NoPortLeft "no-port-left"
        "Every source port towards every instance is taken."
        "One caller has more than 64,000 flows to one instance and port.";
    InstanceWithdrawn "instance-withdrawn"
        "The instance that the flow used was withdrawn."
        "Expected after undeploy; TCP callers get a reset and connect anew.";
    PeerUnknown "peer-unknown"
        "A datagram came to the tunnel port from an address where no known node is."
        "A node not yet known, or a forger; limited and counted per address.";
    SourceForged "source-forged"
        "The inner source is placed on another node than the one that sent it, or a host on the LAN used another's address."
        "A forger, or a route that is just moving; it is queried anew. On the LAN, also a host that sends from another Ethernet address than it answers ARP with.";
    DestinationNotLocal "destination-not-local"
        "A tunnelled packet is for an address that is no live instance of this node."
        "The sender's route is old; it is told so and asks anew.";
    QuestionLimit "question-limit"
        "One outer address causes too many questions to the managers."
        "A forger or scanner at that address.";
    FragmentUnmatched "fragment-unmatched"
        "A later fragment whose first fragment never came."
        "Loss of the first fragment; the sender repeats the datagram.";
    FragmentTableFull "fragment-table-full"
        "Too many fragmented datagrams at once."
        "Lower the datagram size of the application, or raise `fastpath.fragments_max`.";
    TooBig "too-big"
        "The packet does not fit the tunnel and must not be fragmented, or not the device towards its instance, or not a buffer."
        "In front of the tunnel the sender is told the right size, as path MTU discovery expects; behind it raise the device's MTU.";
    TtlExpired "ttl-expired"
        "The hop limit reached zero."
        "A routing loop, or a traceroute.";
    IcmpUnmatched "icmp-unmatched"
        "An ICMP error whose quote matches no flow."
        "Old or forged.";
    NoTunnel "no-tunnel"
        "The node of the chosen instance has no usable address."
        "The row of that node is incomplete: `sluice get peers`.";
    NoAddress "no-address"
        "The chosen instance, or its caller, has no address of the packet's family."
        "Call it by the other family, or give its node a subnet of this one: `sluice get instances`.";
    NoNeighbour "no-neighbour"
        "The MAC address of the local instance is not known."
        "The instance was detached a moment ago.";
    LoopDetected "loop-detected"
        "A packet came back to the gateway that sent it."
        "Two nodes claim one address; check the exposed ports of nodes behind one NAT.";
    MartianSource "martian-source"
        "A tunnel datagram came from an address that no other host has: unspecified, loopback, multicast, or our own."
        "A forger, or a host that leaks such packets; found before the gateway is woken.";
    BlockedSource "blocked-source"
        "A tunnel datagram came from a prefix of `fastpath.xdp.blocked_sources`."
        "Expected; take the prefix off the list when its nodes are wanted.";
    SourceLimit "source-limit"
        "The source prefix sends more tunnel datagrams than `fastpath.xdp.source_rate` allows, or an address more echo requests to this gateway than it answers."
        "A flood from there; raise the rate if it is real work.";
    NotAuthentic "not-authentic"
        "A datagram of the encrypted format that nobody with the right key wrote for this node: forged, damaged, or made for a key we had."
        "A scanner or forger; if a node sends it, compare the keys: `sluice get peers`.";
    NoSession "no-session"
        "An encrypted packet of a session that is not known here, or has ended."
        "This gateway was restarted, or the packet was very late; the sender begins a new session within 15 seconds.";
    Replayed "replayed"
        "An encrypted packet or handshake message that came before, or is too old to tell."
        "The network duplicates packets, or somebody plays recorded ones.";
    HandshakeLimit "handshake-limit"
        "More handshake messages than are looked at, or from an address that has not shown that it is its sender's."
        "A flood; nodes that are known get through with a cookie.";
    PeerSilent "peer-silent"
        "The packet waited for a session with its peer, and none was agreed on in time, or too many packets waited."
        "The node is down, its tunnel port is blocked, or it does not know our key: `sluice get peers`.";
    Congested "congested"
        "An encrypted packet met congestion between the nodes, which routers marked instead of losing it, and the packet inside cannot say so (RFC 6040)."
        "The underlay is congested. Services whose TCP speaks ECN slow down without such losses: `sysctl net.ipv4.tcp_ecn=1` at both ends.";
    PoolEmpty "pool-empty"
        "No free buffer."
        "Raise `fastpath.buffers`, or find who holds them: `sluice status`.";
    LinkFull "link-full"
        "The link accepted no more frames."
        "The receiver is slower than the sender; raise queue lengths and socket buffers.";
    Injected "injected"
        "A fault wrapper lost the frame on purpose."
        "Only in tests and demonstrations: take the fault wrapper away.";
    LinkError "link-error"
        "The kernel refused the frame."
        "See the log line of the link; the underlay may be down or have no route.";
}

impl DropReason {
    /// The number of reasons.
    pub const COUNT: usize = Self::ALL.len();

    /// The counter's position.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_name_and_index() {
        let names: std::collections::BTreeSet<_> =
            DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
        }
    }
}
