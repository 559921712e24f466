//! AF_XDP sockets: the system calls, and the rings mapped from them.

use sluice_memory::Region;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

/// `struct xdp_desc`: a frame in the memory both sides see.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Descriptor {
    /// Bytes from the start of the memory to the frame.
    pub address: u64,
    /// Bytes of the frame.
    pub len: u32,
    /// `XDP_PKT_CONTD` and the like.
    pub options: u32,
}

/// The four rings of a socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Which {
    Fill,
    Completion,
    Receive,
    Transmit,
}

/// How frames are moved between driver and memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Binding {
    /// The driver writes into our memory.
    ZeroCopy,
    /// The kernel copies.
    Copy,
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ZeroCopy => "zero-copy",
            Self::Copy => "copy",
        })
    }
}

/// Frames the kernel had for the socket and could not hand over, since it was bound.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Missed {
    /// No buffer was in the fill ring; or the frame was longer than a chunk, which the device's MTU rules out. What a
    /// driver drops by itself in zero-copy mode is in the device's statistics.
    pub no_buffer: u64,
    /// The receive ring was full.
    pub ring_full: u64,
    /// Descriptors of ours that the kernel refused.
    pub refused: u64,
    /// Times that the fill ring was found empty: with the driver's own drops, why a zero-copy socket loses frames.
    pub fill_empty: u64,
}

/// An AF_XDP socket.
#[derive(Debug)]
pub struct XskSocket(OwnedFd);

impl AsFd for XskSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// One ring's memory, shared with the kernel. Entries are behind the two counters.
#[derive(Debug)]
pub struct RingMemory {
    base: NonNull<u8>,
    len: usize,
    offsets: RingOffsets,
    entries: u32,
}

/// Where in a ring's memory its parts are, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct RingOffsets {
    producer: usize,
    consumer: usize,
    flags: usize,
    descriptors: usize,
}

// SAFETY: the mapping is shared with the kernel, not with other threads of ours; its counters are atomics.
unsafe impl Send for RingMemory {}

impl XskSocket {
    /// # Errors
    /// Without CAP_NET_RAW, or on a kernel without AF_XDP.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just made and belongs to nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Another descriptor of the same socket, to read its counters while a worker has it.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    /// Shows the kernel the memory that frames live in. The pages stay resident as long as the socket.
    ///
    /// # Errors
    /// When they may not be locked (RLIMIT_MEMLOCK), or chunks are neither 2,048 nor 4,096 bytes.
    pub fn register(&self, region: &Region) -> io::Result<()> {
        let registration = libc::xdp_umem_reg {
            addr: region.address() as u64,
            len: region.len() as u64,
            chunk_size: u32::try_from(region.capacity()).unwrap_or(u32::MAX),
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        };
        self.set(libc::XDP_UMEM_REG, &registration)
    }

