//! Patience with what another process has only just let go of.

use std::time::Duration;

/// Tried again so often, the first time after so long, then twice as long each time: a second in all.
const RETRIES: u32 = 8;
const WAIT: Duration = Duration::from_millis(4);

/// Calls `attempt` again while it fails with EBUSY: the kernel cleans up after a process that ended while the next one
/// starts. For control, before there is traffic.
///
/// # Errors
/// What the last attempt failed with.
pub fn while_busy<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    errno: impl Fn(&E) -> Option<i32>,
) -> Result<T, E> {
    let mut wait = WAIT;
    for _ in 0..RETRIES {
        match attempt() {
            Err(error) if errno(&error) == Some(libc::EBUSY) => {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "there is nothing else to do before the links are open"
                )]
                std::thread::sleep(wait);
                wait *= 2;
            }
            result => return result,
        }
    }
    attempt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_busy_is_tried_again() {
        let mut calls = 0;
        let result = while_busy(
            || {
                calls += 1;
                if calls < 3 {
                    Err(libc::EBUSY)
                } else {
                    Ok(calls)
                }
            },
            |&errno| Some(errno),
        );
        assert_eq!(result, Ok(3));
        let mut calls = 0;
        let result: Result<(), _> = while_busy(
            || {
                calls += 1;
                Err(libc::EPERM)
            },
            |&errno| Some(errno),
        );
        assert_eq!((result, calls), (Err(libc::EPERM), 1));
    }
}
