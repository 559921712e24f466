//! The queues of one device that one worker serves, seen as one source and sink of Ethernet frames.

use super::queue::Queue;
use crate::sys::Epoll;
use crate::{Arrival, Health, LinkDown};
use sluice_memory::{Account, Batch, Frame, Pool};
use sluice_wire::DropReason;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Port {
    name: String,
    /// At least one. All receive; the first one sends, so that no flow is reordered.
    queues: Vec<Queue>,
    /// Frames per receive.
    burst: usize,
    health: Arc<Health>,
    /// All descriptors that announce frames.
    readable: Epoll,
    /// Which queue is asked first, so that none is always last.
    turn: usize,
    down: Option<io::Error>,
}

impl Port {
    /// Receives at most `burst` frames at once. `beside` is another descriptor whose readiness makes the port readable.
    pub(super) fn new(
        name: String,
        queues: Vec<Queue>,
        burst: usize,
        beside: Option<BorrowedFd<'_>>,
    ) -> io::Result<Self> {
        let readable = Epoll::new(queues.iter().map(Queue::as_fd).chain(beside))?;
        Ok(Self {
            name,
            queues,
            burst: burst.max(1),
            health: Arc::default(),
            readable,
            turn: 0,
            down: None,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.readable.as_fd()
    }

    pub(super) fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }

    /// # Errors
    /// When a call has found that the device is gone.
    pub(super) fn check(&mut self) -> Result<(), LinkDown> {
        match self.down.take() {
            None => Ok(()),
            Some(source) => Err(LinkDown {
                link: self.name.clone(),
                source,
            }),
        }
    }

    /// Fills `batch` with what has arrived, each frame prepared by `open` or dropped for the reason it gives.
    #[inline]
    pub(super) fn receive(
        &mut self,
        pool: &mut Pool,
        account: &Account,
        batch: &mut Batch,
        mut open: impl FnMut(&mut Frame) -> Result<(), DropReason>,
    ) -> Arrival {
        let count = self.queues.len();
        self.turn = (self.turn + 1) % count;
        let mut arrival = Arrival::Drained;
        for index in 0..count {
            let Some(queue) = self.queues.get_mut((self.turn + index) % count) else {
                continue;
            };
            queue.reclaim(pool);
            if queue.unsent()
                && let Err(error) = queue.flush()
            {
                judge(error, &self.health, &mut self.down);
            }
            loop {
                if batch.is_full() || batch.len() >= self.burst {
                    arrival = Arrival::More;
                    break;
                }
                let Some(mut frame) = queue.pop() else { break };
                account.received.add(1);
                match open(&mut frame) {
                    Ok(()) => {
                        account.received_bytes.add(frame.len() as u64);
                        batch.push(frame);
                    }
                    Err(reason) => {
                        account.drop_frame(reason);
                        pool.release(frame.into_buffer());
                    }
                }
            }
            queue.release();
            queue.fill(pool);
        }
        arrival
    }

    /// Calls `send`, which pushes frames, and sends them.
    #[inline]
    pub(super) fn transmit(&mut self, pool: &mut Pool, send: impl FnOnce(&mut Self, &mut Pool)) {
        if let Some(queue) = self.queues.first_mut() {
            queue.reclaim(pool);
        }
        send(self, pool);
        if let Some(Err(error)) = self.queues.first_mut().map(Queue::flush) {
            judge(error, &self.health, &mut self.down);
        }
    }

    /// Pushes `frame` when it is `ready`, with `len` bytes of layer 3, and drops it otherwise.
    #[inline]
    pub(super) fn push_or_drop(
        &mut self,
        frame: Frame,
        len: usize,
        ready: Result<(), DropReason>,
        pool: &mut Pool,
        account: &Account,
    ) {
        match (ready, self.queues.first_mut()) {
            (Ok(()), Some(queue)) => queue.push(frame, len, pool, account),
            (result, _) => {
                account.drop_frame(result.err().unwrap_or(DropReason::LinkError));
                pool.release(frame.into_buffer());
            }
        }
    }

    /// Frames wait for another call.
    pub(super) fn unsent(&self) -> bool {
        self.queues.iter().any(Queue::unsent)
    }
}

/// Tells a device that is only set down from one that is gone.
fn judge(error: io::Error, health: &Health, down: &mut Option<io::Error>) {
    let errno = error.raw_os_error().unwrap_or(0);
    health.note_errno(errno);
    if matches!(errno, libc::ENXIO | libc::ENODEV | libc::EBADF) {
        *down = Some(error);
    }
}
