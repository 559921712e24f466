//! epoll(7): one descriptor that is readable when any of several is.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Readable while one of its members is.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new<'a>(members: impl IntoIterator<Item = BorrowedFd<'a>>) -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just made and belongs to nobody else.
        let epoll = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        for member in members {
            let mut event = libc::epoll_event {
                events: libc::EPOLLIN as u32,
                u64: 0,
            };
            // SAFETY: `event` is a live epoll_event; a member that is closed leaves the set by itself.
            let result = unsafe {
                libc::epoll_ctl(
                    epoll.0.as_raw_fd(),
                    libc::EPOLL_CTL_ADD,
                    member.as_raw_fd(),
                    &raw mut event,
                )
            };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(epoll)
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{Event, wait_readable};

    #[test]
    fn it_is_readable_while_a_member_is() {
        let events = [Event::new().unwrap(), Event::new().unwrap()];
        let epoll = Epoll::new(events.iter().map(Event::as_fd)).unwrap();
        assert_eq!(wait_readable(&[epoll.as_fd()], Some(1000)).unwrap(), 0);
        events[1].notify();
        assert_eq!(wait_readable(&[epoll.as_fd()], None).unwrap(), 1);
        events[1].clear();
        assert_eq!(wait_readable(&[epoll.as_fd()], Some(1000)).unwrap(), 0);
    }
}
