//! Pinning: a worker stays on one core, and a core that does not exist is said to be so.

use thiserror::Error;

#[derive(Debug, Error, Eq, PartialEq)]
pub enum CoreError {
    #[error(
        "core {core} of `fastpath.cores` cannot be used: this process may run on cores {usable:?}"
    )]
    Absent { core: usize, usable: Vec<usize> },
    #[error("pinning to core {core} failed; remove `fastpath.cores` to let the kernel choose")]
    Refused { core: usize },
}

/// The cores this process may run on, ascending.
#[must_use]
pub fn cores() -> Vec<usize> {
    let mut cores: Vec<usize> = core_affinity::get_core_ids()
        .unwrap_or_default()
        .into_iter()
        .map(|core| core.id)
        .collect();
    cores.sort_unstable();
    cores
}

/// # Errors
/// When this process may not use `core`.
pub(crate) fn check(core: usize) -> Result<(), CoreError> {
    let usable = cores();
    if usable.contains(&core) {
        Ok(())
    } else {
        Err(CoreError::Absent { core, usable })
    }
}

/// Pins the calling thread.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn pin(core: usize) -> Result<(), CoreError> {
    if core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        Ok(())
    } else {
        Err(CoreError::Refused { core })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_that_does_not_exist_is_named_beside_those_that_do() {
        let usable = cores();
        assert!(!usable.is_empty());
        let error = check(4096).unwrap_err();
        assert_eq!(error, CoreError::Absent { core: 4096, usable });
        assert!(error.to_string().contains("core 4096"));
    }

    #[test]
    fn a_thread_is_pinned_to_a_usable_core() {
        let core = cores()[0];
        let pinned = std::thread::spawn(move || {
            check(core)?;
            pin(core)?;
            Ok::<_, CoreError>(cores())
        });
        assert_eq!(pinned.join().unwrap(), Ok(vec![core]));
    }
}
