//! Buffers and pools: fixed-size memory a worker owns, handed out and taken back without allocation.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use thiserror::Error;

/// Bytes before the packet on every link: room for Ethernet (18), IPv6 (40), UDP (8), a tunnel header (16 and
/// more) and a virtio-net header (12).
pub const HEADROOM: usize = 128;
/// Bytes after the packet on every link: room for an authentication tag (16) and padding (15).
pub const TAILROOM: usize = 32;
/// The longest packet a buffer of a super-frame pool holds: an IPv4 packet's 65,535 bytes.
pub const FRAME_LEN_MAX: usize = 65_535;

/// One buffer of a pool. Exactly one owner at a time; dropping it without [`Pool::release`] loses it to the pool
/// until the process ends, which [`Pool::outstanding`] shows.
#[derive(Debug)]
pub struct Buffer {
    bytes: NonNull<u8>,
    capacity: u32,
    pool: u16,
}

// SAFETY: a `Buffer` is the only handle to its bytes, which are never unmapped (see `Pool::new`).
unsafe impl Send for Buffer {}

impl Buffer {
    /// The pool it belongs to; a link that may send only from its own memory copies foreign buffers, and counts it.
    #[must_use]
    pub const fn pool(&self) -> u16 {
        self.pool
    }

    /// Where it begins; for a kernel that is told of buffers by their place in a pool's [`Region`].
    #[must_use]
    pub fn address(&self) -> usize {
        self.bytes.as_ptr() as usize
    }
}

/// The memory of a pool: what a kernel is shown that receives into its buffers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Region {
    address: usize,
    len: usize,
    capacity: usize,
    pool: u16,
}

/// Only a pool makes one, so that it always names memory that may be written by whoever has a buffer of it.
impl Region {
    /// Where it begins: aligned to a page.
    #[must_use]
    pub const fn address(&self) -> usize {
        self.address
    }

    /// Bytes; never 0.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "a pool has at least one buffer"
    )]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Bytes of one buffer; they follow each other without gaps.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Of which pool.
    #[must_use]
    pub const fn pool(&self) -> u16 {
        self.pool
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `bytes..bytes + capacity` is this buffer's part of a mapping that lives for ever, and only this handle reaches it.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr(), self.capacity as usize) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.bytes.as_ptr(), self.capacity as usize) }
    }
}

/// Bytes of a large page: 2 MiB on x86-64, and on AArch64 with pages of 4 KiB.
pub(crate) const LARGE_PAGE: usize = 2 << 20;

/// The pages under a pool.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Pages {
    /// The usual ones, resident when touched.
    #[default]
    Small,
    /// Reserved large pages (`vm.nr_hugepages`): fewer waits for page tables.
    Large,
}

impl Pages {
    const fn way_out(self) -> &'static str {
        match self {
            Self::Small => "lower `buffers` or free memory",
            Self::Large => "raise `vm.nr_hugepages`, or use small pages",
        }
    }
}

#[derive(Debug, Error)]
pub enum PoolError {
    #[error(
        "mapping {bytes} bytes for {buffers} buffers failed: {source}; {}", .pages.way_out()
    )]
    Map {
        buffers: usize,
        bytes: usize,
        pages: Pages,
        source: std::io::Error,
    },
    #[error(
        "a pool of {buffers} buffers of {capacity} bytes is out of range (1..=65536 buffers, up to 1 MiB each)"
    )]
    Size { buffers: usize, capacity: usize },
}

/// A worker's stack of free buffers. The last one released is the next one taken, so that a small working set
/// stays in cache and untouched buffers never become resident.
#[derive(Debug)]
pub struct Pool {
    free: Vec<Buffer>,
    buffers: usize,
    region: Region,
}

static NEXT_POOL: AtomicU16 = AtomicU16::new(1);

impl Pool {
    /// Maps `buffers` buffers of `HEADROOM + frame_len_max + TAILROOM` bytes, rounded up to a cache line.
    ///
    /// The memory is never unmapped: buffers may be anywhere when a worker ends.
    ///
    /// # Errors
    /// When the sizes are out of range or the kernel refuses the mapping.
    pub fn new(buffers: usize, frame_len_max: usize) -> Result<Self, PoolError> {
        let capacity = (HEADROOM + frame_len_max + TAILROOM).next_multiple_of(64);
        Self::map(buffers, capacity, Pages::Small)
    }

