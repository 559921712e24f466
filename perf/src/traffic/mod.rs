//! Traffic between two namespaces or hosts, and what arrived: TCP streams, datagrams, requests, frames.

pub mod tcp;
mod mmsg;
pub mod datagrams;
pub mod requests;
#[cfg(feature = "suites")]
pub mod stream;
#[cfg(feature = "suites")]
pub mod frames;
#[cfg(feature = "suites")]
pub mod sink;
#[cfg(feature = "suites")]
pub mod mqtt;
pub mod held;
pub mod flood;
