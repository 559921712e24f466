//! Network namespaces: found by process or path, identified by device and inode, entered on a thread of their own.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Where `ip netns` keeps named namespaces.
pub const NAMED: &str = "/run/netns";

/// Why a namespace cannot be reached.
#[derive(Debug, Error)]
pub enum NamespaceError {
    #[error("process {0} does not exist")]
    NoProcess(i32),
    #[error("{0} is not a process id")]
    NotAPid(i32),
    #[error("process {pid}: {source}")]
    Process { pid: i32, source: io::Error },
    #[error("there is no network namespace {} (looked for a path, then under {NAMED})", .0.display())]
    NoNamespace(PathBuf),
    #[error("{} is not a network namespace", .0.display())]
    NotANamespace(PathBuf),
    #[error("network namespace {}: {source}", path.display())]
    Path { path: PathBuf, source: io::Error },
    #[error("entering the network namespace: {0}")]
    Enter(io::Error),
}

impl NamespaceError {
    /// The process or namespace is not there, as opposed to not being reachable.
    #[must_use]
    pub const fn is_absence(&self) -> bool {
        matches!(
            self,
            Self::NoProcess(_) | Self::NotAPid(_) | Self::NoNamespace(_) | Self::NotANamespace(_)
        )
    }
}

/// What stays the same about a namespace as long as it lives.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NamespaceId {
    device: u64,
    inode: u64,
}

/// An open network namespace; it cannot die while this is held.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    id: NamespaceId,
}

/// A process and what tells it from a later one with the same number.
#[derive(Debug)]
pub struct Process {
    pub pid: i32,
    /// Clock ticks after boot (field 22 of `/proc/<pid>/stat`).
    pub started: u64,
    /// Readable when the process has ended.
    pub handle: OwnedFd,
}

/// Something to attach: a namespace, and the process whose end is also the instance's end.
#[derive(Debug)]
pub struct Workload {
    pub namespace: Namespace,
    pub process: Option<Process>,
}

impl Workload {
    /// The namespace of a running process.
    ///
    /// # Errors
    /// Names the process when it is gone, or what stands in the way.
    pub fn of_process(pid: i32) -> Result<Self, NamespaceError> {
        let process = Process::open(pid)?;
        let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
        let namespace = Namespace::open(&path);
        // Only now is it sure that the namespace was of that process and not of a successor with its number.
        if process.has_ended() {
            return Err(NamespaceError::NoProcess(pid));
        }
        match namespace {
            Ok(namespace) => Ok(Self {
                namespace,
                process: Some(process),
            }),
            Err(NamespaceError::Path { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Err(NamespaceError::NoProcess(pid))
            }
            Err(NamespaceError::Path { source, .. }) => {
                Err(NamespaceError::Process { pid, source })
            }
            Err(other) => Err(other),
        }
    }

    /// A namespace by path, or by its name under [`NAMED`].
    ///
    /// # Errors
    /// Names the path when nothing is there or it is something else.
    pub fn of_namespace(name: &Path) -> Result<Self, NamespaceError> {
        let path = if name.is_absolute() {
            name.to_owned()
        } else {
            Path::new(NAMED).join(name)
        };
        match Namespace::open(&path) {
            Ok(namespace) => Ok(Self {
                namespace,
                process: None,
            }),
            Err(NamespaceError::Path { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Err(NamespaceError::NoNamespace(name.to_owned()))
            }
            Err(other) => Err(other),
        }
    }
}

impl Process {
    /// # Errors
    /// Names the process when it is gone.
    pub fn open(pid: i32) -> Result<Self, NamespaceError> {
        // `from_raw` panics on a negative number.
        let id = (pid > 0)
            .then(|| Pid::from_raw(pid))
            .flatten()
            .ok_or(NamespaceError::NotAPid(pid))?;
        let handle = pidfd_open(id, PidfdFlags::empty()).map_err(|errno| match errno {
            Errno::SRCH => NamespaceError::NoProcess(pid),
            errno => NamespaceError::Process {
                pid,
                source: errno.into(),
            },
        })?;
        let started = start_time(pid).ok_or(NamespaceError::NoProcess(pid))?;
        Ok(Self {
            pid,
            started,
            handle,
        })
    }

    fn has_ended(&self) -> bool {
        let mut poll_fd = [PollFd::new(&self.handle, PollFlags::IN)];
        let now = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut poll_fd, Some(&now)).is_ok_and(|ready| ready > 0)
    }
}

fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name is in parentheses and may itself contain any character.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

impl Namespace {
    /// The namespace this thread is in.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn own() -> Result<Self, NamespaceError> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    fn open(path: &Path) -> Result<Self, NamespaceError> {
        let io = |source| NamespaceError::Path {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(io)?;
        let about = file.metadata().map_err(io)?;
        let namespace = Self {
            id: NamespaceId {
                device: about.dev(),
                inode: about.ino(),
            },
            file,
        };
        let nsfs = rustix::fs::fstatfs(&namespace.file).map_err(|errno| io(errno.into()))?;
        if nsfs.f_type == NSFS_MAGIC {
            Ok(namespace)
        } else {
            Err(NamespaceError::NotANamespace(path.to_owned()))
        }
    }

