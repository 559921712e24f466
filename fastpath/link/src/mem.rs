//! A link in memory: its far end is a pair of queues, so that a path or a worker runs without a device.

use crate::sys::Event;
use crate::{Arrival, Health, Link, LinkDown};
use arrayvec::ArrayVec;
use crossbeam_queue::ArrayQueue;
use sluice_memory::{
    Account, BATCH_MAX, Batch, Checksum, Endpoint, FRAME_LEN_MAX, Frame, Gso, Pool, PoolError,
    Train,
};
use sluice_wire::DropReason;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use thiserror::Error;

/// A frame outside of any pool.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Packet {
    pub bytes: Vec<u8>,
    pub checksum: Checksum,
    pub gso: Option<Gso>,
    pub train: Option<Train>,
    pub outer: Option<Endpoint>,
    pub class: u8,
}

impl From<Vec<u8>> for Packet {
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            ..Self::default()
        }
    }
}

impl From<&Frame> for Packet {
    fn from(frame: &Frame) -> Self {
        Self {
            bytes: frame.bytes().to_vec(),
            checksum: frame.checksum,
            gso: frame.gso,
            train: frame.train,
            outer: frame.outer,
            class: frame.class,
        }
    }
}

impl Packet {
    fn put_into(&self, frame: &mut Frame) {
        frame.fill(&self.bytes);
        frame.checksum = self.checksum;
        frame.gso = self.gso;
        frame.train = self.train;
        frame.outer = self.outer;
        frame.class = self.class;
    }
}

/// Whose memory frames arrive in, and must leave from.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Memory {
    /// The worker's pool.
    #[default]
    Own,
    /// A pool of the link's own, as an AF_XDP UMEM or a DPDK mempool is: one counted copy per frame and direction.
    Foreign,
    /// Buffers of at most so many bytes, chained: linearised on receive by a counted copy.
    Chained(usize),
}

/// The queues between a [`MemLink`] and its [`Far`] end.
#[derive(Debug)]
struct Queues {
    to_link: ArrayQueue<Packet>,
    from_link: ArrayQueue<Packet>,
    event: Event,
}

/// The far end: a test, or the medium.
#[derive(Clone, Debug)]
pub struct Far(Arc<Queues>);

impl Far {
    /// Lets the link receive `packet`; false when its queue is full.
    pub fn push(&self, packet: impl Into<Packet>) -> bool {
        let taken = self.0.to_link.push(packet.into()).is_ok();
        self.0.event.notify();
        taken
    }

    /// The oldest packet that the link sent.
    pub fn pop(&self) -> Option<Packet> {
        self.0.from_link.pop()
    }

    /// Packets that the link has not yet received.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.to_link.len()
    }
}

#[derive(Debug, Error)]
pub enum MemError {
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error("making an eventfd failed: {0}; raise the limit of open files")]
    Event(#[from] io::Error),
}

/// The near end.
#[derive(Debug)]
pub struct MemLink {
    name: String,
    queues: Arc<Queues>,
    memory: Memory,
    foreign: Option<Pool>,
    health: Arc<Health>,
}

impl MemLink {
    /// A link whose queues hold `capacity` packets each.
    ///
    /// # Errors
    /// When memory or descriptors are used up.
    pub fn new(name: &str, capacity: usize, memory: Memory) -> Result<(Self, Far), MemError> {
        let queues = Arc::new(Queues {
            to_link: ArrayQueue::new(capacity.max(1)),
            from_link: ArrayQueue::new(capacity.max(1)),
            event: Event::new()?,
        });
        let foreign = match memory {
            Memory::Foreign => Some(Pool::new(BATCH_MAX, FRAME_LEN_MAX)?),
            Memory::Own | Memory::Chained(_) => None,
        };
        let link = Self {
            name: name.to_owned(),
            queues: Arc::clone(&queues),
            memory,
            foreign,
            health: Arc::default(),
        };
        Ok((link, Far(queues)))
    }

    /// Fills a frame of the worker's pool from `packet`, by the way its kind of memory asks for.
    fn arrive(&mut self, packet: &Packet, frame: &mut Frame, account: &Account) {
        match self.memory {
            Memory::Own => packet.put_into(frame),
            Memory::Foreign => {
                if let Some(pool) = &mut self.foreign
                    && let Some(buffer) = pool.take()
                {
                    let mut theirs = Frame::new(buffer);
                    packet.put_into(&mut theirs);
                    frame.copy_from(&theirs);
                    pool.release(theirs.into_buffer());
                    account.copied.add(1);
                }
            }
            Memory::Chained(len) => {
                packet.put_into(frame);
                let mut at = 0;
                for part in packet.bytes.chunks(len.max(1)) {
                    frame.bytes_mut()[at..at + part.len()].copy_from_slice(part);
                    at += part.len();
                }
                account.copied.add(u64::from(packet.bytes.len() > len));
            }
        }
    }
}