    /// Maps `buffers` buffers of exactly `capacity` bytes, headroom and tailroom included, and advises or asks for large
    /// pages. A `capacity` of 2,048 or 4,096 suits AF_XDP, whose chunks must not cross a page.
    ///
    /// # Errors
    /// As [`Pool::new`]; also when large pages are required and there are too few.
    pub fn of_chunks(buffers: usize, capacity: usize, pages: Pages) -> Result<Self, PoolError> {
        Self::map(buffers, capacity, pages)
    }

    fn map(buffers: usize, capacity: usize, pages: Pages) -> Result<Self, PoolError> {
        if !(1..=65_536).contains(&buffers) || !(HEADROOM + TAILROOM..=1 << 20).contains(&capacity)
        {
            return Err(PoolError::Size { buffers, capacity });
        }
        let bytes = match pages {
            Pages::Small => buffers * capacity,
            Pages::Large => (buffers * capacity).next_multiple_of(LARGE_PAGE),
        };
        let base = crate::words::map(bytes, pages).map_err(|source| PoolError::Map {
            buffers,
            bytes,
            pages,
            source,
        })?;
        let id = NEXT_POOL.fetch_add(1, Ordering::Relaxed);
        let free = (0..buffers)
            .rev()
            .map(|index| {
                // SAFETY: `index < buffers`, so the offset stays inside the `buffers * capacity` bytes just mapped.
                let bytes = unsafe { base.add(index * capacity) };
                #[expect(clippy::cast_possible_truncation, reason = "capacity is at most 1 MiB")]
                Buffer {
                    bytes,
                    capacity: capacity as u32,
                    pool: id,
                }
            })
            .collect();
        let region = Region {
            address: base.as_ptr() as usize,
            len: buffers * capacity,
            capacity,
            pool: id,
        };
        Ok(Self {
            free,
            buffers,
            region,
        })
    }

    /// Takes a buffer; its contents are whatever was there. `None` when all are out.
    pub fn take(&mut self) -> Option<Buffer> {
        self.free.pop()
    }

    /// Gives a buffer back.
    ///
    /// # Panics
    /// In debug builds, when the buffer is another pool's.
    pub fn release(&mut self, buffer: Buffer) {
        debug_assert_eq!(
            buffer.pool, self.region.pool,
            "a buffer goes back to the pool it came from"
        );
        self.free.push(buffer);
    }

    #[must_use]
    pub const fn id(&self) -> u16 {
        self.region.pool
    }

    /// The memory behind all its buffers, for ever.
    #[must_use]
    pub const fn region(&self) -> Region {
        self.region
    }

    /// Buffers free now.
    #[must_use]
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Buffers that are out.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.buffers - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_lie_side_by_side_from_a_page_on() {
        let mut pool = Pool::of_chunks(4, 2048, Pages::Small).unwrap();
        let region = pool.region();
        assert_eq!((region.address % 4096, region.len), (0, 8192));
        for index in 0..4 {
            let buffer = pool.take().unwrap();
            assert_eq!(buffer.address(), region.address + index * 2048);
            assert_eq!((buffer.len(), buffer.pool()), (2048, region.pool));
        }
        assert!(Pool::of_chunks(1, 100, Pages::Small).is_err());
    }

    #[test]
    fn buffers_are_disjoint_and_come_back() {
        let mut pool = Pool::new(3, 100).unwrap();
        let mut out: Vec<Buffer> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!((out.len(), pool.outstanding()), (3, 3));
        for (fill, buffer) in (1..).zip(&mut out) {
            buffer.fill(fill);
        }
        for (fill, buffer) in (1..).zip(&out) {
            assert!(buffer.iter().all(|&byte| byte == fill));
        }
        out.into_iter().for_each(|buffer| pool.release(buffer));
        assert_eq!(pool.outstanding(), 0);
    }
}
