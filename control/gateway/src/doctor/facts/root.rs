//! The kernel's files below a directory: `/`, or a made-up machine in tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Reads `proc`, `sys`, `etc`, `boot`, `dev` and `run` below one directory.
#[derive(Clone, Debug)]
pub(crate) struct Root(PathBuf);

impl Root {
    pub(crate) fn new(directory: impl Into<PathBuf>) -> Self {
        Self(directory.into())
    }

    /// `relative` has no leading slash.
    pub(crate) fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.0.join(relative)
    }

    /// The file's text without blanks around it; `None` when it cannot be read.
    pub(crate) fn text(&self, relative: impl AsRef<Path>) -> Option<String> {
        let text = fs::read_to_string(self.path(relative)).ok()?;
        Some(text.trim().to_owned())
    }

    pub(crate) fn number<T: std::str::FromStr>(&self, relative: impl AsRef<Path>) -> Option<T> {
        self.text(relative)?.parse().ok()
    }

    /// The names in a directory, sorted; none when it is not there.
    pub(crate) fn names(&self, relative: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.path(relative)).into_iter().flatten();
        let mut names: Vec<String> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// The last part of what a symbolic link points to.
    pub(crate) fn link_name(&self, relative: impl AsRef<Path>) -> Option<String> {
        let target = fs::read_link(self.path(relative)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }
}

/// A list of cores as the kernel writes it, like `0-3,8`.
pub(crate) fn core_list(text: &str) -> BTreeSet<usize> {
    text.trim()
        .split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse().ok()?..=last.parse().ok()?)
        })
        .flatten()
        .collect()
}

/// The value of a line `Key:  value` of a file like `/proc/self/status` or `/proc/interrupts`.
pub(crate) fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_lists_are_ranges_and_single_cores() {
        for (text, expected) in [
            ("0-3,8\n", vec![0, 1, 2, 3, 8]),
            ("5", vec![5]),
            ("", vec![]),
        ] {
            assert_eq!(
                core_list(text).into_iter().collect::<Vec<_>>(),
                expected,
                "{text:?}"
            );
        }
    }
}
