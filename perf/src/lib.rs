//! A laboratory of network namespaces, traffic generators, comparisons, and the report they write.
#![deny(unsafe_code)]

pub mod report;
pub mod lab;
pub mod traffic;
pub mod peers;
#[cfg(feature = "suites")]
pub mod suites;
#[cfg(feature = "suites")]
pub mod instrument;