impl Link for MemLink {
    fn name(&self) -> &str {
        &self.name
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.queues.event.as_fd())
    }

    fn receive(
        &mut self,
        pool: &mut Pool,
        account: &Account,
        batch: &mut Batch,
    ) -> Result<Arrival, LinkDown> {
        self.queues.event.clear();
        while !batch.is_full() {
            let Some(packet) = self.queues.to_link.pop() else {
                return Ok(Arrival::Drained);
            };
            account.received.add(1);
            account.received_bytes.add(packet.bytes.len() as u64);
            if packet.outer.is_some_and(|outer| outer.ip.is_discard_only()) {
                account.drop_frame(DropReason::MartianSource);
                continue;
            }
            let Some(buffer) = pool.take() else {
                account.drop_frame(DropReason::PoolEmpty);
                continue;
            };
            let mut frame = Frame::new(buffer);
            self.arrive(&packet, &mut frame, account);
            batch.push(frame);
        }
        // The queue may hold more than the batch had room for.
        self.queues.event.notify();
        Ok(Arrival::More)
    }

    fn transmit<const N: usize>(
        &mut self,
        frames: &mut ArrayVec<Frame, N>,
        pool: &mut Pool,
        account: &Account,
    ) {
        for frame in frames.drain(..) {
            if self.memory == Memory::Foreign {
                account.copied.add(1);
            }
            let len = frame.len() as u64;
            if self.queues.from_link.push(Packet::from(&frame)).is_ok() {
                account.forwarded.add(1);
                account.forwarded_bytes.add(len);
            } else {
                account.drop_frame(DropReason::LinkFull);
            }
            pool.release(frame.into_buffer());
        }
    }

    fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(memory: Memory) -> (u64, Packet) {
        let mut pool = Pool::new(4, 2000).unwrap();
        let account = Account::default();
        let (mut link, far) = MemLink::new("mem", 8, memory).unwrap();
        let packet = Packet {
            bytes: (0..=255).cycle().take(1000).collect(),
            checksum: Checksum::Verified,
            outer: Some(Endpoint {
                ip: "192.0.2.1".parse().unwrap(),
                port: 50103,
            }),
            ..Packet::default()
        };
        assert!(far.push(packet.clone()));
        let mut batch = Batch::new();
        link.receive(&mut pool, &account, &mut batch).unwrap();
        assert_eq!(batch.len(), 1);
        link.transmit(&mut batch, &mut pool, &account);
        assert!(batch.is_empty());
        assert_eq!(pool.outstanding(), 0);
        let (left, right) = account.balance();
        assert_eq!((left, right), (1, 1));
        let sent = far.pop().unwrap();
        assert_eq!(sent, packet);
        (account.copied.value(), sent)
    }

    #[test]
    fn own_memory_needs_no_copy_and_other_memory_counts_each() {
        assert_eq!(round_trip(Memory::Own).0, 0);
        assert_eq!(round_trip(Memory::Foreign).0, 2);
        assert_eq!(round_trip(Memory::Chained(300)).0, 1);
        assert_eq!(round_trip(Memory::Chained(1000)).0, 0);
    }

    #[test]
    fn full_queues_and_an_empty_pool_drop_by_name() {
        let mut pool = Pool::new(1, 100).unwrap();
        let account = Account::default();
        let (mut link, far) = MemLink::new("mem", 2, Memory::Own).unwrap();
        assert!(far.push(vec![1]));
        assert!(far.push(vec![2]));
        assert!(!far.push(vec![3]));
        let mut batch = Batch::new();
        link.receive(&mut pool, &account, &mut batch).unwrap();
        assert_eq!(batch.len(), 1);
        assert_eq!(account.dropped(DropReason::PoolEmpty), 1);
        link.transmit(&mut batch, &mut pool, &account);
        assert!(far.pop().is_some());
        for _ in 0..3 {
            assert!(far.push(vec![4]));
            link.receive(&mut pool, &account, &mut batch).unwrap();
            link.transmit(&mut batch, &mut pool, &account);
        }
        assert_eq!(account.dropped(DropReason::LinkFull), 1);
        let (left, right) = account.balance();
        assert_eq!(left, right);
    }
}
