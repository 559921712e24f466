//! A frame: bytes with room around them, and what the link knows about them.

use crate::buffer::{Buffer, HEADROOM};
use arrayvec::ArrayVec;
use sluice_wire::Ip;
use std::ops::Range;

/// Frames handled in one turn of a stage. 64 hides memory latency behind prefetch and keeps a batch's headers in L1.
pub const BATCH_MAX: usize = 64;

/// Frames on their way through the stages.
pub type Batch = ArrayVec<Frame, BATCH_MAX>;

/// What is known about the layer-4 checksum.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Checksum {
    /// A complete checksum is in the header; nobody has verified it.
    #[default]
    Unknown,
    /// A complete checksum is in the header and it is right.
    Verified,
    /// The field holds the folded, not complemented pseudo-header sum; whoever sends the frame sums from `start` to
    /// the end and stores the result at `start + offset`. Both are relative to the first byte of the IP packet.
    Partial { start: u16, offset: u16 },
}

/// The kind of a super-frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GsoKind {
    Tcp4,
    Tcp6,
    /// UDP over either family (USO).
    Udp,
}

/// A super-frame: one header standing for several segments.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Gso {
    pub kind: GsoKind,
    /// Layer-4 payload bytes of every segment but the last; 1..=65,535.
    pub segment_size: u16,
    /// Layer-3 and layer-4 header bytes.
    pub header_len: u16,
}

/// The bytes hold a train of complete packets, one after the other, as a plain tunnel delivered them; the headers
/// of all but the first are to be skipped. The first header already describes the whole super-frame (its length,
/// flags and partial checksum), so that the stages rewrite one header only.
///
/// In a frame without [`Gso`] the bytes are a run of datagrams, each for itself, which an underlay received or is to send, and
/// no header is to be skipped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Train {
    /// Bytes from one packet's first byte to the next one's; the last packet may be shorter.
    pub stride: u16,
    /// Header bytes at the start of each packet.
    pub header_len: u16,
}

/// The other end of an underlay: where a tunnelled frame came from, or goes to.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Endpoint {
    pub ip: Ip,
    pub port: u16,
}

/// A packet (layer 3: the first byte is the IP version) in a buffer, with offload metadata.
#[derive(Debug)]
pub struct Frame {
    buffer: Buffer,
    start: u32,
    len: u32,
    pub checksum: Checksum,
    pub gso: Option<Gso>,
    pub train: Option<Train>,
    /// Received from an underlay: the outer source. To be sent to an underlay: the outer destination.
    pub outer: Option<Endpoint>,
    /// The number under which this frame is followed through the stages (`sluice trace`); 0 when it is not.
    pub trace: u32,
    /// The traffic class ([`sluice_wire::traffic_class`]) of the outer header: as received, where a link was told to look at it,
    /// or to be sent. 0 is "nothing to say".
    pub class: u8,
}

impl Frame {
    /// An empty frame at the usual headroom.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "HEADROOM is 128")]
    pub const fn new(buffer: Buffer) -> Self {
        Self {
            buffer,
            start: HEADROOM as u32,
            len: 0,
            checksum: Checksum::Unknown,
            gso: None,
            train: None,
            outer: None,
            trace: 0,
            class: 0,
        }
    }

