//! The packets of simulated applications: UDP, and TCP as far as gateways look at it.

use sluice_wire::checksum::{complete_ipv4_header, complete_l4};
use sluice_wire::tcp_flag::{ACK, RST, SYN};
use sluice_wire::{DropReason, Ip, Parsed, Protocol, parse};

/// The port that every simulated instance echoes on.
pub const ECHO_PORT: u16 = 7;

/// What applications see of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Packet {
    pub src: (Ip, u16),
    pub dst: (Ip, u16),
    pub content: Content,
    /// Which flow, which of its requests, and in a reply also who answers.
    pub words: [u32; 3],
}

/// The kind of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Content {
    Udp,
    Syn,
    SynAck,
    Data,
    Reset,
}

/// IPv6 without extension headers, IPv4 without options.
const fn l3_len(is_v4: bool) -> usize {
    if is_v4 { 20 } else { 40 }
}

impl Packet {
    /// The bytes, with every checksum.
    ///
    /// # Panics
    /// When the addresses are of two families.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let is_v4 = self.src.0.is_v4();
        assert_eq!(is_v4, self.dst.0.is_v4(), "one family");
        let is_tcp = self.content != Content::Udp;
        let l4_len: u16 = if is_tcp { 20 } else { 8 };
        let payload: Vec<u8> = self
            .words
            .iter()
            .flat_map(|word| word.to_be_bytes())
            .collect();
        let body_len = l4_len + 12;
        let number: u8 = if is_tcp { 6 } else { 17 };
        let mut bytes = Vec::with_capacity(72);
        if is_v4 {
            bytes.extend([0x45, 0]);
            bytes.extend((20 + body_len).to_be_bytes());
            bytes.extend([0, 0, 0x40, 0, 64, number, 0, 0]);
            bytes.extend(self.src.0.octets_v4());
            bytes.extend(self.dst.0.octets_v4());
        } else {
            bytes.extend([0x60, 0, 0, 0]);
            bytes.extend(body_len.to_be_bytes());
            bytes.extend([number, 64]);
            bytes.extend(self.src.0.octets_v6());
            bytes.extend(self.dst.0.octets_v6());
        }
        bytes.extend(self.src.1.to_be_bytes());
        bytes.extend(self.dst.1.to_be_bytes());
        if is_tcp {
            let flags = match self.content {
                Content::Syn => SYN,
                Content::SynAck => SYN | ACK,
                Content::Reset => RST,
                Content::Data | Content::Udp => ACK,
            };
            bytes.extend([0; 8]);
            bytes.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        } else {
            bytes.extend(body_len.to_be_bytes());
            bytes.extend([0, 0]);
        }
        bytes.extend(payload);
        let parsed = parse(&bytes).expect("it was made with care");
        complete_ipv4_header(&mut bytes, &parsed);
        complete_l4(&mut bytes, &parsed);
        bytes
    }

    /// `None` for what no application of ours sends, such as ICMP.
    ///
    /// # Errors
    /// When it cannot be parsed.
    pub fn read(bytes: &[u8]) -> Result<Option<Self>, DropReason> {
        let parsed: Parsed = parse(bytes)?;
        let content = match parsed.protocol {
            Protocol::Udp => Content::Udp,
            Protocol::Tcp if parsed.tcp_flags & RST != 0 => Content::Reset,
            Protocol::Tcp if parsed.tcp_flags & SYN == 0 => Content::Data,
            Protocol::Tcp if parsed.tcp_flags & ACK == 0 => Content::Syn,
            Protocol::Tcp => Content::SynAck,
            Protocol::Icmp | Protocol::Other(_) => return Ok(None),
        };
        let payload = bytes.get(l3_len(parsed.src.is_v4()) + usize::from(parsed.l4_len)..);
        let word = |at: usize| {
            let word = payload.and_then(|payload| payload.get(4 * at..4 * at + 4));
            word.map_or(0, |word| {
                word.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte))
            })
        };
        Ok(Some(Self {
            src: (parsed.src, parsed.src_port),
            dst: (parsed.dst, parsed.dst_port),
            content,
            words: [word(0), word(1), word(2)],
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_wire::checksum::{verify_ipv4_header, verify_l4};

    #[test]
    fn what_is_built_is_read_and_its_checksums_hold() {
        let v4 = (Ip::v4([10, 18, 0, 2]), Ip::v4([10, 30, 0, 1]));
        let v6 = (Ip::v6([1; 16]), Ip::v6([2; 16]));
        for (src, dst) in [v4, v6] {
            for content in [
                Content::Udp,
                Content::Syn,
                Content::SynAck,
                Content::Data,
                Content::Reset,
            ] {
                let packet = Packet {
                    src: (src, 4000),
                    dst: (dst, ECHO_PORT),
                    content,
                    words: [1, 2, 3_000_000_000],
                };
                let bytes = packet.build();
                assert_eq!(Packet::read(&bytes), Ok(Some(packet)));
                let parsed = parse(&bytes).expect("a packet");
                assert!(verify_l4(&bytes, &parsed));
                assert!(!src.is_v4() || verify_ipv4_header(&bytes, &parsed));
            }
        }
    }
}
