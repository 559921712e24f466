//! The plain format: the raw inner packet and nothing else, as Oakestra's NetManagers speak it.

use crate::format::Format;
use sluice_wire::DropReason;

/// Checks a received datagram: its payload is the inner packet as it is.
///
/// # Errors
/// `Empty` and `NotIp`; also for the encrypted format: what comes in it, the worker opens before.
#[inline]
pub fn open(datagram: &[u8]) -> Result<(), DropReason> {
    match Format::of(datagram)? {
        Format::Plain => Ok(()),
        Format::WireGuard { .. } => Err(DropReason::NotIp),
    }
}

/// Checks a packet to be sent: the datagram is the inner packet as it is.
///
/// # Errors
/// `Empty`: an empty datagram crashes a NetManager, so none ever leaves.
#[inline]
pub const fn seal(packet: &[u8]) -> Result<(), DropReason> {
    if packet.is_empty() {
        return Err(DropReason::Empty);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ip_comes_in_and_nothing_empty_goes_out() {
        assert_eq!(open(&[0x45, 0]), Ok(()));
        assert_eq!(open(&[0x60]), Ok(()));
        assert_eq!(open(&[4, 0, 0, 0]), Err(DropReason::NotIp));
        assert_eq!(open(&[]), Err(DropReason::Empty));
        assert_eq!(seal(&[]), Err(DropReason::Empty));
        assert_eq!(seal(&[0x45]), Ok(()));
    }
}