    /// The packet.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `start + len` never exceeds the buffer's length; whatever changes either keeps it so.
        unsafe { self.buffer.get_unchecked(self.range()) }
    }

    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let range = self.range();
        // SAFETY: as in `bytes`.
        unsafe { self.buffer.get_unchecked_mut(range) }
    }

    /// Where the packet is in the buffer.
    #[inline]
    const fn range(&self) -> Range<usize> {
        let start = self.start as usize;
        start..start + self.len as usize
    }

    #[must_use]
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes free before the packet.
    #[must_use]
    pub const fn headroom(&self) -> usize {
        self.start as usize
    }

    /// Bytes free after the packet.
    #[must_use]
    pub fn tailroom(&self) -> usize {
        self.buffer.len() - (self.start + self.len) as usize
    }

    /// Sets the packet to `len` bytes from `start` of the buffer, as a link does after filling it.
    ///
    /// # Panics
    /// When that reaches past the buffer.
    #[expect(clippy::cast_possible_truncation, reason = "a buffer is at most 1 MiB")]
    pub fn set_range(&mut self, start: usize, len: usize) {
        assert!(
            start + len <= self.buffer.len(),
            "{start}+{len} is inside the buffer of {}",
            self.buffer.len()
        );
        self.start = start as u32;
        self.len = len as u32;
    }

    /// Makes the packet `len` bytes longer at the front and returns the new front; `None` without headroom.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "a buffer is at most 1 MiB")]
    pub fn push_front(&mut self, len: usize) -> Option<&mut [u8]> {
        let start = self.headroom().checked_sub(len)?;
        self.start = start as u32;
        self.len += len as u32;
        Some(&mut self.buffer[start..start + len])
    }

    /// As [`Frame::push_front`], of a number of bytes that is known beforehand.
    #[inline]
    pub fn push_header<const N: usize>(&mut self) -> Option<&mut [u8; N]> {
        self.push_front(N)?.first_chunk_mut()
    }

    /// Removes `len` bytes at the front; `None` (and no change) when there are not so many.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "a buffer is at most 1 MiB")]
    pub fn pull_front(&mut self, len: usize) -> Option<()> {
        let rest = self.len().checked_sub(len)?;
        self.start += len as u32;
        self.len = rest as u32;
        Some(())
    }

    /// Cuts the packet to at most `len` bytes.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "a buffer is at most 1 MiB")]
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len as u32);
    }

    /// Makes the packet longer by `bytes` at its end.
    ///
    /// # Panics
    /// When they exceed [`Frame::tailroom`].
    #[expect(clippy::cast_possible_truncation, reason = "a buffer is at most 1 MiB")]
    pub fn append(&mut self, bytes: &[u8]) {
        let end = (self.start + self.len) as usize;
        self.buffer[end..end + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len() as u32;
    }

    /// The whole buffer, for a link that fills it before [`Frame::set_range`].
    pub fn buffer_mut(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    /// The pool its buffer belongs to.
    #[must_use]
    pub const fn pool(&self) -> u16 {
        self.buffer.pool()
    }

    /// Takes the buffer back, to release it.
    #[must_use]
    pub fn into_buffer(self) -> Buffer {
        self.buffer
    }

    /// Replaces the packet by a copy of `bytes` at the usual headroom and forgets all metadata but `outer`, `trace` and `class`.
    ///
    /// # Panics
    /// When `bytes` do not fit the buffer.
    pub fn fill(&mut self, bytes: &[u8]) {
        self.set_range(HEADROOM, bytes.len());
        self.bytes_mut().copy_from_slice(bytes);
        self.checksum = Checksum::Unknown;
        self.gso = None;
        self.train = None;
    }

    /// Makes this a copy of `other`, packet and metadata, at the usual headroom. The caller counts it.
    ///
    /// # Panics
    /// When the packet does not fit the buffer.
    pub fn copy_from(&mut self, other: &Self) {
        self.fill(other.bytes());
        self.checksum = other.checksum;
        self.gso = other.gso;
        self.train = other.train;
        self.outer = other.outer;
        self.trace = other.trace;
        self.class = other.class;
    }
}

/// Moves all frames of `batch` to the end of `to`, in one copy: moving frame by frame costs more than a stage.
///
/// # Panics
/// When they do not fit.
#[inline]
pub fn append<const N: usize>(to: &mut ArrayVec<Frame, N>, batch: &mut Batch) {
    let (at, len) = (to.len(), batch.len());
    assert!(len <= to.remaining_capacity(), "{len} more frames fit");
    // SAFETY: `at <= N`, so the result is inside the array or one past its end.
    let end = unsafe { to.as_mut_ptr().add(at) };
    // SAFETY: `len` frames are initialised in `batch`, as many fit after `end`, and the arrays are different objects.
    unsafe { std::ptr::copy_nonoverlapping(batch.as_ptr(), end, len) };
    // SAFETY: zero is no more than the capacity; the frames are owned by `to` from here on.
    unsafe { batch.set_len(0) };
    // SAFETY: the first `at` frames were there, and the next `len` were just copied.
    unsafe { to.set_len(at + len) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Pool;

    #[test]
    fn a_batch_is_moved_whole() {
        let mut pool = Pool::new(5, 100).unwrap();
        let frame = |byte: u8, pool: &mut Pool| {
            let mut frame = Frame::new(pool.take().unwrap());
            frame.fill(&[byte]);
            frame
        };
        let mut to: ArrayVec<Frame, 5> = ArrayVec::new();
        to.push(frame(0, &mut pool));
        let mut batch = Batch::new();
        append(&mut to, &mut batch);
        for byte in 1..5 {
            batch.push(frame(byte, &mut pool));
        }
        append(&mut to, &mut batch);
        assert!(batch.is_empty());
        let bytes: Vec<u8> = to.iter().map(|frame| frame.bytes()[0]).collect();
        assert_eq!(bytes, [0, 1, 2, 3, 4]);
        to.drain(..)
            .for_each(|frame| pool.release(frame.into_buffer()));
        assert_eq!(pool.outstanding(), 0);
    }

    #[test]
    #[should_panic(expected = "1 more frames fit")]
    fn what_does_not_fit_is_not_moved() {
        let mut pool = Pool::new(1, 100).unwrap();
        let mut batch = Batch::new();
        batch.push(Frame::new(pool.take().unwrap()));
        append(&mut ArrayVec::<Frame, 0>::new(), &mut batch);
    }

    #[test]
    fn headers_come_and_go_at_the_front() {
        let mut pool = Pool::new(1, 1500).unwrap();
        let mut frame = Frame::new(pool.take().unwrap());
        frame.fill(b"payload");
        frame.push_front(2).unwrap().copy_from_slice(b"hd");
        assert_eq!(frame.bytes(), b"hdpayload");
        frame.pull_front(2).unwrap();
        assert_eq!(frame.bytes(), b"payload");
        assert!(frame.pull_front(8).is_none());
        assert!(frame.push_front(HEADROOM + 1).is_none());
        assert_eq!(frame.headroom(), HEADROOM);
        pool.release(frame.into_buffer());
    }
}
