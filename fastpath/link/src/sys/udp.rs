//! A UDP socket for a tunnel: dual stack, several per port, super-frames in both directions.

use super::address::SocketAddress;
use arrayvec::ArrayVec;
use sluice_wire::Family;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const UDP_SEGMENT: i32 = 103;
const UDP_GRO: i32 = 104;

/// Messages in one call, in either direction: a batch.
pub const MESSAGES_MAX: usize = 64;

/// A socket that never waits.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    family: Family,
    watches_class: bool,
}

/// A datagram to send, or, with a segment size, a run of datagrams.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub to: SocketAddress,
    pub parts: &'a [IoSlice<'a>],
    /// The bytes of every datagram but the last.
    pub segment: Option<u16>,
    /// The traffic class of the IP header.
    pub class: u8,
}

/// A datagram that came, or, with a segment size, a run of datagrams in one buffer.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    pub len: usize,
    /// What did not fit the buffer is lost.
    pub cut_short: bool,
    pub from: SocketAddress,
    /// The bytes of every datagram but the last.
    pub segment: Option<u16>,
    /// The traffic class of the IP header, after [`Socket::watch_class`]. The kernel joins only datagrams of one class.
    pub class: u8,
}

/// One control message with room for an `int`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Control {
    header: libc::cmsghdr,
    value: [u8; 8],
}

impl Control {
    const EMPTY: Self = Self {
        header: libc::cmsghdr {
            cmsg_len: 0,
            cmsg_level: 0,
            cmsg_type: 0,
        },
        value: [0; 8],
    };

    fn new<const N: usize>(level: i32, kind: i32, value: [u8; N]) -> Self {
        const { assert!(N <= 8) };
        let mut control = Self::EMPTY;
        control.header.cmsg_len = size_of::<libc::cmsghdr>() + N;
        control.header.cmsg_level = level;
        control.header.cmsg_type = kind;
        control.value[..N].copy_from_slice(&value);
        control
    }

    fn segment(size: u16) -> Self {
        Self::new(libc::IPPROTO_UDP, UDP_SEGMENT, size.to_ne_bytes())
    }

    /// The class of a datagram to an address of that family.
    fn class(class: u8, family: Family) -> Self {
        let value = i32::from(class).to_ne_bytes();
        match family {
            Family::V4 => Self::new(libc::IPPROTO_IP, libc::IP_TOS, value),
            Family::V6 => Self::new(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, value),
        }
    }

    /// The number in it, if it is of this kind: of one byte or four.
    fn number(&self, level: i32, kind: i32) -> Option<i32> {
        if (self.header.cmsg_level, self.header.cmsg_type) != (level, kind) {
            return None;
        }
        let [a, b, c, d, ..] = self.value;
        match self
            .header
            .cmsg_len
            .checked_sub(size_of::<libc::cmsghdr>())?
        {
            1 => Some(a.into()),
            4.. => Some(i32::from_ne_bytes([a, b, c, d])),
            _ => None,
        }
    }

    fn segment_size(&self) -> Option<u16> {
        let size = self.number(libc::IPPROTO_UDP, UDP_GRO)?;
        u16::try_from(size).ok()
    }

    fn class_received(&self) -> Option<u8> {
        let class = self
            .number(libc::IPPROTO_IP, libc::IP_TOS)
            .or_else(|| self.number(libc::IPPROTO_IPV6, libc::IPV6_TCLASS))?;
        u8::try_from(class).ok()
    }
}

fn empty_message() -> libc::mmsghdr {
    // SAFETY: all-zero bytes are a valid `mmsghdr`: null pointers and zero lengths.
    unsafe { std::mem::zeroed() }
}

