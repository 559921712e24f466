//! The kernel: its version, how it was built, and what of it can be used here.

use super::root::Root;
use flate2::read::GzDecoder;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};

#[derive(Clone, Debug, Default)]
pub(crate) struct Kernel {
    /// As `uname -r` says it.
    pub(crate) release: String,
    /// How it was built, `CONFIG_X` to `y`, `m` or a value; `None` when no file tells.
    pub(crate) options: Option<BTreeMap<String, String>>,
    /// Why `/dev/net/tun` cannot be opened, if it cannot.
    pub(crate) tun_refused: Option<String>,
    /// Whether `/sys/fs/bpf` is a BPF file system.
    pub(crate) bpf_file_system: bool,
}

impl Kernel {
    pub(crate) fn read(root: &Root) -> Self {
        let release = root.text("proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            options: options(root, &release),
            tun_refused: tun_refused(root),
            bpf_file_system: root
                .text("proc/self/mounts")
                .is_some_and(|mounts| mounts.lines().any(is_bpf_mount)),
            release,
        }
    }

    /// Major and minor number.
    pub(crate) fn version(&self) -> Option<(u32, u32)> {
        let mut numbers = self.release.split(|c: char| !c.is_ascii_digit());
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }
}

fn is_bpf_mount(line: &str) -> bool {
    let mut words = line.split_whitespace().skip(1);
    words.next() == Some("/sys/fs/bpf") && words.next() == Some("bpf")
}

/// Opening makes no device; only naming one would.
fn tun_refused(root: &Root) -> Option<String> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .open(root.path("dev/net/tun"));
    opened.err().map(|error| error.to_string())
}

fn options(root: &Root, release: &str) -> Option<BTreeMap<String, String>> {
    let text = compressed(root).or_else(|_| {
        let path = root.path(format!("boot/config-{release}"));
        std::fs::read_to_string(path).or_else(|_| {
            std::fs::read_to_string(root.path(format!("lib/modules/{release}/config")))
        })
    });
    let options = text.ok()?;
    Some(
        options
            .lines()
            .filter_map(|line| line.split_once('='))
            .filter(|(name, _)| name.starts_with("CONFIG_"))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
    )
}

fn compressed(root: &Root) -> io::Result<String> {
    /// A configuration has some 300 KB.
    const LENGTH_MAX: u64 = 8 << 20;
    let mut text = String::new();
    GzDecoder::new(File::open(root.path("proc/config.gz"))?)
        .take(LENGTH_MAX)
        .read_to_string(&mut text)?;
    Ok(text)
}
