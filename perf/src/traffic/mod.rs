//! Traffic between two namespaces, and what arrived: TCP streams, 64-byte datagrams, requests.

pub mod tcp;
mod mmsg;
pub mod datagrams;
pub mod requests;
