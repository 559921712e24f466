//! Bytes and addresses as types: header views, checksums, flow keys. No I/O, no clock, no unsafe.
//!
//! Two levels per header, as in smoltcp: a *view* over bytes whose constructor checks every length (so that
//! accessors cannot panic), and plain values ([`Ip`], [`FlowKey`], [`Parsed`]) that are only ever valid.
//! IPv4 and IPv6 share one body of code: an [`Ip`] is either, and nothing above this crate asks which.
#![forbid(unsafe_code)]

pub mod addr;
pub mod plan;
pub mod drop_reason;
pub mod flow_key;
pub mod parse;
pub mod checksum;
pub mod rewrite;
pub mod mss;
pub mod icmp_error;
pub mod segment;

pub use addr::{Dual, Family, InstanceIp, Ip, NsIp, ServiceIp};
pub use drop_reason::DropReason;
pub use flow_key::{FlowKey, FragmentKey, Protocol};
pub use parse::{Fragment, IcmpError, IcmpKind, Parsed, parse, parse_quote, tcp_flag};
pub use plan::{AddressPlan, Class, Subnet};
pub use rewrite::{Rewrite, rewrite, rewrite_quote};
