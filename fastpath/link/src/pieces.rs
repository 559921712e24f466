//! The packets inside a super-frame: what a link without segmentation offload sends instead of it.

use sluice_memory::{Account, Checksum, Frame};
use sluice_wire::checksum;
use sluice_wire::segment::{Cutter, HEADER_LEN_MAX};
use sluice_wire::{DropReason, Protocol, parse};

/// Room for the header of one piece.
pub(crate) type HeaderBytes = [u8; HEADER_LEN_MAX];

/// A super-frame seen as the packets it stands for. The payload stays where it is.
#[derive(Debug)]
pub struct Pieces<'a> {
    cutter: Cutter,
    bytes: &'a [u8],
    /// From one payload's start to the next one's.
    stride: usize,
}

impl<'a> Pieces<'a> {
    /// # Errors
    /// `Malformed` when `frame` is no super-frame or its description contradicts its bytes.
    pub fn of(frame: &'a Frame) -> Result<Self, DropReason> {
        let bytes = frame.bytes();
        let gso = frame.gso.ok_or(DropReason::Malformed)?;
        let parsed = parse(bytes)?;
        let cutter = Cutter::new(bytes, &parsed, gso.segment_size).ok_or(DropReason::Malformed)?;
        let stride = match frame.train {
            Some(train) => usize::from(train.stride),
            None => usize::from(gso.segment_size),
        };
        let last = cutter.payload(cutter.segments() - 1);
        let end = cutter.header_len() + (cutter.segments() - 1) * stride + last.len();
        if end > bytes.len() {
            return Err(DropReason::Malformed);
        }
        Ok(Self {
            cutter,
            bytes,
            stride,
        })
    }

    /// How many there are, 1 or more.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is always one")]
    pub const fn len(&self) -> usize {
        self.cutter.segments()
    }

    /// Bytes of the header of each.
    #[must_use]
    pub const fn header_len(&self) -> usize {
        self.cutter.header_len()
    }

    /// The payload of piece `index`; empty past the last one.
    #[must_use]
    pub fn payload(&self, index: usize) -> &'a [u8] {
        let start = self.cutter.header_len() + index * self.stride;
        let len = self.cutter.payload(index).len();
        self.bytes.get(start..start + len).unwrap_or(&[])
    }

    /// Writes the header of piece `index`, all checksums complete, to the front of `out` and returns its length.
    ///
    /// # Errors
    /// `Malformed` past the last piece, or when `out` is too short.
    pub fn header(&self, index: usize, out: &mut [u8]) -> Result<usize, DropReason> {
        let payload = self.payload(index);
        self.cutter
            .header(index, payload, out)
            .ok_or(DropReason::Malformed)
    }
}

/// Finishes a partial checksum of a frame that is no super-frame.
///
/// # Errors
/// `Malformed` when the field is outside of the packet.
pub fn complete_checksum(frame: &mut Frame) -> Result<(), DropReason> {
    let Checksum::Partial { start, offset } = frame.checksum else {
        return Ok(());
    };
    let (start, offset) = (usize::from(start), usize::from(offset));
    let bytes = frame.bytes_mut();
    let covered = bytes.get(start..).ok_or(DropReason::Malformed)?;
    let mut sum = !checksum::fold(checksum::sum(covered));
    // The field stands at another offset in each protocol: 6 only in UDP, where 0 would mean "no checksum".
    if sum == 0 && offset == 6 {
        sum = 0xffff;
    }
    let field = bytes
        .get_mut(start + offset..)
        .and_then(<[u8]>::first_chunk_mut)
        .ok_or(DropReason::Malformed)?;
    *field = sum.to_be_bytes();
    frame.checksum = Checksum::Verified;
    Ok(())
}

/// Whether joining packets of `protocol` is of use.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Merge {
    pub tcp: bool,
    pub udp: bool,
}

impl Merge {
    pub(crate) const fn of(self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Tcp => self.tcp,
            Protocol::Udp => self.udp,
            Protocol::Icmp | Protocol::Other(_) => false,
        }
    }
}

/// Counts that one frame of `len` bytes left.
#[inline]
pub(crate) fn count_forwarded(account: &Account, len: usize) {
    account.forwarded.add(1);
    account.forwarded_bytes.add(len as u64);
}
