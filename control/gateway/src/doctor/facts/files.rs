//! Files that matter: the configuration and its tokens, the state directory, the resolver's and Docker's settings.

use super::root::Root;
use crate::config::Config;
use rustix::fs::{Access, access, statvfs};
use sluice_wire::Subnet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A token file that the configuration names.
#[derive(Clone, Debug)]
pub(crate) struct TokenFile {
    pub(crate) key: &'static str,
    pub(crate) path: PathBuf,
    /// Permission bits, or why it cannot be read.
    pub(crate) mode: Result<u32, String>,
}

/// Where the gateway keeps what must survive a restart.
#[derive(Clone, Debug, Default)]
pub(crate) struct StateDir {
    pub(crate) path: PathBuf,
    /// Why nothing can be written there, if nothing can.
    pub(crate) refused: Option<String>,
    /// Lost at the next boot.
    pub(crate) in_memory: bool,
    pub(crate) free_bytes: u64,
}

/// How this host looks names up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resolver {
    /// Sources of `hosts` in nsswitch.conf, in order, with their actions.
    pub(crate) sources: Vec<String>,
    pub(crate) name_servers: Vec<String>,
}

/// The token files of every role.
pub(crate) fn tokens(config: &Config) -> Vec<TokenFile> {
    let named = [
        (
            "gateway.cluster_token_file",
            &config.gateway.cluster_token_file,
        ),
        ("cluster.token_file", &config.cluster.token_file),
        ("cluster.root_token_file", &config.cluster.root_token_file),
        ("root.token_file", &config.root.token_file),
    ];
    named
        .into_iter()
        .filter_map(|(key, path)| {
            let path = path.clone()?;
            let mode = fs::metadata(&path)
                .map(|file| file.permissions().mode() & 0o777)
                .map_err(|error| error.to_string());
            Some(TokenFile { key, path, mode })
        })
        .collect()
}

impl StateDir {
    /// Looks at the directory, or at the nearest one above it that exists; makes nothing.
    pub(crate) fn read(path: &Path) -> Self {
        let existing = path.ancestors().find(|place| place.exists());
        let existing = existing.unwrap_or_else(|| Path::new("/"));
        let refused = if existing.is_dir() {
            access(existing, Access::WRITE_OK | Access::EXEC_OK)
                .err()
                .map(|errno| std::io::Error::from(errno).to_string())
        } else {
            Some(format!("{} is not a directory", existing.display()))
        };
        let space = statvfs(existing).ok();
        Self {
            path: path.to_owned(),
            refused,
            in_memory: in_memory(existing),
            free_bytes: space.map_or(0, |space| space.f_bavail.saturating_mul(space.f_frsize)),
        }
    }
}

fn in_memory(place: &Path) -> bool {
    /// `TMPFS_MAGIC` and `RAMFS_MAGIC` of `include/uapi/linux/magic.h`.
    const MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];
    rustix::fs::statfs(place).is_ok_and(|found| {
        #[expect(
            clippy::useless_conversion,
            reason = "the field's width differs between architectures"
        )]
        let kind = i64::from(found.f_type);
        MEMORY.contains(&kind)
    })
}

impl Resolver {
    pub(crate) fn read(root: &Root) -> Self {
        let switch = root.text("etc/nsswitch.conf").unwrap_or_default();
        let resolv = root.text("etc/resolv.conf").unwrap_or_default();
        let after = |text: &str, key: &str| -> Option<String> {
            let rest = text.trim().strip_prefix(key)?;
            Some(rest.split('#').next().unwrap_or_default().to_owned())
        };
        Self {
            sources: switch
                .lines()
                .find_map(|line| after(line, "hosts:"))
                .unwrap_or_default()
                .split_whitespace()
                .map(str::to_owned)
                .collect(),
            name_servers: resolv
                .lines()
                .filter_map(|line| Some(after(line, "nameserver")?.trim().to_owned()))
                .collect(),
        }
    }
}

/// Docker's own pools, where nobody has set others (`ipamutils` of its sources).
const DOCKER_POOLS: [&str; 7] = [
    "172.17.0.0/16",
    "172.18.0.0/16",
    "172.19.0.0/16",
    "172.20.0.0/14",
    "172.24.0.0/14",
    "172.28.0.0/14",
    "192.168.0.0/16",
];

/// Ranges from which Docker takes networks it has not made yet: `default-address-pools` of its daemon.json, or its own
/// where it is installed without.
pub(crate) fn docker_pools(root: &Root) -> Vec<Subnet> {
    let text = root.text("etc/docker/daemon.json").unwrap_or_default();
    let settings: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    match settings["default-address-pools"].as_array() {
        Some(pools) => pools
            .iter()
            .filter_map(|pool| pool["base"].as_str()?.parse().ok())
            .collect(),
        None if root.path("run/docker.sock").exists() => DOCKER_POOLS
            .iter()
            .filter_map(|pool| pool.parse().ok())
            .collect(),
        None => Vec::new(),
    }
}
