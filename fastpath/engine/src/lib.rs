//! The path of a packet: parse, policy, flow, select, locate, translate, encap and back.
#![forbid(unsafe_code)]

pub mod flow;
