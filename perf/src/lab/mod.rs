//! The laboratory: hosts are network namespaces that live exactly as long as their guard values.
//!
//! Nothing is named in the file system and nothing outlives the process: a namespace is a descriptor, a child asks
//! the kernel to die with its parent, so that a panic, Ctrl-C and `kill -9` all leave the machine as it was. The
//! same code runs as root and inside an unprivileged user namespace ([`privilege`]).

pub mod error;
pub mod clock;
pub mod privilege;
pub mod priority;
pub mod netns;
pub mod process;
pub mod host;
pub mod conversation;
pub mod cores;
pub mod napi;
pub mod wire;
pub mod tap;
pub mod delay;
pub mod tools;
pub mod ping;
pub mod http;
pub mod scratch;
pub mod sites;
pub mod account;

pub use conversation::Conversation;
pub use error::LabError;
pub use host::Host;
pub use netns::NetNs;
pub use process::{Process, Program};
