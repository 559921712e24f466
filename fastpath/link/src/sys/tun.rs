//! /dev/net/tun: attach a queue to a device, and say what super-frames it may carry.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;

const IFF_TUN: i16 = 0x0001;
const IFF_MULTI_QUEUE: i16 = 0x0100;
const IFF_NO_PI: i16 = 0x1000;
const IFF_VNET_HDR: i16 = 0x4000;

const TUNSETIFF: u64 = 0x4004_54ca;
const TUNSETPERSIST: u64 = 0x4004_54cb;
const TUNSETOFFLOAD: u64 = 0x4004_54d0;

/// What a device accepts and hands over besides plain packets (TUN_F_*).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Offload(u32);

impl Offload {
    /// Partial checksums, TCP super-frames with and without ECN, UDP super-frames.
    pub const FULL: Self = Self(0x01 | 0x02 | 0x04 | 0x08 | 0x20 | 0x40);
    /// Without UDP super-frames: kernels before 6.2.
    pub const TCP: Self = Self(0x01 | 0x02 | 0x04 | 0x08);
    /// Without ECN.
    pub const TCP_NO_ECN: Self = Self(0x01 | 0x02 | 0x04);
    /// Partial checksums only.
    pub const CHECKSUM: Self = Self(0x01);
    /// Plain packets with complete checksums.
    pub const NONE: Self = Self(0);

    /// From most to least; the first that the kernel accepts is used.
    pub const STEPS: [Self; 5] = [
        Self::FULL,
        Self::TCP,
        Self::TCP_NO_ECN,
        Self::CHECKSUM,
        Self::NONE,
    ];

    #[must_use]
    pub const fn tcp(self) -> bool {
        self.0 & 0x02 != 0
    }

    #[must_use]
    pub const fn udp(self) -> bool {
        self.0 & 0x20 != 0
    }
}

/// The kernel's `struct ifreq`, as TUNSETIFF uses it.
#[repr(C)]
struct IfReq {
    name: [u8; libc::IFNAMSIZ],
    flags: i16,
    rest: [u8; 22],
}

impl IfReq {
    fn new(name: &str, flags: i16) -> io::Result<Self> {
        let mut request = Self {
            name: [0; libc::IFNAMSIZ],
            flags,
            rest: [0; 22],
        };
        // One byte stays zero: the kernel reads a C string.
        match request.name.get_mut(..name.len()) {
            Some(place) if name.len() < libc::IFNAMSIZ => place.copy_from_slice(name.as_bytes()),
            Some(_) | None => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "a device name has at most 15 bytes",
                ));
            }
        }
        Ok(request)
    }
}

/// Opens one queue of the TUN device `name`, which is made when it does not exist.
///
/// # Errors
/// Without CAP_NET_ADMIN, without /dev/net/tun, or when a device of that name has another kind.
pub fn attach(name: &str) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    let mut request = IfReq::new(name, IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE)?;
    // SAFETY: the kernel reads and writes one `ifreq`, which `request` is.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF as _, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

/// Makes the device outlive its queues, or not.
///
/// # Errors
/// When `queue` is not attached to a device.
pub fn set_persistent(queue: &File, persistent: bool) -> io::Result<()> {
    // SAFETY: the argument is an integer.
    let result = unsafe {
        libc::ioctl(
            queue.as_raw_fd(),
            TUNSETPERSIST as _,
            libc::c_ulong::from(persistent),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Asks for `offload` and steps down until the kernel accepts; returns what it accepted.
///
/// # Errors
/// When it does not even accept none, which means that `queue` is not a TUN queue.
pub fn set_offload(queue: &File, most: Offload) -> io::Result<Offload> {
    let mut refused = io::Error::from_raw_os_error(libc::EINVAL);
    for step in Offload::STEPS {
        if step.0 & !most.0 != 0 {
            continue;
        }
        // SAFETY: the argument is an integer.
        let result = unsafe {
            libc::ioctl(
                queue.as_raw_fd(),
                TUNSETOFFLOAD as _,
                libc::c_ulong::from(step.0),
            )
        };
        if result == 0 {
            return Ok(step);
        }
        refused = io::Error::last_os_error();
    }
    Err(refused)
}

/// Whether a device `name` exists, is up, and has a queue attached (by this process or another).
///
/// # Errors
/// When no socket can be made, or the name is too long.
pub fn in_use(name: &str) -> io::Result<bool> {
    let socket = super::udp::Socket::new()?;
    let mut value = EthtoolValue {
        command: ETHTOOL_GLINK,
        data: 0,
    };
    let mut request = EthtoolRequest {
        name: IfReq::new(name, 0)?.name,
        value: &raw mut value,
        rest: [0; 24 - size_of::<usize>()],
    };
    // IFF_RUNNING would say it too, but up to a second late; this asks the device itself.
    // SAFETY: the kernel reads one `ifreq`, which `request` is, and reads and writes `value` behind it.
    let result = unsafe {
        libc::ioctl(
            socket.as_fd().as_raw_fd(),
            libc::SIOCETHTOOL as _,
            &raw mut request,
        )
    };
    if result < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            // No such device, or one that is no TUN: attaching says so.
            Some(libc::ENODEV | libc::EOPNOTSUPP) => Ok(false),
            Some(_) | None => Err(error),
        };
    }
    // A TUN device has a carrier exactly while a queue is attached.
    Ok(value.data != 0)
}

const ETHTOOL_GLINK: u32 = 0x0a;

/// The kernel's `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// The kernel's `struct ifreq`, as SIOCETHTOOL uses it.
#[repr(C)]
struct EthtoolRequest {
    name: [u8; libc::IFNAMSIZ],
    value: *mut EthtoolValue,
    rest: [u8; 24 - size_of::<usize>()],
}
