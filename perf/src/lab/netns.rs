//! A network namespace as a guard value: it exists while the value or a process inside it does.

use super::error::LabError;
use super::process::{Process, Program};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, SigmaskHow};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace. Cheap to clone; the last clone ends it.
///
/// A thread lives inside and does what has to be done there: opens sockets, writes sysctls, starts processes.
/// Children are started by that thread and nobody else, because `PR_SET_PDEATHSIG` watches the thread that forked.
#[derive(Clone, Debug)]
pub struct NetNs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    file: File,
    jobs: Option<Sender<Job>>,
    inhabitant: Option<thread::JoinHandle<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(inhabitant) = self.inhabitant.take()
            && inhabitant.thread().id() != thread::current().id()
        {
            // A panic in there has been passed on to whoever asked for the job.
            let _ = inhabitant.join();
        }
    }
}

impl NetNs {
    /// Makes a namespace with loopback up. IPv6 addresses are usable at once (no duplicate address detection).
    ///
    /// # Errors
    /// When the kernel refuses: no privilege, or too many namespaces.
    pub fn new(name: &str) -> Result<Self, LabError> {
        let namespace = Self::inhabited(name, enter_new)?;
        for (key, value) in [
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/router_solicitations", "0"),
        ] {
            namespace.sysctl(key, value)?;
        }
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// The namespace that this process is in, as it is.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn here() -> Result<Self, LabError> {
        Self::inhabited("here", open_own)
    }

