//! What keeps programs attached: bpf_links, held by this process, or by a directory of a BPF file system beyond its death.
//!
//! A pinned link keeps its program, and that its maps. Nobody renews the lease of the established flows then, and the
//! sockets are gone from their maps, so that all that is left after a few seconds passes frames to the kernel.

use super::BpfError;
use aya::programs::links::{FdLink, PinnedLink};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Links of attached programs. Dropping it detaches them in order, pinned or not; a process that is killed leaves the
/// pinned ones attached.
#[derive(Debug, Default)]
pub(crate) struct Links {
    held: Vec<Held>,
    /// Where the next ones are pinned.
    dir: Option<PathBuf>,
    /// Pinned so far: they are named by number.
    pinned: u32,
}

#[derive(Debug)]
enum Held {
    Open(FdLink),
    Pinned(PinnedLink),
}

impl Links {
    /// Keeps a link, to be dropped after all others.
    pub(crate) fn hold(&mut self, link: FdLink) -> Result<(), BpfError> {
        let held = self.pin(link)?;
        self.held.push(held);
        Ok(())
    }

    /// Keeps a link, to be dropped before all others.
    pub(crate) fn hold_first(&mut self, link: FdLink) -> Result<(), BpfError> {
        let held = self.pin(link)?;
        self.held.insert(0, held);
        Ok(())
    }

    /// Detaches the last one.
    pub(crate) fn drop_last(&mut self) {
        if let Some(held) = self.held.pop() {
            held.detach();
        }
    }

    /// Pins all of them, and what is held from now on, in `dir`.
    pub(crate) fn survive(&mut self, dir: &Path) -> Result<(), BpfError> {
        self.dir = Some(dir.to_owned());
        for held in std::mem::take(&mut self.held) {
            let held = match held {
                Held::Open(link) => self.pin(link)?,
                Held::Pinned(link) => Held::Pinned(link),
            };
            self.held.push(held);
        }
        Ok(())
    }

    fn pin(&mut self, link: FdLink) -> Result<Held, BpfError> {
        let Some(dir) = &self.dir else {
            return Ok(Held::Open(link));
        };
        let path = dir.join(format!("link{}", self.pinned));
        let pinned = link
            .pin(&path)
            .map_err(|source| BpfError::Pin { path, source })?;
        self.pinned += 1;
        Ok(Held::Pinned(pinned))
    }
}

impl Held {
    fn detach(self) {
        match self {
            Self::Open(link) => drop(link),
            // Its file is gone already: somebody else has detached it.
            Self::Pinned(link) => drop(link.unpin()),
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.held.drain(..).for_each(Held::detach);
        if let Some(dir) = &self.dir {
            // Not empty, it is another process's by now.
            let _ = fs::remove_dir(dir);
        }
    }
}

/// Makes `dir` an empty directory: programs that a process of the same place left attached are detached.
///
/// # Errors
/// When it cannot be made or emptied.
pub fn prepare(dir: &Path) -> io::Result<()> {
    clear(dir)?;
    fs::create_dir_all(dir)
}

/// Detaches what is pinned in `dir`, and removes it. Does nothing when there is none.
///
/// # Errors
/// When it cannot be read or emptied.
pub fn clear(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        fs::remove_file(entry?.path())?;
    }
    fs::remove_dir(dir)
}
