//! The path of a packet: parse, policy, flow, select, translate, locate, encap and back.
