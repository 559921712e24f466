//! TUN and TAP devices whose other end is a file of ours.

use super::error::LabError;
use super::netns::NetNs;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

/// What the file carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// IP packets.
    Tun,
    /// Ethernet frames.
    Tap,
}

/// `struct ifreq` as TUNSETIFF reads it: the name, the flags, padding.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    padding: [u8; 22],
}

/// Makes the device, which goes with the file. It is down; the file has no header before its packets and does not wait.
///
/// # Errors
/// When the kernel refuses.
pub fn open(namespace: &NetNs, kind: Kind, name: &str) -> Result<File, LabError> {
    let device = name.to_owned();
    namespace
        .run(move || {
            let file = File::options()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open("/dev/net/tun")?;
            set_interface(&file, kind, &device)?;
            Ok(file)
        })
        .map_err(LabError::socket(format!(
            "TUN device {name} in {}",
            namespace.name()
        )))
}

#[expect(
    unsafe_code,
    reason = "a TUN device is made by an ioctl, which has no safe form"
)]
fn set_interface(file: &File, kind: Kind, name: &str) -> io::Result<()> {
    let flag = match kind {
        Kind::Tun => libc::IFF_TUN,
        Kind::Tap => libc::IFF_TAP,
    };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "all flags are below 0x8000"
    )]
    let mut request = InterfaceRequest {
        name: [0; libc::IFNAMSIZ],
        flags: (flag | libc::IFF_NO_PI) as libc::c_short,
        padding: [0; 22],
    };
    let len = name.len().min(libc::IFNAMSIZ - 1);
    request.name[..len].copy_from_slice(&name.as_bytes()[..len]);
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, 40 bytes, which `request` is; the descriptor is open.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
