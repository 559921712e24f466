//! What `ethtool` knows of a device: its driver and queues, how packets spread over them, and whether its stack leaves
//! checksums unfinished.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `ETHTOOL_GTXCSUM`, `ETHTOOL_STXCSUM` and `ETHTOOL_GCHANNELS` of linux/ethtool.h.
const GET_TX_CHECKSUM: u32 = 0x16;
const SET_TX_CHECKSUM: u32 = 0x17;
const GET_CHANNELS: u32 = 0x3c;
/// linux/sockios.h.
const SIOCETHTOOL: libc::Ioctl = 0x8946;

const GET_DRIVER: u32 = 0x03;
const GET_HASH: u32 = 0x29;
const SET_HASH: u32 = 0x2a;
const GET_INDIRECTION: u32 = 0x38;
const SET_INDIRECTION: u32 = 0x39;

/// Packet fields of a receive hash: `RXH_IP_SRC | RXH_IP_DST` and `RXH_L4_B_0_1 | RXH_L4_B_2_3` of linux/ethtool.h.
pub const HASH_ADDRESSES: u64 = 1 << 4 | 1 << 5;
pub const HASH_PORTS: u64 = 1 << 6 | 1 << 7;

/// Entries of an indirection table at most; no driver of Linux 6.18 has more.
const INDIRECTION_MAX: usize = 4096;

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

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 4 * 32 + 12 + 5 * 4],
}

/// `struct ethtool_rxnfc` up to the field that hash commands use; the kernel accepts this length.
#[repr(C)]
struct FlowHash {
    command: u32,
    flow_type: u32,
    fields: u64,
}

/// `struct ethtool_rxfh_indir`: as many rings as `size` says.
#[repr(C)]
struct Indirection {
    command: u32,
    size: u32,
    rings: [u32; INDIRECTION_MAX],
}

/// Tunnel packets, by the family around them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum FlowType {
    UdpV4 = 0x02,
    UdpV6 = 0x06,
}

/// The name of the driver, like `ice` or `veth`.
///
/// # Errors
/// When there is no such device, or it has no driver to name.
pub fn driver(device: &str) -> io::Result<String> {
    let mut info = DriverInfo {
        command: GET_DRIVER,
        driver: [0; 32],
        rest: [0; 160],
    };
    call(device, &mut info)?;
    let end = info.driver.iter().position(|&byte| byte == 0);
    let name = &info.driver[..end.unwrap_or(info.driver.len())];
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// The packet fields that choose a receive queue ([`HASH_ADDRESSES`], [`HASH_PORTS`] and others).
///
/// # Errors
/// When the driver cannot say.
pub fn hash_fields(device: &str, flow_type: FlowType) -> io::Result<u64> {
    let mut hash = FlowHash {
        command: GET_HASH,
        flow_type: flow_type as u32,
        fields: 0,
    };
    call(device, &mut hash)?;
    Ok(hash.fields)
}

/// Sets what [`hash_fields`] reads.
///
/// # Errors
/// When the driver refuses, or without CAP_NET_ADMIN.
pub fn set_hash_fields(device: &str, flow_type: FlowType, fields: u64) -> io::Result<()> {
    let mut hash = FlowHash {
        command: SET_HASH,
        flow_type: flow_type as u32,
        fields,
    };
    call(device, &mut hash)
}

/// The table that leads from hashes to receive queues.
///
/// # Errors
/// When the driver has none.
pub fn indirection(device: &str) -> io::Result<Vec<u32>> {
    let mut table = Indirection {
        command: GET_INDIRECTION,
        size: 0,
        rings: [0; INDIRECTION_MAX],
    };
    // With size 0 the kernel only says the size.
    call(device, &mut table)?;
    let size = table.size as usize;
    if size > INDIRECTION_MAX {
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    }
    call(device, &mut table)?;
    Ok(table.rings[..size].to_vec())
}

/// Sets what [`indirection`] reads; an empty table is the driver's default, equal shares.
///
/// # Errors
/// When the driver refuses, without CAP_NET_ADMIN, or when the table is longer than any driver's.
pub fn set_indirection(device: &str, rings: &[u32]) -> io::Result<()> {
    let mut table = Indirection {
        command: SET_INDIRECTION,
        size: u32::try_from(rings.len()).unwrap_or(u32::MAX),
        rings: [0; INDIRECTION_MAX],
    };
    let Some(place) = table.rings.get_mut(..rings.len()) else {
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    };
    place.copy_from_slice(rings);
    call(device, &mut table)
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
    fn structs_are_as_long_as_the_kernel_s() {
        assert_eq!(size_of::<DriverInfo>(), 196);
        assert_eq!(size_of::<FlowHash>(), 16);
        assert_eq!(std::mem::offset_of!(Indirection, rings), 8);
    }

    #[test]
    fn a_device_without_queues_to_choose_from_says_so() {
        assert!(indirection("lo").is_err());
        assert!(hash_fields("lo", FlowType::UdpV4).is_err());
        assert!(driver("sluice-none").is_err());
        let error = set_indirection("lo", &[0; INDIRECTION_MAX + 1]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::E2BIG));
    }

    #[test]
    fn loopback_answers_and_what_is_absent_is_an_error() {
        assert!(tx_checksum("lo").unwrap());
        let error = tx_checksum("sluice-none").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        let error = tx_checksum("a-name-that-is-too-long").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }
}
