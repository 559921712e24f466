//! `struct virtio_net_hdr` (10 bytes, native byte order): how a TUN queue says what a super-frame is.

use sluice_memory::{Checksum, Frame, Gso, GsoKind};
use sluice_wire::DropReason;

/// Its size; the kernel's default (TUNSETVNETHDRSZ is never called).
pub const VNET_HEADER_LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// The header's fields.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct VnetHeader {
    flags: u8,
    gso_type: u8,
    header_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
}

impl VnetHeader {
    #[must_use]
    pub const fn parse(bytes: [u8; VNET_HEADER_LEN]) -> Self {
        let [flags, gso_type, a, b, c, d, e, f, g, h] = bytes;
        Self {
            flags,
            gso_type,
            header_len: u16::from_ne_bytes([a, b]),
            gso_size: u16::from_ne_bytes([c, d]),
            csum_start: u16::from_ne_bytes([e, f]),
            csum_offset: u16::from_ne_bytes([g, h]),
        }
    }

    #[must_use]
    pub const fn emit(self) -> [u8; VNET_HEADER_LEN] {
        let [a, b] = self.header_len.to_ne_bytes();
        let [c, d] = self.gso_size.to_ne_bytes();
        let [e, f] = self.csum_start.to_ne_bytes();
        let [g, h] = self.csum_offset.to_ne_bytes();
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h]
    }

    /// Writes what the header says into `frame`'s metadata.
    ///
    /// # Errors
    /// `Malformed` when it contradicts the packet. The kernel sends no such header.
    pub fn describe(self, frame: &mut Frame) -> Result<(), DropReason> {
        frame.checksum = if self.flags & NEEDS_CSUM != 0 {
            let field = usize::from(self.csum_start) + usize::from(self.csum_offset);
            if field + 2 > frame.len() {
                return Err(DropReason::Malformed);
            }
            Checksum::Partial {
                start: self.csum_start,
                offset: self.csum_offset,
            }
        } else if self.flags & DATA_VALID != 0 {
            Checksum::Verified
        } else {
            Checksum::Unknown
        };
        let kind = match self.gso_type & !GSO_ECN {
            GSO_NONE => {
                frame.gso = None;
                return Ok(());
            }
            GSO_TCPV4 => GsoKind::Tcp4,
            GSO_TCPV6 => GsoKind::Tcp6,
            GSO_UDP_L4 => GsoKind::Udp,
            _ => return Err(DropReason::Malformed),
        };
        // `header_len` is only a hint (the linear part of the kernel's buffer); and a super-frame is always partial.
        let Checksum::Partial { start, .. } = frame.checksum else {
            return Err(DropReason::Malformed);
        };
        let l4_len = match kind {
            GsoKind::Udp => 8,
            GsoKind::Tcp4 | GsoKind::Tcp6 => {
                let offset_byte = frame.bytes().get(usize::from(start) + 12);
                offset_byte.map_or(0, |byte| u16::from(byte >> 4) * 4)
            }
        };
        let header_len = start.checked_add(l4_len).ok_or(DropReason::Malformed)?;
        if l4_len < 8 || self.gso_size == 0 || usize::from(header_len) > frame.len() {
            return Err(DropReason::Malformed);
        }
        frame.gso = Some(Gso {
            kind,
            segment_size: self.gso_size,
            header_len,
        });
        Ok(())
    }

    /// The header for writing `frame`.
    #[must_use]
    pub fn of(frame: &Frame) -> Self {
        let mut header = Self::default();
        match frame.checksum {
            Checksum::Unknown => {}
            Checksum::Verified => header.flags = DATA_VALID,
            Checksum::Partial { start, offset } => {
                header.flags = NEEDS_CSUM;
                header.csum_start = start;
                header.csum_offset = offset;
            }
        }
        if let Some(gso) = frame.gso {
            header.gso_type = match gso.kind {
                GsoKind::Tcp4 => GSO_TCPV4,
                GsoKind::Tcp6 => GSO_TCPV6,
                GsoKind::Udp => GSO_UDP_L4,
            };
            // CWR belongs to the first segment only (RFC 3168 section 6.1.2); without this flag the kernel clears it.
            let flags = usize::from(header.csum_start) + 13;
            if gso.kind != GsoKind::Udp
                && frame
                    .bytes()
                    .get(flags)
                    .is_some_and(|flags| flags & 0x80 != 0)
            {
                header.gso_type |= GSO_ECN;
            }
            header.header_len = gso.header_len;
            header.gso_size = gso.segment_size;
        }
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_memory::Pool;

    fn frame(pool: &mut Pool, bytes: &[u8]) -> Frame {
        let mut frame = Frame::new(pool.take().unwrap());
        frame.fill(bytes);
        frame
    }

    #[test]
    fn parse_and_emit_are_inverse() {
        let bytes = [1, 0x81, 54, 0, 0x64, 5, 20, 0, 16, 0];
        assert_eq!(VnetHeader::parse(bytes).emit(), bytes);
    }

    #[test]
    fn a_tcp_super_frame_keeps_its_description() {
        let mut pool = Pool::new(1, 4000).unwrap();
        let mut packet = vec![0_u8; 3000];
        packet[20 + 12] = 8 << 4;
        packet[20 + 13] = 0x90;
        let mut frame = frame(&mut pool, &packet);
        let header = VnetHeader {
            flags: NEEDS_CSUM,
            gso_type: GSO_TCPV4 | GSO_ECN,
            header_len: 200,
            gso_size: 1380,
            csum_start: 20,
            csum_offset: 16,
        };
        header.describe(&mut frame).unwrap();
        assert_eq!(
            frame.checksum,
            Checksum::Partial {
                start: 20,
                offset: 16
            }
        );
        let gso = frame.gso.unwrap();
        assert_eq!(
            (gso.kind, gso.segment_size, gso.header_len),
            (GsoKind::Tcp4, 1380, 52)
        );
        let mut expected = header;
        expected.header_len = 52;
        assert_eq!(VnetHeader::of(&frame), expected);
    }

    #[test]
    fn contradictions_are_malformed() {
        let mut pool = Pool::new(1, 100).unwrap();
        let mut frame = frame(&mut pool, &[0; 40]);
        let good = VnetHeader {
            flags: NEEDS_CSUM,
            gso_type: GSO_UDP_L4,
            header_len: 28,
            gso_size: 10,
            csum_start: 20,
            csum_offset: 6,
        };
        for (what, bad) in [
            ("no checksum", VnetHeader { flags: 0, ..good }),
            (
                "size 0",
                VnetHeader {
                    gso_size: 0,
                    ..good
                },
            ),
            (
                "start past the end",
                VnetHeader {
                    csum_start: 39,
                    ..good
                },
            ),
            (
                "overflow",
                VnetHeader {
                    csum_start: u16::MAX,
                    csum_offset: u16::MAX,
                    ..good
                },
            ),
            (
                "unknown kind",
                VnetHeader {
                    gso_type: 3,
                    ..good
                },
            ),
            (
                "no TCP header",
                VnetHeader {
                    gso_type: GSO_TCPV6,
                    ..good
                },
            ),
        ] {
            assert_eq!(
                bad.describe(&mut frame),
                Err(DropReason::Malformed),
                "{what}"
            );
        }
        good.describe(&mut frame).unwrap();
    }

    #[test]
    fn any_bytes_describe_or_are_refused() {
        bolero::check!()
            .with_type::<([u8; VNET_HEADER_LEN], [u8; 60])>()
            .for_each(|(header, packet)| {
                POOL.with_borrow_mut(|pool| {
                    let mut frame = frame(pool, packet);
                    if VnetHeader::parse(*header).describe(&mut frame).is_ok() {
                        let _ = VnetHeader::of(&frame).emit();
                    }
                    pool.release(frame.into_buffer());
                });
            });
    }

    thread_local! {
        static POOL: std::cell::RefCell<Pool> = std::cell::RefCell::new(Pool::new(1, 200).unwrap());
    }
}
