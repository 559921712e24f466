//! ppoll(2): sleep until a descriptor is readable or a time has passed.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The most descriptors one call waits on: two links and two wake-ups.
pub const POLL_MAX: usize = 4;

/// Sleeps until one of `fds` is readable or in error, `timeout_ns` nanoseconds have passed (`None`: for ever), or a
/// signal came. Returns which are ready, as bits in the order of `fds`.
///
/// # Errors
/// When the kernel has no memory, or a descriptor table limit is below [`POLL_MAX`].
pub fn wait_readable(fds: &[BorrowedFd<'_>], timeout_ns: Option<u64>) -> io::Result<u8> {
    let mut polled = arrayvec::ArrayVec::<libc::pollfd, POLL_MAX>::new();
    for fd in fds.iter().take(POLL_MAX) {
        polled.push(libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        });
    }
    let timeout = timeout_ns.map(timespec);
    let timeout = timeout
        .as_ref()
        .map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `polled` has `len` valid entries, `timeout` is null or points at a live timespec, no signal mask is passed.
    let ready = unsafe {
        libc::ppoll(
            polled.as_mut_ptr(),
            polled.len() as libc::nfds_t,
            timeout,
            std::ptr::null(),
        )
    };
    if ready >= 0 {
        let bits = polled.iter().enumerate();
        return Ok(bits.fold(0, |bits, (index, fd)| {
            bits | u8::from(fd.revents != 0) << index
        }));
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        error => Err(error),
    }
}

/// Sleeps until `fd` takes data again, at most `timeout_ns` nanoseconds.
pub fn wait_writable(fd: BorrowedFd<'_>, timeout_ns: u64) {
    let mut polled = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    let timeout = timespec(timeout_ns);
    // SAFETY: `polled` is one valid entry, `timeout` a live timespec, no signal mask is passed.
    unsafe { libc::ppoll(&raw mut polled, 1, &raw const timeout, std::ptr::null()) };
}

fn timespec(ns: u64) -> libc::timespec {
    // Neither conversion can fail where `time_t` has 64 bits.
    libc::timespec {
        tv_sec: (ns / 1_000_000_000).try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: (ns % 1_000_000_000).try_into().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Event;
    use std::os::fd::AsFd;

    #[test]
    fn the_ready_ones_are_named_and_time_runs_out() {
        let events = [Event::new().unwrap(), Event::new().unwrap()];
        let fds = [events[0].as_fd(), events[1].as_fd()];
        assert_eq!(wait_readable(&fds, Some(1000)).unwrap(), 0);
        events[1].notify();
        assert_eq!(wait_readable(&fds, None).unwrap(), 2);
        events[0].notify();
        assert_eq!(wait_readable(&fds, None).unwrap(), 3);
        events[1].clear();
        assert_eq!(wait_readable(&fds, None).unwrap(), 1);
    }
}
