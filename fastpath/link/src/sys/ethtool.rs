//! What `ethtool` knows of a device: its queues, and whether its stack leaves checksums unfinished.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `ETHTOOL_GTXCSUM`, `ETHTOOL_STXCSUM` and `ETHTOOL_GCHANNELS` of linux/ethtool.h.
const GET_TX_CHECKSUM: u32 = 0x16;
const SET_TX_CHECKSUM: u32 = 0x17;
const GET_CHANNELS: u32 = 0x3c;
/// linux/sockios.h.
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// `struct ethtool_value`.
#[derive(Default)]
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ethtool_channels`.
#[derive(Default)]
#[repr(C)]
struct Channels {
    command: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// Receive queues in use.
///
/// # Errors
/// EOPNOTSUPP for a device that has no channels: then it has one queue.
pub fn receive_queues(device: &str) -> io::Result<u32> {
    let mut channels = Channels {
        command: GET_CHANNELS,
        ..Channels::default()
    };
    call(device, &mut channels)?;
    Ok((channels.rx + channels.combined).max(1))
}

/// Whether the stack hands packets with unfinished checksums to `device`.
///
/// # Errors
/// When there is no such device.
pub fn tx_checksum(device: &str) -> io::Result<bool> {
    let mut value = Value {
        command: GET_TX_CHECKSUM,
        data: 0,
    };
    call(device, &mut value)?;
    Ok(value.data != 0)
}

/// Makes the stack finish checksums (`false`) or leave them to `device` (`true`).
///
/// # Errors
/// Without CAP_NET_ADMIN, or when the device cannot do otherwise.
pub fn set_tx_checksum(device: &str, offloaded: bool) -> io::Result<()> {
    let mut value = Value {
        command: SET_TX_CHECKSUM,
        data: u32::from(offloaded),
    };
    call(device, &mut value)
}

/// `T` is one of the structs above, whose first field says what the kernel does with it.
fn call<T>(device: &str, argument: &mut T) -> io::Result<()> {
    /// `struct ifreq`: the name, and a union whose largest member is 24 bytes long.
    #[repr(C)]
    struct Request<T> {
        name: [u8; libc::IFNAMSIZ],
        data: *mut T,
        rest: [u8; 16],
    }
    let mut name = [0; libc::IFNAMSIZ];
    let bytes = device.as_bytes();
    // The last byte stays zero.
    let Some(place) = name[..libc::IFNAMSIZ - 1].get_mut(..bytes.len()) else {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    };
    place.copy_from_slice(bytes);
    let mut request = Request {
        name,
        data: std::ptr::from_mut(argument),
        rest: [0; 16],
    };
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just made and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: `request` is an ifreq whose pointer leads to a struct of the size its command says.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_answers_and_what_is_absent_is_an_error() {
        assert!(tx_checksum("lo").unwrap());
        let error = tx_checksum("sluice-none").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        let error = tx_checksum("a-name-that-is-too-long").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }
}
