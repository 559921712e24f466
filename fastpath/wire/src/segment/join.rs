//! Joining: packets that follow one another become one super-frame behind the first one's header.

use crate::addr::Family;
use crate::checksum::{complete_ipv4_header, partial_l4, read_u16, verify_ipv4_header, write_u16};
use crate::flow_key::Protocol;
use crate::parse::{Fragment, Parsed, tcp_flag};

/// The longest super-frame, headers included: what an IPv4 total length can say and a frame can hold.
const JOINED_LEN_MAX: u32 = 65_535;

/// TCP flags that may be set in joined segments. CWR is not among them: it belongs to one segment only.
const FLAGS_JOINED: u8 = tcp_flag::ACK | tcp_flag::PSH | tcp_flag::FIN | tcp_flag::ECE;
/// TCP flags that end a run: cutting puts them on the last segment.
const FLAGS_LAST: u8 = tcp_flag::PSH | tcp_flag::FIN;

/// Packets that one header can stand for. Every packet offered must have passed [`crate::checksum::verify_l4`], since
/// its checksum is lost here; IPv4 header checksums are checked here.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    parsed: Parsed,
    segment_size: u32,
    packets: u32,
    /// Of the packet that would come next.
    sequence: u32,
    identification: u16,
    flags: u8,
    /// Nothing may follow: the last packet was short, or had FIN or PSH.
    closed: bool,
}

/// What [`Run::finish`] made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Joined {
    /// The super-frame's headers; `total_len` counts one header and the payload of all.
    pub parsed: Parsed,
    /// Packets joined, 2 or more.
    pub packets: u32,
    /// Payload bytes of every packet but the last.
    pub segment_size: u16,
    /// Bytes from the start of the layer-4 header to its checksum field, for a partial checksum's metadata.
    pub checksum_offset: u16,
}

impl Run {
    /// A run of the one packet `bytes`, when others could follow it: whole TCP with ACK and no flags but PSH, FIN, ECE,
    /// or whole UDP with a checksum; with payload, without IPv4 options or IPv6 extension headers, and without bytes
    /// after its end.
    #[must_use]
    #[inline]
    pub fn start(bytes: &[u8], parsed: &Parsed) -> Option<Self> {
        let segment_size = candidate(bytes, parsed)?;
        let (sequence, identification) = position(bytes, parsed)?;
        Some(Self {
            parsed: *parsed,
            segment_size,
            packets: 1,
            sequence: sequence.wrapping_add(segment_size),
            identification: identification.wrapping_add(1),
            flags: parsed.tcp_flags,
            closed: parsed.tcp_flags & FLAGS_LAST != 0,
        })
    }

    /// Takes `next` into the run that starts with `first` when it continues it: equal headers apart from length,
    /// identification, sequence number, checksum, PSH and FIN; contiguous; no longer than the others, and IPv4
    /// identifications counting up unless DF makes them meaningless (RFC 6864). Returns whether it did.
    #[must_use]
    #[inline]
    pub fn join(&mut self, first: &[u8], next: &[u8], parsed: &Parsed) -> bool {
        let Some(payload_len) = self.continues(first, next, parsed) else {
            return false;
        };
        self.parsed.total_len += payload_len;
        self.packets += 1;
        self.sequence = self.sequence.wrapping_add(payload_len);
        self.identification = self.identification.wrapping_add(1);
        self.flags |= parsed.tcp_flags & FLAGS_LAST;
        self.closed = payload_len < self.segment_size || parsed.tcp_flags & FLAGS_LAST != 0;
        true
    }

    fn continues(&self, first: &[u8], next: &[u8], parsed: &Parsed) -> Option<u32> {
        let (a, b) = (&self.parsed, parsed);
        if self.closed
            || (a.src, a.dst, a.src_port, a.dst_port) != (b.src, b.dst, b.src_port, b.dst_port)
            || (a.protocol, a.l3_len, a.l4_len) != (b.protocol, b.l3_len, b.l4_len)
            || (a.tcp_flags ^ b.tcp_flags) & !FLAGS_LAST != 0
        {
            return None;
        }
        let payload_len = candidate(next, parsed)?;
        let (sequence, identification) = position(next, parsed)?;
        let in_order = match a.protocol {
            Protocol::Tcp => sequence == self.sequence,
            Protocol::Udp | Protocol::Icmp | Protocol::Other(_) => true,
        };
        let counts_up = a.dont_fragment || identification == self.identification;
        let fits = a.total_len + payload_len <= JOINED_LEN_MAX;
        (payload_len <= self.segment_size
            && in_order
            && counts_up
            && fits
            && equal_headers(first, next, parsed))
        .then_some(payload_len)
    }

