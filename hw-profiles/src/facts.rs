//! What an interface and its machine are, read from sysfs, procfs and the device tree at exchangeable places.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A PCI device's vendor and device number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PciId {
    pub vendor: u16,
    pub device: u16,
}

impl fmt::Display for PciId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:04x}", self.vendor, self.device)
    }
}

/// What is known of an interface and the machine it is in.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Facts {
    pub interface: String,
    /// The kernel driver, or the kind of a virtual device.
    pub driver: Option<String>,
    pub pci: Option<PciId>,
    /// The device tree's model: boards have one, servers do not.
    pub model: Option<String>,
    /// As `uname -m` says; empty when it is not known.
    pub machine: String,
    pub memory_mib: Option<u64>,
    pub kernel: Kernel,
}

/// What decides about AF_XDP besides the NIC. `None` where nobody could be asked.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Kernel {
    /// The kernel has AF_XDP sockets (`CONFIG_XDP_SOCKETS`).
    pub xdp_sockets: Option<bool>,
    /// The process may load programs and open such sockets.
    pub may_load: Option<bool>,
    /// The driver's XDP features, the bits of `enum netdev_xdp_act` (Linux 6.3 and newer).
    pub xdp_features: Option<u64>,
}

impl Kernel {
    /// `NETDEV_XDP_ACT_BASIC`: a program can pass, drop and abort in the driver.
    pub const XDP_BASIC: u64 = 1;
    /// `NETDEV_XDP_ACT_REDIRECT`: a program can redirect, so also to a socket.
    pub const XDP_REDIRECT: u64 = 2;
    /// `NETDEV_XDP_ACT_XSK_ZEROCOPY`.
    pub const XDP_ZERO_COPY: u64 = 8;

    /// Native XDP that can redirect; `None` when the kernel does not say.
    #[must_use]
    pub fn native_xdp(&self) -> Option<bool> {
        let needed = Self::XDP_BASIC | Self::XDP_REDIRECT;
        self.xdp_features.map(|bits| bits & needed == needed)
    }

    /// Zero copy; `None` when the kernel does not say.
    #[must_use]
    pub fn zero_copy(&self) -> Option<bool> {
        self.xdp_features
            .map(|bits| bits & Self::XDP_ZERO_COPY != 0)
    }
}

/// Why an interface cannot be looked at.
#[derive(Debug, Error)]
pub enum FactsError {
    #[error("no interface `{interface}` in {path}; `ip link` lists those there are", path = path.display())]
    Missing { interface: String, path: PathBuf },
    #[error("{path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
}

impl Facts {
    /// What `proc` (`/proc` but for tests) says of the machine; nothing of the interface but its name.
    #[must_use]
    pub fn of_machine(proc: &Path, interface: &str) -> Self {
        Self {
            interface: interface.to_owned(),
            model: text(&proc.join("device-tree/model")),
            machine: text(&proc.join("sys/kernel/arch")).unwrap_or_default(),
            memory_mib: memory_mib(&proc.join("meminfo")),
            ..Self::default()
        }
    }

    /// Reads what `sys` and `proc` (`/sys` and `/proc` but for tests) say. Virtual devices have no driver there: the
    /// caller may know it from elsewhere, as it may know [`Facts::kernel`].
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn read(sys: &Path, proc: &Path, interface: &str) -> Result<Self, FactsError> {
        let class = sys.join("class/net");
        let net = class.join(interface);
        if !net.exists() {
            return Err(FactsError::Missing {
                interface: interface.to_owned(),
                path: class,
            });
        }
        let device = net.join("device");
        let driver = match fs::read_link(device.join("driver")) {
            Ok(link) => link
                .file_name()
                .map(|name| name.to_string_lossy().into_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => {
                return Err(FactsError::Read {
                    path: device.join("driver"),
                    source,
                });
            }
        };
        Ok(Self {
            // A virtio device sits on a bus of its own below the PCI device.
            pci: pci(&device).or_else(|| pci(&device.join(".."))),
            driver,
            ..Self::of_machine(proc, interface)
        })
    }
}

fn pci(device: &Path) -> Option<PciId> {
    // Other buses have files of these names too, with other numbers: only PCI's own directory has a class code.
    if !device.join("class").exists() {
        return None;
    }
    let id = |name: &str| {
        let text = text(&device.join(name))?;
        u16::from_str_radix(text.strip_prefix("0x")?, 16).ok()
    };
    Some(PciId {
        vendor: id("vendor")?,
        device: id("device")?,
    })
}

/// A file's text without what stands at its ends; the device tree ends texts with a zero byte.
fn text(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim_end_matches('\0').trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn memory_mib(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024)
}
