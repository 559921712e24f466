//! A mapping of 64-bit atomics: the memory of tables that several workers read and that may outlive a process.

use crate::buffer::Pages;
use std::io;
use std::ops::{Deref, Range};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// The words of one cache line.
pub type Line = [AtomicU64; 8];

/// Zero-filled 64-bit atomics, resident only where touched.
#[derive(Debug)]
pub struct Words {
    base: NonNull<AtomicU64>,
    len: usize,
}

// SAFETY: the mapping is shared memory of atomics; every access through `Deref` is atomic.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// Maps `len` zero words, private to this process.
    ///
    /// # Errors
    /// When the kernel refuses the mapping.
    pub fn anonymous(len: usize) -> io::Result<Self> {
        Ok(Self {
            base: map(len.max(1) * 8, Pages::Small)?.cast(),
            len,
        })
    }

    /// Maps `len` words of `file` (a memfd that is at least `8 * len` bytes long), shared with whoever else maps it.
    ///
    /// # Errors
    /// When the file is shorter than that or the kernel refuses the mapping.
    pub fn shared(file: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let bytes = len.max(1) * 8;
        let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
        // SAFETY: `file` is open and `stat` is writable for its whole size.
        let result = unsafe { libc::fstat(file.as_raw_fd(), stat.as_mut_ptr()) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: zeroed memory is a valid `stat`, and `fstat` filled it.
        let size = unsafe { stat.assume_init() }.st_size;
        if usize::try_from(size).is_ok_and(|size| size < bytes) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("file has {size} bytes, need {bytes}"),
            ));
        }
        Ok(Self {
            base: map_fd(bytes, Some(file), 0)?.cast(),
            len,
        })
    }

    /// Advises the kernel to back the words of `range` with large pages as they are touched: lookups that jump about then
    /// do not wait for page tables, and a first touch makes 2 MiB resident. Advice only; nothing depends on it.
    pub fn advise_large_pages(&self, range: Range<usize>) {
        self.advise(range, libc::MADV_HUGEPAGE);
    }

    /// Puts the words of `range` into large pages now, as far as they fill such pages. Costs a copy of what is
    /// resident, so large ranges are best done piece by piece. Advice only; kernels before 6.1 do not know it.
    pub fn collapse(&self, range: Range<usize>) {
        self.advise(range.clone(), libc::MADV_HUGEPAGE);
        self.advise(range, libc::MADV_COLLAPSE);
    }

    fn advise(&self, range: Range<usize>, advice: libc::c_int) {
        const PAGE: usize = 4096;
        let base = self.base.as_ptr() as usize;
        // Whole pages inside the range.
        let start = (base + range.start.min(self.len) * 8).next_multiple_of(PAGE);
        let end = (base + range.end.min(self.len) * 8) / PAGE * PAGE;
        if start < end {
            // SAFETY: `start..end` is inside the mapping, and neither advice changes what it holds.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, advice) };
        }
    }

    /// The words as cache lines; those after the last whole one are in none.
    #[must_use]
    #[inline(always)]
    pub fn lines(&self) -> &[Line] {
        self.as_chunks().0
    }
}

/// Asks the CPU for that one of `lines`; of an index out of range nothing comes.
#[inline(always)]
pub fn prefetch(lines: &[Line], index: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        let line = lines.as_ptr().wrapping_add(index);
        // SAFETY: prefetch has no effect but on caches, at any address.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.cast())
        };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (lines, index);
}

impl Deref for Words {
    type Target = [AtomicU64];

    #[inline]
    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: `base` maps `len` words, aligned to a page, until `drop`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length and no borrow of it outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len.max(1) * 8) };
    }
}

/// Maps `bytes` zero bytes, page-aligned; a multiple of the page size when `pages` are large.
pub(crate) fn map(bytes: usize, pages: Pages) -> io::Result<NonNull<u8>> {
    let large = match pages {
        Pages::Small => libc::MAP_NORESERVE,
        // Reserved: touching a large page that is not there would end the process.
        Pages::Large => libc::MAP_HUGETLB | libc::MAP_HUGE_2MB,
    };
    map_fd(bytes, None, large)
}

fn map_fd(
    bytes: usize,
    file: Option<BorrowedFd<'_>>,
    more: libc::c_int,
) -> io::Result<NonNull<u8>> {
    let (flags, fd) = match file {
        Some(file) => (libc::MAP_SHARED, file.as_raw_fd()),
        None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
    };
    // SAFETY: a fresh mapping at an address the kernel chooses overlaps nothing.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            flags | more,
            fd,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapping at address 0"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn words_start_at_zero_and_keep_what_is_stored() {
        let words = Words::anonymous(1000).unwrap();
        assert_eq!(words.len(), 1000);
        assert!(words.iter().all(|word| word.load(Relaxed) == 0));
        words[999].store(7, Relaxed);
        assert_eq!(words[999].load(Relaxed), 7);
        prefetch(words.lines(), 124);
        prefetch(words.lines(), 125);
        assert_eq!(words.lines().len(), 125);
        assert_eq!(words.lines()[124][7].load(Relaxed), 7);
    }

    #[test]
    fn advice_changes_no_word() {
        let words = Words::anonymous(1 << 20).unwrap();
        for (index, word) in (0..).zip(words.iter()) {
            word.store(index, Relaxed);
        }
        words.advise_large_pages(3..100);
        words.advise_large_pages(0..usize::MAX);
        words.collapse(5..700_000);
        words.collapse(9..9);
        assert!(
            (0..)
                .zip(words.iter())
                .all(|(index, word)| word.load(Relaxed) == index)
        );
    }
}
