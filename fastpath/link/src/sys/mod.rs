//! Safe wrappers around the system calls of links, one small file each.

pub mod event;

pub use event::Event;
