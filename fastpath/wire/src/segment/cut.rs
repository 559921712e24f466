//! Cutting: the header of each segment of a TCP or UDP super-frame.

use crate::addr::Family;
use crate::checksum::{fold, pseudo_header_sum, sum, udp_checksum, write_u16};
use crate::flow_key::Protocol;
use crate::parse::{Fragment, Parsed, tcp_flag};
use std::ops::Range;

/// The longest header a segment can have: IPv4 with all options and TCP with all options need 120 bytes.
pub const HEADER_LEN_MAX: usize = 128;

/// Makes the headers of a super-frame's segments, in any order. It holds a copy of the super-frame's header, so that
/// the segments' headers may overwrite the frame itself.
#[derive(Clone, Copy, Debug)]
pub struct Cutter {
    header: [u8; HEADER_LEN_MAX],
    header_len: usize,
    l3_len: usize,
    family: Family,
    is_tcp: bool,
    segment_size: usize,
    payload_len: usize,
    segments: usize,
    /// The sum of the IPv4 header without total length, identification and checksum.
    ip_sum: u32,
    /// The sum of the pseudo-header without length and of the layer-4 header without sequence number, offset and
    /// flags, length and checksum.
    l4_sum: u32,
    identification: u16,
    sequence: u32,
    offset_flags: u16,
}

impl Cutter {
    /// For the super-frame whose headers `bytes` begins with. Its total length counts the payload of all segments;
    /// the payload itself need not be in `bytes`. What its checksum fields hold does not matter.
    ///
    /// `None` when `segment_size` is 0, when it is no whole TCP or UDP packet, or its header exceeds
    /// [`HEADER_LEN_MAX`].
    #[must_use]
    pub fn new(bytes: &[u8], parsed: &Parsed, segment_size: u16) -> Option<Self> {
        let is_tcp = match parsed.protocol {
            Protocol::Tcp => true,
            Protocol::Udp => false,
            Protocol::Icmp | Protocol::Other(_) => return None,
        };
        if segment_size == 0 || parsed.fragment != Fragment::Whole {
            return None;
        }
        let header_len = parsed.header_len();
        let l3_len = usize::from(parsed.l3_len);
        let mut header = [0; HEADER_LEN_MAX];
        header
            .get_mut(..header_len)?
            .copy_from_slice(bytes.get(..header_len)?);
        let number = parsed.protocol.number(parsed.family);
        let l4 = bytes.get(l3_len..header_len)?;
        let (mut varying, mut sequence, mut offset_flags) = (0, 0, 0);
        if is_tcp {
            let &[_, _, _, _, s0, s1, s2, s3, _, _, _, _, o0, o1, _, _, c0, c1] =
                l4.first_chunk::<18>()?;
            varying = sum(&[s0, s1, s2, s3, o0, o1, c0, c1]);
            sequence = u32::from_be_bytes([s0, s1, s2, s3]);
            offset_flags = u16::from_be_bytes([o0, o1]);
        } else {
            varying += sum(l4.get(4..8)?);
        }
        let l4_sum =
            pseudo_header_sum(parsed.src, parsed.dst, number, 0) + sum(l4) + minus(varying);
        let (mut ip_sum, mut identification) = (0, 0);
        if parsed.family == Family::V4 {
            let ip = bytes.get(..l3_len)?;
            let &[_, _, l0, l1, i0, i1, _, _, _, _, c0, c1] = ip.first_chunk::<12>()?;
            ip_sum = sum(ip) + minus(sum(&[l0, l1, i0, i1, c0, c1]));
            identification = u16::from_be_bytes([i0, i1]);
        }
        let payload_len = parsed.payload_len();
        Some(Self {
            header,
            header_len,
            l3_len,
            family: parsed.family,
            is_tcp,
            segment_size: usize::from(segment_size),
            payload_len,
            segments: payload_len.div_ceil(usize::from(segment_size)).max(1),
            ip_sum,
            l4_sum,
            identification,
            sequence,
            offset_flags,
        })
    }

    /// The number of segments; 1 for a frame without payload.
    #[must_use]
    pub const fn segments(&self) -> usize {
        self.segments
    }

    /// Header bytes of every segment.
    #[must_use]
    pub const fn header_len(&self) -> usize {
        self.header_len
    }

    /// Where segment `index` has its payload in the super-frame's payload. Empty past the last segment.
    #[must_use]
    pub fn payload(&self, index: usize) -> Range<usize> {
        let start = index
            .saturating_mul(self.segment_size)
            .min(self.payload_len);
        start..(start + self.segment_size).min(self.payload_len)
    }

    /// Writes the header of segment `index`, whose bytes after the header are `payload`, with all checksums complete.
    /// FIN and PSH stay on the last segment only and CWR on the first (RFC 3168 section 6.1.2); the IPv4
    /// identification counts up, as a kernel's software segmentation does. Returns the header's length; `None` when
    /// there is no such segment, `payload` has not its length, or `out` is too short.
    #[must_use]
    pub fn header(&self, index: usize, payload: &[u8], out: &mut [u8]) -> Option<usize> {
        let range = self.payload(index);
        if index >= self.segments || payload.len() != range.len() {
            return None;
        }
        let out = out.get_mut(..self.header_len)?;
        out.copy_from_slice(self.header.get(..self.header_len)?);
        let total_len = u16::try_from(self.header_len + payload.len()).ok()?;
        let l4_len = u16::try_from(self.header_len - self.l3_len + payload.len()).ok()?;
        match self.family {
            Family::V4 => {
                let step = u16::try_from(index).ok()?;
                let identification = self.identification.wrapping_add(step);
                write_u16(out, 2, total_len);
                write_u16(out, 4, identification);
                let sum = self.ip_sum + u32::from(total_len) + u32::from(identification);
                write_u16(out, 10, !fold(sum));
            }
            Family::V6 => write_u16(out, 4, total_len - 40),
        }
        let covered = self.l4_sum + u32::from(l4_len) + sum(payload);
        let (_, l4) = out.split_at_mut_checked(self.l3_len)?;
        if self.is_tcp {
            let passed = u32::try_from(range.start).ok()?;
            let sequence = self.sequence.wrapping_add(passed);
            let mut offset_flags = self.offset_flags;
            if index > 0 {
                offset_flags &= !u16::from(tcp_flag::CWR);
            }
            if index + 1 < self.segments {
                offset_flags &= !u16::from(tcp_flag::FIN | tcp_flag::PSH);
            }
            let (high, low) = (sequence >> 16, sequence & 0xffff);
            l4.get_mut(4..8)?.copy_from_slice(&sequence.to_be_bytes());
            write_u16(l4, 12, offset_flags);
            write_u16(
                l4,
                16,
                !fold(covered + high + low + u32::from(offset_flags)),
            );
        } else {
            write_u16(l4, 4, l4_len);
            write_u16(l4, 6, udp_checksum(!fold(covered + u32::from(l4_len))));
        }
        Some(self.header_len)
    }
}

/// What takes a sum of at most 0xffff out of another in ones' complement.
const fn minus(sum: u32) -> u32 {
    !sum & 0xffff
}