    /// Packets in the run.
    #[must_use]
    pub const fn packets(&self) -> u32 {
        self.packets
    }

    /// Whether nothing can follow any more.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Makes the first packet's header stand for the run: its lengths, the last packet's PSH and FIN, a complete IPv4
    /// header checksum, and a partial layer-4 checksum (the folded pseudo-header sum for the whole length). `bytes`
    /// must begin with the first packet and reach to the last one's end. `None`, and nothing changed, for a run of one.
    #[must_use]
    pub fn finish(&self, bytes: &mut [u8]) -> Option<Joined> {
        let mut parsed = self.parsed;
        parsed.tcp_flags = self.flags;
        let l3_len = usize::from(parsed.l3_len);
        let total_len = u16::try_from(parsed.total_len).ok()?;
        let segment_size = u16::try_from(self.segment_size).ok()?;
        let checksum_at = parsed.checksum_offset()?;
        let checksum_offset = u16::try_from(checksum_at - l3_len).ok()?;
        if self.packets < 2 || bytes.len() < usize::from(total_len) {
            return None;
        }
        match parsed.family {
            Family::V4 => write_u16(bytes, 2, total_len),
            Family::V6 => write_u16(bytes, 4, total_len - 40),
        }
        complete_ipv4_header(bytes, &parsed);
        if parsed.protocol == Protocol::Udp {
            write_u16(bytes, l3_len + 4, total_len - parsed.l3_len);
        } else if let Some(flags) = bytes.get_mut(l3_len + 13) {
            *flags = self.flags;
        }
        partial_l4(bytes, &parsed);
        Some(Joined {
            parsed,
            packets: self.packets,
            segment_size,
            checksum_offset,
        })
    }
}

/// The payload length of a packet that may be joined to others.
#[inline]
fn candidate(bytes: &[u8], parsed: &Parsed) -> Option<u32> {
    let plain_l3_len = match parsed.family {
        Family::V4 => 20,
        Family::V6 => 40,
    };
    if parsed.fragment != Fragment::Whole
        || parsed.l3_len != plain_l3_len
        || parsed.total_len as usize != bytes.len()
        || !verify_ipv4_header(bytes, parsed)
    {
        return None;
    }
    let l3_len = usize::from(parsed.l3_len);
    let allowed = match parsed.protocol {
        Protocol::Tcp => {
            parsed.tcp_flags & tcp_flag::ACK != 0 && parsed.tcp_flags & !FLAGS_JOINED == 0
        }
        Protocol::Udp => {
            read_u16(bytes, l3_len + 4).is_some_and(|len| usize::from(len) == bytes.len() - l3_len)
                && read_u16(bytes, l3_len + 6).is_some_and(|checksum| checksum != 0)
        }
        Protocol::Icmp | Protocol::Other(_) => false,
    };
    let payload_len = u32::try_from(parsed.payload_len()).ok()?;
    (allowed && payload_len > 0).then_some(payload_len)
}

/// The TCP sequence number and the IPv4 identification; 0 where there is none.
#[inline]
fn position(bytes: &[u8], parsed: &Parsed) -> Option<(u32, u16)> {
    let sequence = match parsed.protocol {
        Protocol::Tcp => {
            let field = bytes.get(usize::from(parsed.l3_len) + 4..)?.first_chunk()?;
            u32::from_be_bytes(*field)
        }
        Protocol::Udp | Protocol::Icmp | Protocol::Other(_) => 0,
    };
    let identification = match parsed.family {
        Family::V4 => read_u16(bytes, 4)?,
        Family::V6 => 0,
    };
    Some((sequence, identification))
}

/// Whether the headers are equal where they must be; addresses, ports and flags are compared before.
#[inline]
fn equal_headers(first: &[u8], next: &[u8], parsed: &Parsed) -> bool {
    let l4 = usize::from(parsed.l3_len);
    let equal = |from: usize, to: usize| matches!((first.get(from..to), next.get(from..to)), (Some(a), Some(b)) if a == b);
    let l3_equal = match parsed.family {
        // Version and service; flags and offset, hop limit, protocol.
        Family::V4 => equal(0, 2) && equal(6, 10),
        // Version, class and flow label; next header and hop limit.
        Family::V6 => equal(0, 4) && equal(6, 8),
    };
    l3_equal
        && match parsed.protocol {
            // Acknowledgment and offset; window; urgent pointer and options.
            Protocol::Tcp => {
                equal(l4 + 8, l4 + 13)
                    && equal(l4 + 14, l4 + 16)
                    && equal(l4 + 18, parsed.header_len())
            }
            Protocol::Udp => true,
            Protocol::Icmp | Protocol::Other(_) => false,
        }
}
