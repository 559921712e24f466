//! Which tunnel format a datagram is in, by its first byte.

use sluice_wire::DropReason;

/// What the first byte of a datagram on the tunnel port says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// A raw IPv4 or IPv6 packet.
    Plain,
    /// A WireGuard message: handshake initiation (1), response (2), cookie (3) or transport data (4).
    WireGuard { message: u8 },
}

impl Format {
    /// # Errors
    /// `Empty` for a datagram without bytes, `NotIp` for a first byte of no format.
    #[inline]
    pub fn of(datagram: &[u8]) -> Result<Self, DropReason> {
        match datagram.first() {
            None => Err(DropReason::Empty),
            Some(first) => match first >> 4 {
                4 | 6 => Ok(Self::Plain),
                0 if (1..=4).contains(first) => Ok(Self::WireGuard { message: *first }),
                _ => Err(DropReason::NotIp),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_decides() {
        assert_eq!(Format::of(&[]), Err(DropReason::Empty));
        for first in 0..=255 {
            let expected = match first {
                0x40..=0x4f | 0x60..=0x6f => Ok(Format::Plain),
                1..=4 => Ok(Format::WireGuard { message: first }),
                _ => Err(DropReason::NotIp),
            };
            assert_eq!(Format::of(&[first, 0]), expected);
        }
    }
}
