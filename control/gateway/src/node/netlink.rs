//! A blocking netlink socket: one request, its replies, its error. Route messages are typed, nf_tables ones are bytes.
//!
//! Blocking, because the kernel answers netlink inside the `send` call and because requests must also be made on
//! short-lived threads that entered another network namespace, where no async runtime runs.

use std::io;

use super::nft::attribute::{read, text};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::Socket;
use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_XFRM};
use rustix::io::Errno;
use thiserror::Error;

/// A refused or failed netlink request.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// The kernel's own answer; `what` names the request and the device, route or rule it was about.
    #[error("{what}: {errno}")]
    Refused { what: String, errno: Errno },
    #[error("{what}: netlink socket: {source}")]
    Socket { what: String, source: io::Error },
    #[error("{what}: the kernel's answer cannot be read")]
    Answer { what: String },
}

impl NetlinkError {
    /// The kernel's error number, when it was the kernel that refused.
    #[must_use]
    pub const fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Socket { .. } | Self::Answer { .. } => None,
        }
    }
}

/// Turns "it is there already" or "it is gone already" into success.
pub(crate) fn tolerate(
    result: Result<(), NetlinkError>,
    errnos: &[Errno],
) -> Result<(), NetlinkError> {
    match result {
        Err(error) if error.errno().is_some_and(|errno| errnos.contains(&errno)) => Ok(()),
        other => other,
    }
}

/// Speaks to the kernel about links, addresses and routes of the namespace the thread was in when it was opened.
pub(crate) struct RouteSocket {
    socket: Socket,
    sequence: u32,
}

impl RouteSocket {
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        Ok(Self {
            socket: open(NETLINK_ROUTE)?,
            sequence: 0,
        })
    }

    /// Sends `message` and waits for the acknowledgement.
    pub(crate) fn change(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        what: impl FnOnce() -> String,
    ) -> Result<(), NetlinkError> {
        self.request(message, flags | NLM_F_ACK, what).map(drop)
    }

    /// The answer to a question about one thing.
    pub(crate) fn ask(
        &mut self,
        message: RouteNetlinkMessage,
        what: impl FnOnce() -> String,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.request(message, NLM_F_ACK, what)
    }

    /// Everything of a kind. A reply this library cannot decode is left out: new kernels add attributes.
    pub(crate) fn dump(
        &mut self,
        message: RouteNetlinkMessage,
        what: impl FnOnce() -> String,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.request(message, NLM_F_DUMP, what)
    }

    /// Sends `message` with `flags` and gives what comes back until the answer is complete.
    pub(crate) fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        what: impl FnOnce() -> String,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let mut found = Vec::new();
        let ended = exchange(&self.socket, &bytes, self.sequence, |one| {
            if let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(one)
                && let (_, NetlinkPayload::InnerMessage(inner)) = message.into_parts()
            {
                found.push(inner);
            }
        });
        match ended {
            Ok(()) => Ok(found),
            Err(failure) => Err(failure.named(what())),
        }
    }
}

/// Sends one nf_tables batch (or dump request) and gives every reply to `each`. Returns at the reply with sequence
/// number `last` that ends it, or at the first error.
pub(crate) fn netfilter(
    bytes: &[u8],
    last: u32,
    what: &str,
    each: impl FnMut(&[u8]),
) -> Result<(), NetlinkError> {
    // A socket per batch: after an error more replies may be queued, and nobody wants them.
    let socket = open(NETLINK_NETFILTER)?;
    exchange(&socket, bytes, last, each).map_err(|failure| failure.named(what.to_owned()))
}

/// Sends one generic netlink request with sequence number 1 and an acknowledgement asked for, and gives every reply
/// to `each`.
pub(crate) fn generic(
    bytes: &[u8],
    what: &str,
    each: impl FnMut(&[u8]),
) -> Result<(), NetlinkError> {
    let socket = open(NETLINK_GENERIC)?;
    // Drivers say in words what they refuse; a kernel that cannot is understood all the same.
    let _ = socket.set_ext_ack(true);
    exchange(&socket, bytes, 1, each).map_err(|failure| failure.named(what.to_owned()))
}

/// Sends one IPsec dump request with sequence number 1, and gives every reply to `each`.
pub(crate) fn ipsec(bytes: &[u8], what: &str, each: impl FnMut(&[u8])) -> Result<(), NetlinkError> {
    let socket = open(NETLINK_XFRM)?;
    exchange(&socket, bytes, 1, each).map_err(|failure| failure.named(what.to_owned()))
}