    #[must_use]
    pub const fn id(&self) -> NamespaceId {
        self.id
    }

    /// Runs `work` inside, on a thread that ends with it: a thread that changed its namespace must serve nobody else.
    ///
    /// # Errors
    /// When the namespace may not be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("sluice-netns".to_owned())
                .spawn_scoped(scope, || {
                    move_into_link_name_space(self.as_fd(), Some(LinkNameSpaceType::Network))
                        .map_err(|errno| NamespaceError::Enter(errno.into()))?;
                    Ok(work())
                })
                .map_err(NamespaceError::Enter)?
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Makes a namespace that lives under [`NAMED`] until [`Namespace::delete_named`].
    ///
    /// # Errors
    /// When it exists already, or mounting is not allowed.
    pub fn create_named(name: &str) -> Result<Self, NamespaceError> {
        let path = Path::new(NAMED).join(name);
        let io = |source| NamespaceError::Path {
            path: path.clone(),
            source,
        };
        fs::create_dir_all(NAMED).map_err(io)?;
        File::create_new(&path).map_err(io)?;
        let made = std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("sluice-netns".to_owned())
                .spawn_scoped(scope, || {
                    // SAFETY: only NEWNET; no descriptor table is unshared.
                    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
                    rustix::mount::mount_bind("/proc/thread-self/ns/net", &path)?;
                    Ok(())
                })
                .map_err(io)?
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                .map_err(|errno: Errno| io(errno.into()))
        });
        made.and_then(|()| Self::open(&path)).inspect_err(|_| {
            // The error above is the one to report; the empty file must not block the next try.
            let _ = fs::remove_file(&path);
        })
    }

    /// Removes the name; the namespace dies with its last process. A name that is gone is no error.
    ///
    /// # Errors
    /// When unmounting is not allowed.
    pub fn delete_named(name: &str) -> Result<(), NamespaceError> {
        let path = Path::new(NAMED).join(name);
        let unmounted = rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH)
            .map_err(io::Error::from);
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(NamespaceError::Path {
                path,
                source: unmounted.err().unwrap_or(source),
            }),
        }
    }
}

/// `include/uapi/linux/magic.h`.
const NSFS_MAGIC: rustix::fs::FsWord = 0x6e73_6673;

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_gone_is_named() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        child.wait().unwrap();
        let error = Workload::of_process(pid).unwrap_err();
        assert_eq!(error.to_string(), format!("process {pid} does not exist"));
        assert!(error.is_absence());
        assert!(Workload::of_process(0).unwrap_err().is_absence());
        assert!(Workload::of_process(-5).unwrap_err().is_absence());
    }

    #[test]
    fn a_zombie_is_gone() {
        let mut child = std::process::Command::new("true")
            .stdin(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        // Its end is waited for without reaping it.
        let handle = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
        poll(&mut [PollFd::new(&handle, PollFlags::IN)], None).unwrap();
        assert!(Workload::of_process(pid).unwrap_err().is_absence());
        child.wait().unwrap();
    }

    #[test]
    fn only_a_namespace_is_a_namespace() {
        let error = Workload::of_namespace(Path::new("/dev/null")).unwrap_err();
        assert_eq!(error.to_string(), "/dev/null is not a network namespace");
        let error = Workload::of_namespace(Path::new("no-such-name")).unwrap_err();
        assert!(error.is_absence(), "{error}");
        let own = Workload::of_namespace(Path::new("/proc/self/ns/net")).unwrap();
        assert_eq!(own.namespace.id(), Namespace::own().unwrap().id());
    }

    #[test]
    fn a_process_knows_when_it_started() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(Workload::of_process(own).unwrap().process.unwrap().started > 0);
    }
}
