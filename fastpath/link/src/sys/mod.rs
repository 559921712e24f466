//! Safe wrappers around the system calls of links and workers, one small file each.

pub mod address;
pub mod busy;
pub mod clock;
pub mod epoll;
pub mod ethtool;
pub mod event;
pub mod pages;
pub mod poll;
pub mod tun;
pub mod udp;
pub mod xsk;

pub use busy::while_busy;
pub use clock::monotonic_ns;
pub use epoll::Epoll;
pub use event::Event;
pub use pages::page_bytes;
pub use poll::{wait_readable, wait_writable};
