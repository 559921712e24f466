//! Lets a thread run before all others: who stands for the world outside must not wait for whom it tests.
#![expect(unsafe_code, reason = "the scheduler has no safe wrapper")]

use super::error::LabError;

/// Makes the calling thread a real-time one (SCHED_FIFO); what it starts from then on is one, too.
///
/// # Errors
/// When the kernel refuses: it takes root, or RLIMIT_RTPRIO.
pub fn before_all_others() -> Result<(), LabError> {
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: 0 is the calling thread, and `lowest` lives through the call.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const lowest) };
    if result == 0 {
        return Ok(());
    }
    Err(LabError::Socket {
        what: "real-time priority for the generator".to_owned(),
        source: std::io::Error::last_os_error(),
    })
}
