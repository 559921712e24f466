//! Bytes and addresses as types: parsing, checksums, rewriting, flow keys, super-frames. No I/O, no clock, no unsafe.
//!
//! A packet is read once: [`parse()`] makes a [`Parsed`], a plain value that is only ever valid, or gives the
//! [`DropReason`]. Everything else takes the bytes and that value, and never reads the bytes unchecked: no bytes, not
//! even ones that the value does not describe, make anything here panic. IPv4 and IPv6 share one body of code: an
//! [`Ip`] is either, and nothing above this crate asks which.
//!
//! | module | what it is for |
//! |---|---|
//! | [`addr`], [`plan`] | what an address means: ServiceIP, InstanceIP, NsIP, and the ranges they come from |
//! | [`mod@parse`] | headers, extension headers, fragments, ICMP and the packet quoted in an ICMP error |
//! | [`flow_key`] | what names a flow, and what the fragments of one datagram share |
//! | [`checksum`] | sums, complete and partial checksums, RFC 1624 updates |
//! | [`mod@rewrite`] | changing addresses and ports, outside and in quotes, with every checksum over them |
//! | [`mod@glance`] | both at once for what nearly every packet is |
//! | [`mss`] | lowering the MSS of a SYN to what the tunnel carries |
//! | [`icmp_error`] | unreachable, too big, time exceeded, and TCP resets |
//! | [`icmp_echo`] | echo between gateways |
//! | [`hop_limit`] | one less, where a packet is forwarded as it is |
//! | [`mod@traffic_class`] | DSCP and ECN, and what becomes of ECN where a tunnel ends |
//! | [`segment`] | cutting a super-frame into packets, and joining packets into a super-frame |
//! | [`drop_reason`] | every way a packet can end, with cause and cure |
//!
//! A layer-4 checksum is *complete* (final, as on a wire) or *partial* (the folded, not complemented pseudo-header
//! sum, which whoever sends the frame completes). What changes packets is told which.
#![forbid(unsafe_code)]

pub mod addr;
pub mod plan;
pub mod drop_reason;
pub mod flow_key;
pub mod parse;
pub mod checksum;
pub mod rewrite;
pub mod glance;
pub mod mss;
pub mod icmp_error;
pub mod icmp_echo;
pub mod hop_limit;
pub mod traffic_class;
pub mod segment;

pub use addr::{Dual, Family, InstanceIp, Ip, NsIp, ServiceIp};
pub use drop_reason::DropReason;
pub use flow_key::{Address, FlowKey, FragmentKey, Protocol};
pub use glance::{Glance, glance, glance_at, glance_family};
pub use parse::{Fragment, IcmpError, IcmpKind, Parsed, parse, parse_quote, tcp_flag};
pub use plan::{AddressPlan, Class, Subnet};
pub use rewrite::{Rewrite, rewrite, rewrite_quote};