    fn inhabited(
        name: &str,
        enter: fn() -> Result<File, (&'static str, std::io::Error)>,
    ) -> Result<Self, LabError> {
        let (born, birth) = channel();
        let (jobs, inbox) = channel::<Job>();
        let inhabitant = thread::Builder::new()
            .name(format!("ns {name}"))
            .spawn(move || {
                let _ = born.send(enter());
                live(&inbox);
            })
            .map_err(|source| LabError::Namespace {
                name: name.to_owned(),
                step: "starting its thread",
                source,
            })?;
        let file = birth
            .recv()
            .unwrap_or_else(|_| unreachable!("the thread reports before it lives"))
            .map_err(|(step, source)| LabError::Namespace {
                name: name.to_owned(),
                step,
                source,
            })?;
        Ok(Self(Arc::new(Inner {
            name: name.to_owned(),
            file,
            jobs: Some(jobs),
            inhabitant: Some(inhabitant),
        })))
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// A path that names the namespace for other programs (`nsenter --net=`, `ip link ... netns`), as long as this
    /// process lives.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.0.file.as_raw_fd()
        ))
    }

    /// Does `job` inside, and returns what it returns. Jobs of one namespace are done one after the other.
    ///
    /// # Panics
    /// When the job does.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        let job = move || {
            // A caller who has gone needs no answer.
            let _ = done.send(std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)));
        };
        self.send(Box::new(job));
        match result
            .recv()
            .unwrap_or_else(|_| unreachable!("the thread answers every job"))
        {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    fn send(&self, job: Job) {
        self.0
            .jobs
            .as_ref()
            .and_then(|jobs| jobs.send(job).ok())
            .unwrap_or_else(|| unreachable!("the thread lives as long as the namespace"));
    }

    /// Gives what is started inside from now on an empty BPF file system, which ends with the namespace.
    ///
    /// # Errors
    /// When the kernel refuses to mount it.
    pub fn mount_bpf(&self) -> Result<(), LabError> {
        self.mount_privately("bpf", Path::new("/sys/fs/bpf"))
    }

    /// The same with an empty directory at `at`, which is made where it is missing.
    ///
    /// # Errors
    /// When the kernel refuses to make or mount it.
    pub fn mount_empty(&self, at: &Path) -> Result<(), LabError> {
        fs::create_dir_all(at).map_err(LabError::file(at))?;
        self.mount_privately("tmpfs", at)
    }

    fn mount_privately(&self, kind: &'static str, at: &Path) -> Result<(), LabError> {
        let at = at.to_owned();
        self.run(move || {
            unshare(CloneFlags::CLONE_NEWNS)?;
            let nothing = None::<&str>;
            mount(
                nothing,
                "/",
                nothing,
                MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                nothing,
            )?;
            mount(Some(kind), &at, Some(kind), MsFlags::empty(), nothing)
        })
        .map_err(|errno| LabError::Namespace {
            name: self.name().to_owned(),
            step: "mounting a file system of its own",
            source: errno.into(),
        })
    }

    /// A thread of its own inside, for jobs that last (servers, generators).
    ///
    /// # Panics
    /// When the kernel refuses to start a thread.
    #[must_use]
    pub fn thread<T: Send + 'static>(
        &self,
        name: &str,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let name = format!("{name}@{}", self.name());
        // A new thread inherits the namespace of the thread that makes it.
        self.run(move || thread::Builder::new().name(name).spawn(job))
            .unwrap_or_else(|error| panic!("no thread could be started: {error}"))
    }

    /// Sets `/proc/sys/<key>` inside.
    ///
    /// # Errors
    /// When the kernel has no such key, or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<(), LabError> {
        let path = Path::new("/proc/sys").join(key);
        let (at, value) = (path.clone(), value.to_owned());
        self.run(move || fs::write(at, value))
            .map_err(LabError::file(path))
    }

    /// Reads a file as a thread inside sees it (`/proc/net`, `/proc/sys/net`).
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, path: &str) -> Result<String, LabError> {
        let at = PathBuf::from(path.replace("/proc/net", "/proc/thread-self/net"));
        let from = at.clone();
        self.run(move || fs::read_to_string(from))
            .map_err(LabError::file(at))
    }

    /// Gives `ip` the commands, one a line, each without the word `ip`.
    ///
    /// # Errors
    /// With what `ip` said, when one fails.
    pub fn ip(&self, commands: &str) -> Result<(), LabError> {
        let program = Program::new("ip").args(["-batch", "-"]).input(commands);
        self.succeed(&program).map(drop)
    }

    /// Gives `nft` a script.
    ///
    /// # Errors
    /// With what `nft` said, when it refuses.
    pub fn nft(&self, script: &str) -> Result<(), LabError> {
        let program = Program::new("nft").args(["-f", "-"]).input(script);
        self.succeed(&program).map(drop)
    }

    /// Starts a process inside. What it says goes to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, program: &Program, log: &Path) -> Result<Process, LabError> {
        let file = File::create(log).map_err(LabError::file(log))?;
        let again = file.try_clone().map_err(LabError::file(log))?;
        let mut command = program.command();
        let shown = program.to_string();
        let child = self
            .run(move || {
                command.stdin(Stdio::null()).stdout(file).stderr(again);
                with_open_signals(|| command.spawn())
            })
            .map_err(|source| LabError::Start {
                program: shown,
                source,
            })?;
        Ok(Process::new(child, program, self, log))
    }

    /// Runs a process inside to its end.
    ///
    /// # Errors
    /// When it cannot be started. How it ended is the caller's to judge.
    pub fn output(&self, program: &Program) -> Result<Output, LabError> {
        program.finish(|mut command| self.run(move || with_open_signals(|| command.spawn())))
    }

    /// Runs a process inside that must succeed, and returns what it said on standard output.
    ///
    /// # Errors
    /// When it cannot be started or ends with another status than 0.
    pub fn succeed(&self, program: &Program) -> Result<String, LabError> {
        let output = self.output(program)?;
        program.judge(&output, self.name())
    }
}

/// Starts a child with no signal blocked: it inherits the mask, and one that cannot take SIGTERM cannot be stopped.
pub(super) fn with_open_signals<T>(start: impl FnOnce() -> T) -> T {
    let before = SigSet::empty().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    let started = start();
    if let Ok(before) = before {
        // It was this thread's mask a moment ago.
        let _ = before.thread_set_mask();
    }
    started
}

/// Moves the calling thread into a new namespace, and opens it.
fn enter_new() -> Result<File, (&'static str, std::io::Error)> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| ("unshare", errno.into()))?;
    open_own()
}

/// Opens the namespace of the calling thread.
fn open_own() -> Result<File, (&'static str, std::io::Error)> {
    File::open("/proc/thread-self/ns/net").map_err(|source| ("opening it", source))
}

fn live(inbox: &Receiver<Job>) {
    while let Ok(job) = inbox.recv() {
        job();
    }
}
