//! Finds the real programs: unpacked under `target/tools` by the build, built under `target/ci-tools`, or on the path.

use super::error::LabError;
use std::env;
use std::path::{Path, PathBuf};

/// Programs and the Debian packages that have them.
const PACKAGES: [(&str, &str); 16] = [
    ("nginx", "nginx-light"),
    ("curl", "curl"),
    ("iperf3", "iperf3"),
    ("ping", "iputils-ping"),
    ("sha256sum", "coreutils"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("ethtool", "ethtool"),
    ("setpriv", "util-linux"),
    ("iptables", "iptables"),
    ("valgrind", "valgrind"),
    ("callgrind_annotate", "valgrind"),
    ("mosquitto", "mosquitto"),
    ("dnsperf", "dnsperf"),
    ("wireguard-go", "wireguard-go"),
    ("wg", "wireguard-tools"),
];

/// Where the build unpacks packages that must not be installed, and where `.ci/peer` builds programs from crates.io.
const ROOTS: [&str; 2] = ["tools", "ci-tools"];

/// These places, seen from a binary in `target/release` or
/// `target/debug`, and from a test binary in `target/debug/deps`.
fn unpacked() -> impl Iterator<Item = PathBuf> {
    let exe = env::current_exe().unwrap_or_default();
    let mut roots: Vec<PathBuf> = exe
        .ancestors()
        .skip(1)
        .take(4)
        .flat_map(|directory| ROOTS.map(|root| directory.join(root)))
        .collect();
    roots.extend(ROOTS.map(|root| Path::new("target").join(root)));
    roots.into_iter()
}

/// The path of a program.
///
/// # Errors
/// [`LabError::Tool`] with the package to install.
pub fn find(name: &str) -> Result<PathBuf, LabError> {
    let places = ["usr/sbin", "usr/bin", "sbin", "bin"];
    let in_tools = unpacked().flat_map(|root| places.map(|place| root.join(place).join(name)));
    let on_path: Vec<PathBuf> = env::var_os("PATH")
        .map(|path| {
            env::split_paths(&path)
                .map(|place| place.join(name))
                .collect()
        })
        .unwrap_or_default();
    let usual = places.map(|place| Path::new("/").join(place).join(name));
    in_tools
        .chain(on_path)
        .chain(usual)
        .find(|path| path.is_file())
        .ok_or_else(|| LabError::Tool {
            name: name.to_owned(),
            package: PACKAGES
                .iter()
                .find(|(program, _)| *program == name)
                .map_or("of that name", |(_, package)| package),
        })
}

/// The library path that programs unpacked under `target/tools` need, for `LD_LIBRARY_PATH`; empty when there are none.
#[must_use]
pub fn library_path() -> String {
    let multiarch = format!("{}-linux-gnu", env::consts::ARCH);
    let places: Vec<String> = unpacked()
        .flat_map(|root| {
            [
                root.join("usr/lib").join(&multiarch),
                root.join("lib").join(&multiarch),
            ]
        })
        .filter(|place| place.is_dir())
        .filter_map(|place| place.canonicalize().ok())
        .map(|place| place.to_string_lossy().into_owned())
        .collect();
    places.join(":")
}