fn open(protocol: isize) -> Result<Socket, NetlinkError> {
    let socket = |source| NetlinkError::Socket {
        what: "opening".to_owned(),
        source,
    };
    let mut opened = Socket::new(protocol).map_err(socket)?;
    opened.bind_auto().map_err(socket)?;
    Ok(opened)
}

enum Failure {
    /// With the kernel's own words, where it has any.
    Errno(Errno, Option<String>),
    Io(io::Error),
    Garbled,
}

impl Failure {
    fn named(self, what: String) -> NetlinkError {
        match self {
            Self::Errno(errno, None) => NetlinkError::Refused { what, errno },
            Self::Errno(errno, Some(said)) => NetlinkError::Refused {
                what: format!("{what}: {said}"),
                errno,
            },
            Self::Io(source) => NetlinkError::Socket { what, source },
            Self::Garbled => NetlinkError::Answer { what },
        }
    }
}

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

fn exchange(
    socket: &Socket,
    request: &[u8],
    last: u32,
    mut each: impl FnMut(&[u8]),
) -> Result<(), Failure> {
    socket.send(request, 0).map_err(Failure::Io)?;
    loop {
        let (datagram, _) = socket.recv_from_full().map_err(Failure::Io)?;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let header = NetlinkBuffer::new_checked(rest).map_err(|_| Failure::Garbled)?;
            let length = usize::try_from(header.length()).map_err(|_| Failure::Garbled)?;
            let (one, after) = rest.split_at_checked(length).ok_or(Failure::Garbled)?;
            match header.message_type() {
                NLMSG_ERROR => {
                    let code = one
                        .get(16..20)
                        .and_then(|bytes| bytes.try_into().ok())
                        .map(i32::from_ne_bytes)
                        .ok_or(Failure::Garbled)?;
                    if code != 0 {
                        let errno = Errno::from_raw_os_error(-code);
                        return Err(Failure::Errno(errno, said(one)));
                    }
                    if header.sequence_number() == last {
                        return Ok(());
                    }
                }
                NLMSG_DONE => return Ok(()),
                _ => each(one),
            }
            // Messages are padded to four bytes, the last one of a datagram perhaps not.
            rest = after
                .get(length.next_multiple_of(4) - length..)
                .unwrap_or_default();
        }
    }
}

/// The kernel's words in an error message (NLMSGERR_ATTR_MSG). They come after the request's header, and after all of the
/// request unless the message is capped.
fn said(error: &[u8]) -> Option<String> {
    const CAPPED: u16 = 0x100;
    const WITH_ATTRIBUTES: u16 = 0x200;
    const MESSAGE: u16 = 1;
    let number = |at: usize| {
        let bytes = error.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_ne_bytes(bytes)).ok()
    };
    let flags = u16::from_ne_bytes(error.get(6..8)?.try_into().ok()?);
    if flags & WITH_ATTRIBUTES == 0 {
        return None;
    }
    let request = if flags & CAPPED == 0 { number(20)? } else { 16 };
    let attributes = error.get(20_usize.checked_add(request.next_multiple_of(4))?..)?;
    read(attributes)
        .find(|(kind, _)| *kind == MESSAGE)
        .and_then(|(_, words)| text(words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::nft::attribute::Attributes;

    /// An error message about a request of 24 bytes.
    fn error(flags: u16, attributes: &[u8]) -> Vec<u8> {
        let capped = flags & 0x100 != 0;
        let mut bytes = vec![0; 20];
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&24_u32.to_ne_bytes());
        bytes.resize(20 + if capped { 16 } else { 24 }, 0);
        bytes.extend_from_slice(attributes);
        bytes
    }

    #[test]
    fn the_kernels_words_are_found_behind_the_request() {
        let words = Attributes::new().native_u32(2, 7).text(1, "no such ring");
        for flags in [0x200, 0x300] {
            let found = said(&error(flags, words.as_bytes()));
            assert_eq!(found.as_deref(), Some("no such ring"), "{flags:#x}");
        }
        assert_eq!(
            said(&error(0x100, words.as_bytes())),
            None,
            "no attributes are announced"
        );
        assert_eq!(said(&error(0x200, &[])), None);
        let mut long = error(0x200, words.as_bytes());
        long[20..24].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(said(&long), None, "a length beyond the message");
    }
}
