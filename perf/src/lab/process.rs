//! Processes as guard values: started in a namespace, ended by pid, their words kept.

use super::clock::{now, pause};
use super::error::LabError;
use super::netns::NetNs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

/// What to run.
#[derive(Clone, Debug)]
pub struct Program {
    path: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    input: String,
}

impl Program {
    #[must_use]
    pub fn new(path: impl AsRef<OsStr>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: None,
            input: String::new(),
        }
    }

    /// The same program, started through `prefix`: another program and its arguments.
    #[must_use]
    pub fn through(&self, prefix: &[String]) -> Self {
        let Some((path, arguments)) = prefix.split_first() else {
            return self.clone();
        };
        Self::new(path)
            .args(arguments)
            .arg(&self.path)
            .args(&self.arguments)
            .input(&self.input)
    }

    /// The same program, which finds the name servers in `resolv_conf` instead of the host's: as `ip netns exec` does with
    /// /etc/netns/NAME/resolv.conf.
    #[must_use]
    pub fn resolving(&self, resolv_conf: &Path) -> Self {
        let file = resolv_conf.display().to_string();
        let mount = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        self.through(&["unshare", "--mount", "sh", "-c", mount, &file].map(str::to_owned))
    }

    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(
            arguments
                .into_iter()
                .map(|argument| argument.as_ref().to_owned()),
        );
        self
    }

    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment
            .push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// What it reads on standard input.
    #[must_use]
    pub fn input(mut self, text: impl Into<String>) -> Self {
        self.input = text.into();
        self
    }

    /// Through `setpriv`, which asks the kernel to end the process when the laboratory's thread ends, however it
    /// ends; the pid stays the same.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&self.path)
            .args(&self.arguments)
            .envs(self.environment.iter().cloned());
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command
    }

    /// Runs it to its end; `start` starts it where it belongs. How it ended is the caller's to judge.
    pub(super) fn finish(
        &self,
        start: impl FnOnce(Command) -> io::Result<Child>,
    ) -> Result<Output, LabError> {
        let error = |source| LabError::Start {
            program: self.to_string(),
            source,
        };
        let mut command = self.command();
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = start(command).map_err(error)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read its input has said what it wants in its status.
            let _ = stdin.write_all(self.input.as_bytes());
        }
        child.wait_with_output().map_err(error)
    }

    /// What it said on standard output, if it succeeded at `place`.
    pub(super) fn judge(&self, output: &Output, place: &str) -> Result<String, LabError> {
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(said);
        }
        Err(LabError::Failed {
            command: self.to_string(),
            namespace: place.to_owned(),
            status: output.status.to_string(),
            said: format!("{}{said}", String::from_utf8_lossy(&output.stderr))
                .trim()
                .to_owned(),
        })
    }
}

/// As one would type it.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path.to_string_lossy())?;
        for argument in &self.arguments {
            write!(f, " {}", argument.to_string_lossy())?;
        }
        for line in self.input.lines().take(20) {
            write!(f, "\n    {line}")?;
        }
        Ok(())
    }
}

/// A running process. Dropping it ends it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    shown: String,
    /// Kept alive: the process would die with the namespace's thread, which started it.
    namespace: NetNs,
    log: PathBuf,
}

impl Process {
    pub(super) fn new(child: Child, program: &Program, namespace: &NetNs, log: &Path) -> Self {
        Self {
            child,
            shown: program.to_string(),
            namespace: namespace.clone(),
            log: log.to_owned(),
        }
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// An error that shows what it said, when it has ended; for waiting loops, which need not wait for the dead.
    ///
    /// # Errors
    /// When it has ended.
    pub fn alive(&mut self) -> Result<(), LabError> {
        match self.ended() {
            None => Ok(()),
            Some(status) => Err(LabError::Failed {
                command: self.shown.clone(),
                namespace: self.namespace.name().to_owned(),
                status: status.to_string(),
                said: self.said_last(),
            }),
        }
    }

    /// Everything it said so far.
    #[must_use]
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines it said.
    #[must_use]
    pub fn said_last(&self) -> String {
        let said = self.said();
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// Sends a signal. A process that has ended takes none.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none()
            && let Ok(pid) = i32::try_from(self.pid())
        {
            // It may end between the two calls; the pid stays ours until it is waited for.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Asks it to end, and ends it after `patience`. Returns how it ended.
    pub fn stop(&mut self, patience: Duration) -> Option<ExitStatus> {
        self.signal(Signal::SIGTERM);
        let begin = now();
        while begin.elapsed() < patience {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            pause(Duration::from_millis(5));
        }
        self.kill()
    }

    /// Ends it at once (SIGKILL) and waits for it.
    pub fn kill(&mut self) -> Option<ExitStatus> {
        self.signal(Signal::SIGKILL);
        self.child.wait().ok()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