impl Socket {
    /// A socket for both families, or for IPv4 alone where the kernel has no IPv6.
    ///
    /// # Errors
    /// When neither can be made.
    pub fn new() -> io::Result<Self> {
        let socket = Self::of_family(Family::V6).or_else(|_| Self::of_family(Family::V4))?;
        if socket.family == Family::V6 {
            socket.set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0)?;
        }
        Ok(socket)
    }

    fn of_family(family: Family) -> io::Result<Self> {
        let domain = match family {
            Family::V4 => libc::AF_INET,
            Family::V6 => libc::AF_INET6,
        };
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(domain, kind, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just made and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            fd,
            family,
            watches_class: false,
        })
    }

    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    fn set(&self, level: i32, option: i32, value: i32) -> io::Result<()> {
        // SAFETY: `value` is readable for the four bytes that are passed as its length.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                4,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Lets several sockets of one user share a port; the kernel spreads flows over them.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_reuse_port(&self) -> io::Result<()> {
        self.set(libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)
    }

    /// Asks for socket buffers of `bytes` each; without privilege the system's limit applies, silently.
    pub fn set_buffers(&self, bytes: i32) {
        for (force, ask) in [
            (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
            (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
        ] {
            if self.set(libc::SOL_SOCKET, force, bytes).is_err() {
                let _ = self.set(libc::SOL_SOCKET, ask, bytes);
            }
        }
    }

    /// Forbids the kernel to fragment what is sent: a datagram larger than the path is refused with EMSGSIZE.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_dont_fragment(&self) -> io::Result<()> {
        self.set(
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_DO,
        )?;
        if self.family == Family::V6 {
            self.set(
                libc::IPPROTO_IPV6,
                libc::IPV6_MTU_DISCOVER,
                libc::IPV6_PMTUDISC_DO,
            )?;
        }
        Ok(())
    }

    /// Lets the kernel join received datagrams of equal size into runs.
    ///
    /// # Errors
    /// When the kernel does not know UDP_GRO (before 5.0).
    pub fn set_receive_runs(&self, on: bool) -> io::Result<()> {
        self.set(libc::IPPROTO_UDP, UDP_GRO, on.into())
    }

    /// Makes received datagrams say their class. One more control message each.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn watch_class(&mut self) -> io::Result<()> {
        self.set(libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
        if self.family == Family::V6 {
            self.set(libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
        }
        self.watches_class = true;
        Ok(())
    }

    /// Whether the kernel knows UDP_SEGMENT (4.18). Changes nothing.
    ///
    /// # Errors
    /// When it does not.
    pub fn check_send_runs(&self) -> io::Result<()> {
        self.set(libc::IPPROTO_UDP, UDP_SEGMENT, 0)
    }

    /// # Errors
    /// When the address is taken or not this machine's.
    pub fn bind(&self, address: &SocketAddress) -> io::Result<()> {
        // SAFETY: `address` is readable for `len` bytes.
        let result =
            unsafe { libc::bind(self.fd.as_raw_fd(), address.as_ptr().cast(), address.len()) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// When the socket is not valid.
    pub fn address(&self) -> io::Result<SocketAddress> {
        let mut address = SocketAddress::default();
        let mut len = SocketAddress::CAPACITY;
        // SAFETY: `address` is writable for the `len` bytes that are passed.
        let result = unsafe {
            libc::getsockname(
                self.fd.as_raw_fd(),
                address.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(address)
    }

    /// Sends `messages` in one call, at most [`MESSAGES_MAX`]; returns how many were accepted, at least one.
    ///
    /// # Errors
    /// What the kernel says about the first message.
    pub fn send(&self, messages: &[Message<'_>]) -> io::Result<usize> {
        let messages = messages.get(..MESSAGES_MAX).unwrap_or(messages);
        if messages.iter().all(|message| message.class == 0) {
            self.send_with::<1>(messages)
        } else {
            self.send_with::<2>(messages)
        }
    }

    /// With room for so many control messages each.
    fn send_with<const N: usize>(&self, messages: &[Message<'_>]) -> io::Result<usize> {
        let mut controls: ArrayVec<ArrayVec<Control, N>, MESSAGES_MAX> = messages
            .iter()
            .map(|message| {
                let class = || Control::class(message.class, message.to.endpoint().ip.family());
                let class = (message.class != 0).then(class);
                let segment = message.segment.map(Control::segment);
                segment.into_iter().chain(class).collect()
            })
            .collect();
        let mut raw = ArrayVec::<libc::mmsghdr, MESSAGES_MAX>::new();
        for (message, control) in messages.iter().zip(&mut controls) {
            let mut header = empty_message();
            header.msg_hdr.msg_name = message.to.as_ptr().cast_mut();
            header.msg_hdr.msg_namelen = message.to.len();
            // `IoSlice` has the layout of `iovec` (std documents it); the kernel only reads.
            header.msg_hdr.msg_iov = message.parts.as_ptr().cast_mut().cast();
            header.msg_hdr.msg_iovlen = message.parts.len() as _;
            if !control.is_empty() {
                header.msg_hdr.msg_control = control.as_mut_ptr().cast();
                header.msg_hdr.msg_controllen = (control.len() * size_of::<Control>()) as _;
            }
            raw.push(header);
        }
        let count = u32::try_from(raw.len()).unwrap_or(0);
        // SAFETY: `raw` holds `count` headers whose pointers come from `messages` and `controls`, both alive here.
        let sent = unsafe {
            libc::sendmmsg(
                self.fd.as_raw_fd(),
                raw.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT as _,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Receives into `buffers`, one datagram or run each, at most [`MESSAGES_MAX`], in one call. Appends to `received`
    /// and returns how many came; 0 means that nothing is there.
    ///
    /// # Errors
    /// An error the kernel kept from an earlier datagram, or that the socket is not usable.
    pub fn receive(
        &self,
        buffers: &mut [IoSliceMut<'_>],
        received: &mut ArrayVec<Received, MESSAGES_MAX>,
    ) -> io::Result<usize> {
        if self.watches_class {
            self.receive_with::<2>(buffers, received)
        } else {
            self.receive_with::<1>(buffers, received)
        }
    }

    /// With room for so many control messages each.
    fn receive_with<const N: usize>(
        &self,
        buffers: &mut [IoSliceMut<'_>],
        received: &mut ArrayVec<Received, MESSAGES_MAX>,
    ) -> io::Result<usize> {
        let room = MESSAGES_MAX - received.len();
        let wanted = || buffers.iter().take(room);
        let mut controls: ArrayVec<_, MESSAGES_MAX> =
            wanted().map(|_| [Control::EMPTY; N]).collect();
        let mut addresses: ArrayVec<_, MESSAGES_MAX> =
            wanted().map(|_| SocketAddress::default()).collect();
        let mut raw = ArrayVec::<libc::mmsghdr, MESSAGES_MAX>::new();
        for ((buffer, control), address) in
            buffers.iter_mut().zip(&mut controls).zip(&mut addresses)
        {
            let mut header = empty_message();
            header.msg_hdr.msg_name = address.as_mut_ptr();
            header.msg_hdr.msg_namelen = SocketAddress::CAPACITY;
            // `IoSliceMut` has the layout of `iovec` (std documents it).
            header.msg_hdr.msg_iov = std::ptr::from_mut(buffer).cast();
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = size_of::<[Control; N]>() as _;
            raw.push(header);
        }
        let count = u32::try_from(raw.len()).unwrap_or(0);
        // SAFETY: `raw` holds `count` headers whose pointers come from `buffers`, `controls` and `addresses`, all alive here.
        let came = unsafe {
            libc::recvmmsg(
                self.fd.as_raw_fd(),
                raw.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        let Ok(came) = usize::try_from(came) else {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::WouldBlock {
                return Ok(0);
            }
            return Err(error);
        };
        for ((header, control), address) in raw.iter().zip(&controls).zip(&addresses).take(came) {
            // The kernel writes one after the other; what it did not write is empty.
            let written = header.msg_hdr.msg_controllen.div_ceil(size_of::<Control>());
            let control = || control.iter().take(written);
            received.push(Received {
                len: header.msg_len as usize,
                cut_short: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
                from: *address,
                segment: control().find_map(Control::segment_size),
                class: control().find_map(Control::class_received).unwrap_or(0),
            });
        }
        Ok(came)
    }

    /// Takes one datagram and forgets it; false when there is none.
    #[must_use]
    pub fn discard(&self) -> bool {
        let mut nothing = [0_u8; 1];
        // SAFETY: `nothing` is writable for its one byte; the rest of the datagram is cut off.
        let result = unsafe {
            libc::recv(
                self.fd.as_raw_fd(),
                nothing.as_mut_ptr().cast(),
                1,
                libc::MSG_DONTWAIT,
            )
        };
        result >= 0
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
