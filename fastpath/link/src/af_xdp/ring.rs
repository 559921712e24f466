//! The two kinds of ring ends: one that we fill for the kernel, one that we empty.
//!
//! A position counts up for ever and wraps at 2^32; the entry is its low bits. What the other side has done is read
//! only when what is known of it does not suffice, because that cache line travels between cores.

use crate::sys::xsk::{Entry, RingMemory};
use std::marker::PhantomData;
use std::sync::atomic::Ordering;

/// The end that writes: fill ring and transmit ring.
#[derive(Debug)]
pub(super) struct Producer<T> {
    memory: RingMemory,
    /// The next position to write.
    next: u32,
    /// The position up to which may be written, as last seen.
    limit: u32,
    entry: PhantomData<T>,
}

impl<T: Entry> Producer<T> {
    /// # Panics
    /// When `memory` is of a ring with smaller entries.
    pub(super) fn new(memory: RingMemory) -> Self {
        assert!(memory.holds::<T>(), "the ring's entries are of this type");
        let next = memory.producer().load(Ordering::Relaxed);
        let consumed = memory.consumer().load(Ordering::Acquire);
        Self {
            next,
            limit: consumed.wrapping_add(memory.entries()),
            memory,
            entry: PhantomData,
        }
    }

    /// Entries that can be pushed now, looking for more when fewer than `wanted` are known to be free.
    #[inline]
    pub(super) fn room(&mut self, wanted: u32) -> u32 {
        let known = self.limit.wrapping_sub(self.next);
        if known >= wanted {
            return known;
        }
        let consumed = self.memory.consumer().load(Ordering::Acquire);
        self.limit = consumed.wrapping_add(self.memory.entries());
        self.limit.wrapping_sub(self.next)
    }

    /// Writes an entry that the kernel sees after [`Producer::publish`]; false when the ring is full.
    #[inline]
    pub(super) fn push(&mut self, entry: T) -> bool {
        if self.room(1) == 0 {
            return false;
        }
        self.memory.write(self.next, entry);
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Shows the kernel what was pushed.
    #[inline]
    pub(super) fn publish(&self) {
        self.memory.producer().store(self.next, Ordering::Release);
    }

    /// Published entries that the kernel has not taken yet.
    #[inline]
    pub(super) fn pending(&self) -> u32 {
        self.next
            .wrapping_sub(self.memory.consumer().load(Ordering::Acquire))
    }

    /// The kernel wants to be called before it looks at the ring.
    #[inline]
    pub(super) fn wants_kick(&self) -> bool {
        self.memory.flags().load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// The end that reads: receive ring and completion ring.
#[derive(Debug)]
pub(super) struct Consumer<T> {
    memory: RingMemory,
    /// The next position to read.
    next: u32,
    /// The position up to which may be read, as last seen.
    limit: u32,
    entry: PhantomData<T>,
}

impl<T: Entry> Consumer<T> {
    /// # Panics
    /// When `memory` is of a ring with smaller entries.
    pub(super) fn new(memory: RingMemory) -> Self {
        assert!(memory.holds::<T>(), "the ring's entries are of this type");
        Self {
            next: memory.consumer().load(Ordering::Relaxed),
            limit: memory.producer().load(Ordering::Acquire),
            memory,
            entry: PhantomData,
        }
    }

    /// Entries of the ring.
    pub(super) const fn entries(&self) -> u32 {
        self.memory.entries()
    }

    /// Takes the oldest entry. The kernel may use its place after [`Consumer::release`].
    #[inline]
    pub(super) fn pop(&mut self) -> Option<T> {
        if self.next == self.limit {
            self.limit = self.memory.producer().load(Ordering::Acquire);
            if self.next == self.limit {
                return None;
            }
        }
        let entry = self.memory.read(self.next);
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    /// Gives the places of what was taken back.
    #[inline]
    pub(super) fn release(&self) {
        self.memory.consumer().store(self.next, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::xsk::Descriptor;

    #[test]
    fn a_ring_is_full_after_its_entries_and_empty_after_as_many() {
        let [near, far] = RingMemory::pair::<u64>(4).unwrap();
        let (mut producer, mut consumer) = (Producer::<u64>::new(near), Consumer::<u64>::new(far));
        for value in 0..4 {
            assert!(producer.push(value));
        }
        assert!(!producer.push(4));
        assert_eq!(consumer.pop(), None, "nothing was published");
        producer.publish();
        assert_eq!(producer.pending(), 4);
        assert_eq!(
            (0..5).map(|_| consumer.pop()).collect::<Vec<_>>(),
            [Some(0), Some(1), Some(2), Some(3), None]
        );
        assert_eq!(producer.room(1), 0, "nothing was released");
        consumer.release();
        assert_eq!((producer.room(1), producer.pending()), (4, 0));
        assert!(!producer.wants_kick());
    }

    /// Both ends on threads of their own, and positions that wrap around.
    #[test]
    fn every_entry_arrives_once_and_in_order() {
        const COUNT: u32 = 200_000;
        let [near, far] = RingMemory::pair::<Descriptor>(8).unwrap();
        let near_the_end = u32::MAX - 1000;
        near.producer().store(near_the_end, Ordering::Relaxed);
        near.consumer().store(near_the_end, Ordering::Relaxed);
        let mut producer = Producer::<Descriptor>::new(near);
        let reader = std::thread::spawn(move || {
            let mut consumer = Consumer::<Descriptor>::new(far);
            for expected in 0..COUNT {
                let descriptor = loop {
                    if let Some(descriptor) = consumer.pop() {
                        break descriptor;
                    }
                    std::thread::yield_now();
                };
                assert_eq!(
                    (descriptor.len, descriptor.address),
                    (expected, !u64::from(expected))
                );
                consumer.release();
            }
        });
        for len in 0..COUNT {
            let descriptor = Descriptor {
                address: !u64::from(len),
                len,
                options: 0,
            };
            while !producer.push(descriptor) {
                std::thread::yield_now();
            }
            producer.publish();
        }
        reader.join().unwrap();
    }
}
