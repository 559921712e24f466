//! A directory that goes when its value does, or when the user interrupts.

use super::error::LabError;
use nix::sys::signal::{SigSet, Signal};
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

/// The directories there are, for [`on_interrupt`].
static MADE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A private directory for sockets, configurations, logs and files of one laboratory.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes `<temporary directory>/<name>.<pid>`, readable by its owner only.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(name: &str) -> Result<Self, LabError> {
        let path = std::env::temp_dir().join(format!("{name}.{}", std::process::id()));
        if path.exists() {
            fs::remove_dir_all(&path).map_err(LabError::file(&path))?;
        }
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(LabError::file(&path))?;
        if let Ok(mut made) = MADE.lock() {
            made.push(path.clone());
        }
        Ok(Self(path))
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A directory inside, made when needed.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn directory(&self, name: &str) -> Result<PathBuf, LabError> {
        let path = self.0.join(name);
        fs::create_dir_all(&path).map_err(LabError::file(&path))?;
        Ok(path)
    }

    /// Writes a file inside and returns its path.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn file(&self, name: &str, text: &str) -> Result<PathBuf, LabError> {
        let path = self.0.join(name);
        fs::write(&path, text).map_err(LabError::file(&path))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing can be done about a directory that does not go, and the tests' assertions matter more.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// On Ctrl-C, SIGTERM or SIGHUP removes every [`Scratch`] and ends this process; namespaces and children end with it.
/// Call once, before other threads start: they inherit the blocked signals, so that exactly one thread takes them.
///
/// # Errors
/// When signals cannot be blocked.
pub fn on_interrupt() -> Result<(), LabError> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .collect();
    let refused =
        |errno: nix::errno::Errno| LabError::Privilege(format!("blocking signals: {errno}"));
    signals.thread_block().map_err(refused)?;
    thread::spawn(move || {
        let signal = signals.wait().unwrap_or(Signal::SIGTERM);
        if let Ok(made) = MADE.lock() {
            for path in made.iter() {
                // It may have gone with its value.
                let _ = fs::remove_dir_all(path);
            }
        }
        std::process::exit(128 + signal as i32);
    });
    Ok(())
}
