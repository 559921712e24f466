//! Safe wrappers around the system calls of links and workers, one small file each.

pub mod address;
pub mod clock;
pub mod event;
pub mod poll;
pub mod tun;
pub mod udp;

pub use clock::monotonic_ns;
pub use event::Event;
pub use poll::{wait_readable, wait_writable};
