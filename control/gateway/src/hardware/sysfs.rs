//! sysfs as this process's network namespace sees it.
//!
//! A mounted sysfs shows the interfaces of the namespace in which it was mounted. A process in another one finds a
//! stranger's `eth0` there, and would change it. So a sysfs of our own is opened, mounted nowhere.

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A sysfs that shows our interfaces, or none.
#[derive(Debug)]
pub(super) struct Sysfs {
    path: PathBuf,
    /// Keeps the mount alive.
    _mount: Option<OwnedFd>,
}

impl Sysfs {
    /// Our own mount; without the privilege for one, `/sys` if it shows the interface with that index and address.
    pub(super) fn open(interface: &str, index: u32, mac: &str) -> Option<Self> {
        if let Ok(mount) = own() {
            return Some(Self {
                path: PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd())),
                _mount: Some(mount),
            });
        }
        let net = Path::new("/sys/class/net").join(interface);
        let says = |file: &str, expected: &str| {
            fs::read_to_string(net.join(file)).is_ok_and(|text| text.trim() == expected)
        };
        (says("ifindex", &index.to_string()) && says("address", mac)).then(|| Self {
            path: PathBuf::from("/sys"),
            _mount: None,
        })
    }

    /// Where `/sys` would be.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn own() -> rustix::io::Result<OwnedFd> {
    let context = fsopen("sysfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )
}