    /// Makes the ring `which` with `entries` entries, a power of two, and maps it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn ring(&self, which: Which, entries: u32) -> io::Result<RingMemory> {
        let option = match which {
            Which::Fill => libc::XDP_UMEM_FILL_RING,
            Which::Completion => libc::XDP_UMEM_COMPLETION_RING,
            Which::Receive => libc::XDP_RX_RING,
            Which::Transmit => libc::XDP_TX_RING,
        };
        self.set(option, &entries)?;
        let all: libc::xdp_mmap_offsets = self.get(libc::XDP_MMAP_OFFSETS)?;
        let (offsets, page, entry) = match which {
            Which::Fill => (all.fr, libc::XDP_UMEM_PGOFF_FILL_RING, 8),
            Which::Completion => (all.cr, libc::XDP_UMEM_PGOFF_COMPLETION_RING, 8),
            Which::Receive => (all.rx, libc::XDP_PGOFF_RX_RING as libc::c_ulonglong, 16),
            Which::Transmit => (all.tx, libc::XDP_PGOFF_TX_RING as libc::c_ulonglong, 16),
        };
        let offsets = RingOffsets {
            producer: to_usize(offsets.producer),
            consumer: to_usize(offsets.consumer),
            flags: to_usize(offsets.flags),
            descriptors: to_usize(offsets.desc),
        };
        let len = offsets.descriptors + entries as usize * entry;
        RingMemory::map(self.as_fd(), page, len, offsets, entries)
    }

    /// Binds to queue `queue` of device `device`. Frames come only once a program redirects them here.
    ///
    /// # Errors
    /// EOPNOTSUPP when the driver cannot do `binding`, EBUSY while another socket is bound or is just going.
    pub fn bind(&self, device: u32, queue: u32, binding: Binding) -> io::Result<()> {
        #[expect(clippy::cast_possible_truncation, reason = "16")]
        const LEN: libc::socklen_t = size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
        let copy = match binding {
            Binding::ZeroCopy => libc::XDP_ZEROCOPY,
            Binding::Copy => libc::XDP_COPY,
        };
        let address = libc::sockaddr_xdp {
            #[expect(clippy::cast_possible_truncation, reason = "AF_XDP is 44")]
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: copy | libc::XDP_USE_NEED_WAKEUP,
            sxdp_ifindex: device,
            sxdp_queue_id: queue,
            sxdp_shared_umem_fd: 0,
        };
        // SAFETY: `address` is a live sockaddr_xdp, and its size is passed.
        let result = unsafe { libc::bind(self.0.as_raw_fd(), (&raw const address).cast(), LEN) };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// How it is bound, by the kernel's word.
    ///
    /// # Errors
    /// When it is not bound.
    pub fn binding(&self) -> io::Result<Binding> {
        let options: libc::xdp_options = self.get(libc::XDP_OPTIONS)?;
        Ok(if options.flags & libc::XDP_OPTIONS_ZEROCOPY == 0 {
            Binding::Copy
        } else {
            Binding::ZeroCopy
        })
    }

    /// # Errors
    /// When the descriptor is no longer valid.
    pub fn missed(&self) -> io::Result<Missed> {
        let counts: libc::xdp_statistics = self.get(libc::XDP_STATISTICS)?;
        Ok(Missed {
            no_buffer: counts.rx_dropped,
            ring_full: counts.rx_ring_full,
            refused: counts.rx_invalid_descs + counts.tx_invalid_descs,
            fill_empty: counts.rx_fill_ring_empty_descs,
        })
    }

    /// Lets the socket's own calls drive the device's queue instead of its interrupts, `budget` frames at a time.
    ///
    /// # Errors
    /// On kernels before 5.11, and for a larger budget than 64 without CAP_NET_ADMIN.
    pub fn prefer_busy_poll(&self, microseconds: u32, budget: u32) -> io::Result<()> {
        for (option, value) in [
            (libc::SO_PREFER_BUSY_POLL, 1),
            (libc::SO_BUSY_POLL, microseconds),
            (libc::SO_BUSY_POLL_BUDGET, budget),
        ] {
            self.set_at(libc::SOL_SOCKET, option, &value)?;
        }
        Ok(())
    }

    /// How long one call polls the device's queue, in microseconds, and whether interrupts stand back for that; by the
    /// kernel's word. It does not tell the budget.
    ///
    /// # Errors
    /// On kernels before 5.11.
    pub fn busy_polling(&self) -> io::Result<(u32, bool)> {
        let microseconds: u32 = self.get_at(libc::SOL_SOCKET, libc::SO_BUSY_POLL)?;
        let is_preferred: u32 = self.get_at(libc::SOL_SOCKET, libc::SO_PREFER_BUSY_POLL)?;
        Ok((microseconds, is_preferred != 0))
    }

    /// Makes the kernel send what is in the transmit ring.
    ///
    /// # Errors
    /// EAGAIN when more is left than one call sends; ENETDOWN, ENXIO when the device is down or gone.
    #[inline]
    pub fn kick_transmit(&self) -> io::Result<()> {
        // SAFETY: no buffer is passed.
        let result = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                std::ptr::null(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null(),
                0,
            )
        };
        if result >= 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Makes the driver look at the fill ring; with busy polling, also makes it receive.
    #[inline]
    pub fn kick_receive(&self) {
        // An error here shows again where frames are sent or waited for.
        // SAFETY: no buffer is passed.
        unsafe {
            libc::recvfrom(
                self.0.as_raw_fd(),
                std::ptr::null_mut(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
        };
    }

    fn set<T>(&self, option: libc::c_int, value: &T) -> io::Result<()> {
        self.set_at(libc::SOL_XDP, option, value)
    }

    fn set_at<T>(&self, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
        #[expect(clippy::cast_possible_truncation, reason = "at most 32 bytes")]
        let len = size_of::<T>() as libc::socklen_t;
        // SAFETY: `value` is readable for the size that is passed.
        let result = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                level,
                option,
                std::ptr::from_ref(value).cast(),
                len,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// `T` is one of the plain structs of linux/if_xdp.h.
    fn get<T: Copy>(&self, option: libc::c_int) -> io::Result<T> {
        self.get_at(libc::SOL_XDP, option)
    }

    /// `T` consists of integers.
    fn get_at<T: Copy>(&self, level: libc::c_int, option: libc::c_int) -> io::Result<T> {
        let mut value = std::mem::MaybeUninit::<T>::zeroed();
        #[expect(clippy::cast_possible_truncation, reason = "at most 128 bytes")]
        let mut len = size_of::<T>() as libc::socklen_t;
        // SAFETY: `value` is writable for the size that is passed.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                level,
                option,
                value.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: these structs consist of integers, for which zeroes are a value, and the kernel wrote over them.
        Ok(unsafe { value.assume_init() })
    }
}

impl RingMemory {
    fn map(
        file: BorrowedFd<'_>,
        page: libc::c_ulonglong,
        len: usize,
        offsets: RingOffsets,
        entries: u32,
    ) -> io::Result<Self> {
        // SAFETY: a fresh mapping at an address the kernel chooses overlaps nothing.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                file.as_raw_fd(),
                libc::off_t::try_from(page).unwrap_or(libc::off_t::MAX),
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            base: NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapping at 0"))?,
            len,
            offsets,
            entries,
        })
    }

    /// A ring of entries of `T` without a kernel, mapped twice: one for each end.
    #[cfg(test)]
    pub(crate) fn pair<T>(entries: u32) -> io::Result<[Self; 2]> {
        let offsets = RingOffsets {
            producer: 0,
            consumer: 64,
            flags: 128,
            descriptors: 192,
        };
        let len = offsets.descriptors + entries as usize * size_of::<T>();
        // SAFETY: the name is a C string.
        let fd = unsafe { libc::memfd_create(c"ring".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just made and belongs to nobody else.
        let file = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        file.set_len(len as u64)?;
        Ok([
            Self::map(file.as_fd(), 0, len, offsets, entries)?,
            Self::map(file.as_fd(), 0, len, offsets, entries)?,
        ])
    }

    /// Whether the mapping has room for all entries when they are of type `T`.
    #[must_use]
    pub(crate) const fn holds<T: Entry>(&self) -> bool {
        self.offsets.descriptors + self.entries as usize * size_of::<T>() <= self.len
    }

    /// The number of entries, a power of two.
    #[must_use]
    pub const fn entries(&self) -> u32 {
        self.entries
    }

    /// What the producer has written so far.
    #[must_use]
    #[inline]
    pub const fn producer(&self) -> &AtomicU32 {
        self.counter(self.offsets.producer)
    }

    /// What the consumer has read so far.
    #[must_use]
    #[inline]
    pub const fn consumer(&self) -> &AtomicU32 {
        self.counter(self.offsets.consumer)
    }

    /// `XDP_RING_NEED_WAKEUP`.
    #[must_use]
    #[inline]
    pub const fn flags(&self) -> &AtomicU32 {
        self.counter(self.offsets.flags)
    }

    #[inline]
    const fn counter(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: the offset is the kernel's, inside the mapping.
        let counter = unsafe { self.base.as_ptr().add(offset) }.cast::<AtomicU32>();
        // SAFETY: it is aligned, mapped until `drop`, and everybody accesses it atomically.
        unsafe { &*counter }
    }

    /// Reads entry `position & (entries - 1)`.
    #[inline]
    pub(crate) fn read<T: Entry>(&self, position: u32) -> T {
        // SAFETY: `entry` is inside the mapping; the consumer reads only what the producer has published.
        unsafe { self.entry::<T>(position).read_volatile() }
    }

    /// Writes entry `position & (entries - 1)`.
    #[inline]
    pub(crate) fn write<T: Entry>(&self, position: u32, value: T) {
        // SAFETY: `entry` is inside the mapping; the producer writes only what the consumer has released.
        unsafe { self.entry::<T>(position).write_volatile(value) };
    }

    #[inline]
    fn entry<T: Entry>(&self, position: u32) -> *mut T {
        let index = (position & (self.entries - 1)) as usize;
        let offset = self.offsets.descriptors + index * size_of::<T>();
        debug_assert!(offset + size_of::<T>() <= self.len);
        // SAFETY: `index < entries`, and the mapping has so many entries of this ring's type behind the offset.
        unsafe { self.base.as_ptr().add(offset) }.cast()
    }
}

impl Drop for RingMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length and no borrow of it outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// What rings consist of: addresses in fill and completion rings, descriptors in the other two.
pub(crate) trait Entry: Copy {}

impl Entry for u64 {}
impl Entry for Descriptor {}

fn to_usize(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
