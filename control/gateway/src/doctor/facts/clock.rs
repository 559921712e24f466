//! Whether the kernel's clock follows a time server: adjtimex(2), which no safe crate of ours wraps.

use std::mem::MaybeUninit;

/// The clock's state, without changing it; `None` when the kernel does not tell.
pub(crate) fn synchronised() -> Option<bool> {
    let mut state = MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: `state` is writable for one `timex`; its `modes`, zero, asks for no change.
    let result = unsafe { libc::adjtimex(state.as_mut_ptr()) };
    if result < 0 {
        return None;
    }
    // SAFETY: all fields are integers, for which the zeroes it was made of are valid.
    let state = unsafe { state.assume_init() };
    Some(state.status & libc::STA_UNSYNC == 0)
}
