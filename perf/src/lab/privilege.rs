//! Root, or an ordinary user's own user namespace: what the laboratory needs and how it gets it.

use super::error::LabError;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid};
use std::fs;
use std::path::Path;

/// How the laboratory got its privileges.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Privilege {
    Root,
    /// An unprivileged user namespace in which this user is root.
    UserNamespace,
}

/// Becomes able to make network namespaces. An ordinary user moves into a user namespace; only a process with one
/// thread can do so: call this before anything else.
///
/// # Errors
/// [`LabError::Privilege`] says what is missing and how to allow it.
pub fn acquire() -> Result<Privilege, LabError> {
    let device = Path::new("/dev/net/tun");
    if !device.exists() {
        return Err(LabError::Privilege(
            "/dev/net/tun is missing: load the kernel module `tun`, or give the container that device".to_owned(),
        ));
    }
    if Uid::effective().is_root() {
        return Ok(Privilege::Root);
    }
    let (user, group) = (Uid::effective(), Gid::effective());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).map_err(|errno| {
        LabError::Privilege(format!(
            "this needs root, or a kernel that lets users make user namespaces ({errno}): as root, \
             `sysctl -w kernel.unprivileged_userns_clone=1` (older Debian), `sysctl -w \
             kernel.apparmor_restrict_unprivileged_userns=0` (Ubuntu), `sysctl -w user.max_user_namespaces=10000`, \
             or run it with sudo"
        ))
    })?;
    for (path, text) in [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {user} 1")),
        ("/proc/self/gid_map", format!("0 {group} 1")),
    ] {
        fs::write(path, text).map_err(LabError::file(path))?;
    }
    fs::File::options()
        .read(true)
        .write(true)
        .open(device)
        .map_err(|source| {
            LabError::Privilege(format!(
                "/dev/net/tun cannot be opened ({source}); allow it with `chmod 666 /dev/net/tun`, or run as root"
            ))
        })?;
    Ok(Privilege::UserNamespace)
}
