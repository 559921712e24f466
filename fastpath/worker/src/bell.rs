//! The bell on door 2: wakes control when a worker has left something in the queue of upcalls.

use sluice_link::sys::Event;
use sluice_tables::Upcalls;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Shared by all workers and control. Control waits until it is readable, calls [`Bell::answer`], and drains the queue.
#[derive(Debug)]
pub struct Bell {
    upcalls: Arc<Upcalls>,
    event: Event,
    rung: AtomicBool,
}

impl Bell {
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new(upcalls: Arc<Upcalls>) -> io::Result<Self> {
        Ok(Self {
            upcalls,
            event: Event::new()?,
            rung: AtomicBool::new(false),
        })
    }

    /// Rings when the queue is not empty and control has not been rung for already.
    #[inline]
    pub(crate) fn ring_if_needed(&self) {
        if !self.upcalls.is_empty()
            && !self.rung.load(Ordering::Relaxed)
            && !self.rung.swap(true, Ordering::AcqRel)
        {
            self.event.notify();
        }
    }

    /// Makes it unreadable. What is pushed after this call rings again, so drain the queue after it.
    pub fn answer(&self) {
        self.event.clear();
        self.rung.store(false, Ordering::Release);
    }

    /// Rings for what is left when control stops draining before the queue is empty.
    pub fn ring_again(&self) {
        self.ring_if_needed();
    }
}

/// For tokio, which still asks for it.
impl AsRawFd for Bell {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
