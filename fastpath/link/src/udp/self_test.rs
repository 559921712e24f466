//! The self-test of UDP super-frames: a run sent over loopback must arrive byte for byte.

use crate::sys::address::SocketAddress;
use crate::sys::udp::{MESSAGES_MAX, Message, Received, Socket};
use crate::sys::wait_readable;
use arrayvec::ArrayVec;
use sluice_memory::Endpoint;
use sluice_wire::Ip;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsFd;

/// How long one part of the run may take; loopback takes microseconds.
const WAIT_NS: u64 = 200_000_000;
const SEGMENT: usize = 100;
const RUN_LEN: usize = 2 * SEGMENT + 50;

/// What the self-test found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RunsWork {
    Yes,
    /// The kernel refuses them, or what arrived was not what was sent.
    No,
    /// There is no loopback to try on (a new network namespace has it down): the kernel knows the options, which is
    /// all that can be said; a send that fails falls back by itself.
    Untried,
}

/// Sends a run over loopback and compares what comes out.
#[must_use]
pub fn runs_work() -> RunsWork {
    let Ok((sender, receiver, to)) = pair() else {
        return RunsWork::No;
    };
    let sent: Vec<u8> = (0..=u8::MAX).cycle().take(RUN_LEN).collect();
    let message = Message {
        to,
        parts: &[IoSlice::new(&sent)],
        segment: u16::try_from(SEGMENT).ok(),
        class: 0,
    };
    match sender.send(&[message]) {
        Ok(_) => {}
        Err(error) if has_no_loopback(&error) => return RunsWork::Untried,
        Err(_) => return RunsWork::No,
    }
    match collect(&receiver) {
        Ok(came) if came == sent => RunsWork::Yes,
        Ok(_) | Err(_) => RunsWork::No,
    }
}

fn pair() -> io::Result<(Socket, Socket, SocketAddress)> {
    let (sender, receiver) = (Socket::new()?, Socket::new()?);
    sender.check_send_runs()?;
    receiver.set_receive_runs(true)?;
    let loopback = Endpoint {
        ip: Ip::v4([127, 0, 0, 1]),
        port: 0,
    };
    receiver.bind(&SocketAddress::new(loopback, receiver.family()))?;
    let bound = receiver.address()?.endpoint();
    let to = SocketAddress::new(bound, sender.family());
    Ok((sender, receiver, to))
}

fn has_no_loopback(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENETUNREACH | libc::EADDRNOTAVAIL | libc::EHOSTUNREACH)
    )
}

/// All bytes that come, checking that no datagram is longer than a segment.
fn collect(receiver: &Socket) -> io::Result<Vec<u8>> {
    let mut came = Vec::new();
    while came.len() < RUN_LEN && wait_readable(&[receiver.as_fd()], Some(WAIT_NS))? != 0 {
        let mut buffer = [0; 2 * RUN_LEN];
        let mut received = ArrayVec::<Received, MESSAGES_MAX>::new();
        receiver.receive(&mut [IoSliceMut::new(&mut buffer)], &mut received)?;
        for one in &received {
            let datagram_len = one.segment.map_or(one.len, usize::from);
            if datagram_len > SEGMENT {
                return Err(io::Error::other("a run arrived as one datagram"));
            }
            came.extend(buffer.get(..one.len).unwrap_or(&[]));
        }
    }
    Ok(came)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_passes_or_has_no_loopback() {
        assert_ne!(runs_work(), RunsWork::No);
    }
}
