//! Many messages per system call, without any offload: sendmmsg and recvmmsg on fixed memory.
#![expect(unsafe_code, reason = "the kernel takes arrays of pointers")]

use std::io;
use std::os::fd::AsRawFd;

/// Messages per system call.
const BURST: usize = 64;
const COUNT: libc::c_uint = 64;
/// Bytes of room for each.
const ROOM: usize = 2048;

/// Memory for a burst.
#[derive(Debug)]
pub(super) struct Burst {
    bytes: Vec<[u8; ROOM]>,
}

impl Burst {
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![[0x55; ROOM]; BURST],
        }
    }

    /// A burst of messages that begin with these bytes, at most 2048.
    pub(super) fn of(message: &[u8]) -> Self {
        let mut burst = Self::new();
        for bytes in &mut burst.bytes {
            for (byte, value) in bytes.iter_mut().zip(message) {
                *byte = *value;
            }
        }
        burst
    }

    /// The first `len` bytes (at most 2048) of each message.
    pub(super) fn messages(&mut self, len: usize) -> impl Iterator<Item = &mut [u8]> {
        self.bytes
            .iter_mut()
            .map(move |bytes| &mut bytes[..len.min(ROOM)])
    }

    /// Sends [`BURST`] messages of `len` bytes (at most 2048) on a connected socket; returns how many were taken.
    ///
    /// # Errors
    /// What the kernel says when it takes none.
    pub(super) fn send(&mut self, socket: &impl AsRawFd, len: usize) -> io::Result<usize> {
        let mut slices = self.slices(len.min(ROOM));
        let mut headers = headers(&mut slices);
        // SAFETY: `headers` holds BURST headers; each points to one slice that points into `bytes`, all alive here.
        let result = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), COUNT, 0) };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }

    /// Receives what has come, at most [`BURST`] messages; waits for the first only.
    ///
    /// # Errors
    /// What the kernel says, also when the socket's time limit passes.
    pub(super) fn receive(&mut self, socket: &impl AsRawFd) -> io::Result<usize> {
        let mut slices = self.slices(ROOM);
        let mut headers = headers(&mut slices);
        // SAFETY: as in `send`; no name and no control buffer is given, and no timeout.
        let result = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                COUNT,
                libc::MSG_WAITFORONE,
                std::ptr::null_mut(),
            )
        };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }

    fn slices(&mut self, len: usize) -> [libc::iovec; BURST] {
        let mut slices = [libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: len,
        }; BURST];
        for (slice, bytes) in slices.iter_mut().zip(&mut self.bytes) {
            slice.iov_base = bytes.as_mut_ptr().cast();
        }
        slices
    }
}

impl Default for Burst {
    fn default() -> Self {
        Self::new()
    }
}

fn headers(slices: &mut [libc::iovec; BURST]) -> [libc::mmsghdr; BURST] {
    // SAFETY: a header of zeros is valid: null pointers with zero lengths.
    let empty: libc::mmsghdr = unsafe { std::mem::zeroed() };
    let mut headers = [empty; BURST];
    for (header, slice) in headers.iter_mut().zip(slices) {
        header.msg_hdr.msg_iov = std::ptr::from_mut(slice);
        header.msg_hdr.msg_iovlen = 1;
    }
    headers
}
