//! The underlay as a UDP socket: the kernel writes outer headers, cuts and joins runs of datagrams.

mod join;
mod plan;
pub mod self_test;

use crate::pieces::{Merge, complete_checksum, count_forwarded};
use crate::sys::address::SocketAddress;
use crate::sys::udp::{MESSAGES_MAX, Message, Received, Socket};
use crate::sys::wait_writable;
use crate::{Arrival, Health, Link, LinkDown};
use arrayvec::ArrayVec;
use join::{Joiner, Source};
use plan::{Cursor, Plan, SCRATCH_LEN};
use sluice_memory::{
    Account, BATCH_MAX, Batch, Endpoint, FRAME_LEN_MAX, Frame, HEADROOM, Pool, TAILROOM,
};
use sluice_wire::{DropReason, Ip};
use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use thiserror::Error;

/// Socket buffers, bytes: 40 ms of 1.6 Gbit/s in each direction.
const SOCKET_BUFFER: i32 = 8 << 20;
/// Datagrams asked for in one call. More does not pay: a call's cost is spread thin already.
const RECEIVE_MAX: usize = 32;
/// Bytes asked for in one call, about: they are still in the cache when they are passed on.
const RECEIVE_BYTES: usize = 128 * 1024;
/// A full socket is waited for so often, and so long each time.
const FULL_RETRIES: u32 = 2;
const FULL_WAIT_NS: u64 = 250_000;
/// After so many refused super-frames in a row they are not tried for a while ...
const REFUSED_MAX: u32 = 8;
/// ... which is so many frames that could have been one.
const REFUSED_PAUSE: u32 = 10_000;

/// How to open the underlay.
#[derive(Clone, Debug)]
pub struct UdpSettings {
    /// The address to bind to; `None` for all of both families.
    pub address: Option<Ip>,
    pub port: u16,
    /// Sockets on the port, one per worker, 1 or more.
    pub workers: usize,
    /// Send and receive runs of datagrams as super-frames.
    pub gso: bool,
    /// Join received packets into frames for a service side that takes them.
    pub merge: Merge,
    /// One datagram per system call: for comparisons.
    pub one_packet_per_syscall: bool,
}

#[derive(Debug, Error)]
pub enum UdpError {
    #[error(
        "UDP port {port} is taken: {source}; stop the other program (`ss -lunp`) or change `fastpath.tunnel_port`"
    )]
    Taken { port: u16, source: io::Error },
    #[error("opening a socket on UDP port {port} failed: {source}")]
    Open { port: u16, source: io::Error },
}

/// One socket on the tunnel port.
#[derive(Debug)]
pub struct UdpLink {
    name: String,
    socket: Socket,
    joiner: Joiner,
    /// Received and not yet worked off, because a batch was full.
    waiting: VecDeque<Source>,
    /// Datagrams to ask for next time: one more than came last time, so that a quiet link prepares little.
    ask: usize,
    /// Datagrams per call: 1 in the comparison mode.
    burst: usize,
    gso: bool,
    refused: u32,
    pause: u32,
    scratch: Box<[u8]>,
    health: Arc<Health>,
}

/// Opens the tunnel port once per worker. The kernel spreads outer flows over the sockets.
///
/// # Errors
/// When another program has the port, or the address is not this machine's.
pub fn open(settings: &UdpSettings) -> Result<Vec<UdpLink>, UdpError> {
    let port = settings.port;
    let failed = |source| UdpError::Open { port, source };
    let ip = settings.address.unwrap_or(Ip::UNSPECIFIED);
    let mut port = settings.port;
    // Sockets that share a port also share it with another gateway of the same user: find that out first.
    let probe = Socket::new().map_err(failed)?;
    let address = |socket: &Socket, port| {
        let any_v4 = settings.address.is_none() && socket.family() == sluice_wire::Family::V4;
        let ip = if any_v4 { Ip::v4([0; 4]) } else { ip };
        SocketAddress::new(Endpoint { ip, port }, socket.family())
    };
    probe
        .bind(&address(&probe, port))
        .map_err(|source| UdpError::Taken { port, source })?;
    drop(probe);
    let mut links = Vec::new();
    for _ in 0..settings.workers.max(1) {
        let socket = Socket::new().map_err(failed)?;
        if settings.workers > 1 {
            socket.set_reuse_port().map_err(failed)?;
        }
        socket.set_dont_fragment().map_err(failed)?;
        socket.set_buffers(SOCKET_BUFFER);
        let runs = settings.gso && !settings.one_packet_per_syscall;
        let gso = runs && socket.check_send_runs().is_ok();
        // A kernel without UDP_GRO delivers datagrams one by one.
        let _ = socket.set_receive_runs(runs);
        socket
            .bind(&address(&socket, port))
            .map_err(|source| UdpError::Taken { port, source })?;
        // Port 0: the first socket chooses, the others follow.
        port = socket.address().map_err(failed)?.endpoint().port;
        let merge = if settings.one_packet_per_syscall {
            Merge::default()
        } else {
            settings.merge
        };
        links.push(UdpLink {
            name: format!("udp:{port}"),
            socket,
            joiner: Joiner::new(merge),
            waiting: VecDeque::with_capacity(RECEIVE_MAX),
            ask: 1,
            burst: if settings.one_packet_per_syscall {
                1
            } else {
                RECEIVE_MAX
            },
            gso,
            refused: 0,
            pause: 0,
            scratch: vec![0; SCRATCH_LEN].into_boxed_slice(),
            health: Arc::default(),
        });
    }
    Ok(links)
}

impl UdpLink {
    /// The address it is bound to.
    ///
    /// # Errors
    /// When the socket is no longer valid.
    pub fn local(&self) -> io::Result<Endpoint> {
        Ok(self.socket.address()?.endpoint())
    }

    /// Whether runs of datagrams leave as super-frames.
    #[must_use]
    pub const fn sends_runs(&self) -> bool {
        self.gso
    }

    /// Takes what is in the socket into `waiting`.
    fn read(&mut self, pool: &mut Pool, account: &Account) -> Result<Arrival, LinkDown> {
        let mut frames = ArrayVec::<Frame, RECEIVE_MAX>::new();
        while frames.len() < self.ask
            && let Some(buffer) = pool.take()
        {
            frames.push(Frame::new(buffer));
        }
        if frames.is_empty() {
            return Ok(self.discard(account));
        }
        let mut received = ArrayVec::<Received, MESSAGES_MAX>::new();
        let result = {
            let mut buffers: ArrayVec<IoSliceMut<'_>, RECEIVE_MAX> = frames
                .iter_mut()
                .map(|frame| {
                    let buffer = frame.buffer_mut();
                    let end = (buffer.len() - TAILROOM).min(HEADROOM + FRAME_LEN_MAX);
                    IoSliceMut::new(&mut buffer[HEADROOM..end])
                })
                .collect();
            let result = self.socket.receive(&mut buffers, &mut received);
            if result.is_err() {
                // An ICMP error of an earlier datagram: taking it clears it, the datagrams are still there.
                self.health.late_errors.add(1);
                self.socket.receive(&mut buffers, &mut received)
            } else {
                result
            }
        };
        let asked = frames.len();
        for (mut frame, came) in frames.drain(..received.len()).zip(&received) {
            account.received.add(1);
            account.received_bytes.add(came.len as u64);
            let unusable = match came {
                came if came.len == 0 => Some(DropReason::Empty),
                came if came.from.endpoint().ip.is_discard_only() => {
                    Some(DropReason::MartianSource)
                }
                came => came.cut_short.then_some(DropReason::TooBig),
            };
            if let Some(reason) = unusable {
                account.drop_frame(reason);
                pool.release(frame.into_buffer());
                continue;
            }
            frame.set_range(HEADROOM, came.len);
            frame.outer = Some(came.from.endpoint());
            frame.class = came.class;
            let stride = came.segment.map_or(came.len, usize::from).max(1);
            self.waiting.push_back(Source::new(frame, stride));
        }
        let bytes: usize = received.iter().map(|came| came.len).sum();
        let arrival = if received.len() == asked {
            self.ask = (asked * 2).min(self.burst);
            Arrival::More
        } else {
            self.ask = (received.len() + 1).min(self.burst);
            Arrival::Drained
        };
        // Runs are long: no more of them than the cache keeps until they are written.
        if let Some(fit) = (received.len() * RECEIVE_BYTES).checked_div(bytes) {
            self.ask = self.ask.min(fit.max(1));
        }
        for frame in frames {
            pool.release(frame.into_buffer());
        }
        if let Err(source) = result {
            self.judge(source)?;
        }
        Ok(arrival)
    }

    /// Without a buffer: what has come is dropped, or the worker would wake for it again and again.
    fn discard(&self, account: &Account) -> Arrival {
        for _ in 0..self.burst {
            if !self.socket.discard() {
                return Arrival::Drained;
            }
            account.received.add(1);
            account.drop_frame(DropReason::PoolEmpty);
        }
        Arrival::More
    }

    fn judge(&self, source: io::Error) -> Result<(), LinkDown> {
        let errno = source.raw_os_error().unwrap_or(0);
        self.health.note_errno(errno);
        if errno == libc::EBADF || errno == libc::ENOTSOCK {
            return Err(LinkDown {
                link: self.name.clone(),
                source,
            });
        }
        Ok(())
    }

    /// Sends all that is planned. A message is one frame in the account until it is sent as several.
    fn send(&mut self, plan: &Plan<'_>, account: &Account) {
        let mut messages: ArrayVec<Message<'_>, MESSAGES_MAX> = plan
            .messages
            .iter()
            .map(|planned| plan.whole(planned))
            .collect();
        let mut patience = FULL_RETRIES;
        if self.burst == 1 {
            for message in &messages {
                self.send_one(message, &mut patience, account);
            }
            return;
        }
        let mut done = 0;
        while let Some(rest) = messages.get_mut(done..)
            && let Some(first) = rest.first()
        {
            match self.socket.send(rest) {
                Ok(sent) => {
                    for message in rest.iter().take(sent) {
                        if message.segment.is_some() {
                            self.refused = 0;
                        }
                        count_forwarded(account, len_of(message));
                    }
                    done += sent.max(1);
                }
                Err(error) if first.segment.is_some() && refuses_runs(&error) => {
                    self.health.gso_refused.add(1);
                    self.health.note_errno(error.raw_os_error().unwrap_or(0));
                    self.refused += 1;
                    if self.refused >= REFUSED_MAX {
                        (self.refused, self.pause) = (0, REFUSED_PAUSE);
                    }
                    let planned = plan.messages[done];
                    account.split.add(planned.datagrams as u64 - 1);
                    for index in 0..planned.datagrams {
                        self.send_one(&plan.single(&planned, index), &mut patience, account);
                    }
                    done += 1;
                }
                Err(_) => {
                    let first = *first;
                    self.send_one(&first, &mut patience, account);
                    done += 1;
                }
            }
        }
    }

    /// Sends one message and counts what became of it. For a full socket it waits, but not longer than is left of the
    /// call's `patience`: the other direction waits too.
    fn send_one(&self, message: &Message<'_>, patience: &mut u32, account: &Account) {
        let mut late = false;
        loop {
            let Err(error) = self.socket.send(std::slice::from_ref(message)) else {
                count_forwarded(account, len_of(message));
                return;
            };
            match error.raw_os_error().unwrap_or(0) {
                libc::EINTR => {}
                libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM if *patience > 0 => {
                    *patience -= 1;
                    self.health.full_retries.add(1);
                    wait_writable(self.socket.as_fd(), FULL_WAIT_NS);
                }
                libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM => {
                    account.drop_frame(DropReason::LinkFull);
                    return;
                }
                libc::EMSGSIZE => {
                    account.drop_frame(DropReason::TooBig);
                    return;
                }
                // An ICMP error of an earlier datagram is reported on this one, once.
                libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EPROTO
                    if !late =>
                {
                    late = true;
                    self.health.late_errors.add(1);
                }
                errno => {
                    self.health.note_errno(errno);
                    account.drop_frame(DropReason::LinkError);
                    return;
                }
            }
        }
    }
}

/// The kernel or the device cannot do this run: no checksum offload (EIO), segment above the MTU or too many (EINVAL,
/// EMSGSIZE), or no UDP_SEGMENT at all (ENOPROTOOPT, EOPNOTSUPP).
fn refuses_runs(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::ENOPROTOOPT | libc::EOPNOTSUPP)
    )
}

fn len_of(message: &Message<'_>) -> usize {
    message.parts.iter().map(|part| part.len()).sum()
}

impl Link for UdpLink {
    fn name(&self) -> &str {
        &self.name
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn receive(
        &mut self,
        pool: &mut Pool,
        account: &Account,
        batch: &mut Batch,
    ) -> Result<Arrival, LinkDown> {
        let read = if self.waiting.is_empty() {
            self.read(pool, account)?
        } else {
            Arrival::More
        };
        while batch.remaining_capacity() >= 2
            && let Some(source) = self.waiting.pop_front()
        {
            if source.is_encrypted() {
                batch.push(source.into_run());
                continue;
            }
            if let Some(source) = self.joiner.take(source, pool, account, batch) {
                self.waiting.push_front(source);
                break;
            }
        }
        self.joiner.flush(pool, account, batch);
        Ok(if self.waiting.is_empty() {
            read
        } else {
            Arrival::More
        })
    }

    fn transmit<const N: usize>(
        &mut self,
        frames: &mut ArrayVec<Frame, N>,
        pool: &mut Pool,
        account: &Account,
    ) {
        for frame in frames.iter_mut().filter(|frame| frame.gso.is_none()) {
            if let Err(reason) = complete_checksum(frame) {
                account.drop_frame(reason);
                frame.truncate(0);
            }
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut cursor = Cursor::default();
        while cursor.frame < frames.len() {
            let runs = self.gso && self.pause == 0;
            let mut plan = Plan::default();
            let family = self.socket.family();
            plan.fill(frames, &mut cursor, &mut scratch, family, runs, account);
            self.pause = self
                .pause
                .saturating_sub(u32::try_from(plan.messages.len()).unwrap_or(u32::MAX));
            self.send(&plan, account);
        }
        self.scratch = scratch;
        for frame in frames.drain(..) {
            pool.release(frame.into_buffer());
        }
    }

    fn pending(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn takes_runs(&self) -> bool {
        true
    }

    fn watch_class(&mut self) {
        // Where the kernel refuses, congestion between the nodes stays unknown, as it is without ECN.
        let _ = self.socket.watch_class();
    }

    fn take_opened(&mut self, mut frame: Frame) -> Option<Frame> {
        let stride = frame
            .train
            .take()
            .map_or(frame.len(), |train| train.stride.into());
        self.waiting.push_back(Source::new(frame, stride.max(1)));
        None
    }

    fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }
}

const _: () = assert!(RECEIVE_MAX <= MESSAGES_MAX && RECEIVE_MAX <= BATCH_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::Packet;
    use crate::pieces::Pieces;
    use crate::sys::wait_readable;
    use crate::testing;
    use sluice_memory::{Checksum, Gso, GsoKind};
    use sluice_wire::parse;

    struct End {
        link: UdpLink,
        pool: Pool,
        account: Account,
    }

    fn end(gso: bool, merge: Merge, one_packet_per_syscall: bool) -> End {
        let settings = UdpSettings {
            address: Some(Ip::v4([127, 0, 0, 1])),
            port: 0,
            workers: 1,
            gso,
            merge,
            one_packet_per_syscall,
        };
        End {
            link: open(&settings).unwrap().remove(0),
            pool: Pool::new(256, FRAME_LEN_MAX).unwrap(),
            account: Account::default(),
        }
    }

    const MERGE: Merge = Merge {
        tcp: true,
        udp: true,
    };

    impl End {
        fn send(&mut self, packets: &[Packet], to: &Self) {
            let mut frames = ArrayVec::<Frame, 256>::new();
            for packet in packets {
                let mut frame = Frame::new(self.pool.take().unwrap());
                frame.fill(&packet.bytes);
                frame.checksum = packet.checksum;
                frame.gso = packet.gso;
                frame.class = packet.class;
                frame.outer = Some(to.link.local().unwrap());
                frames.push(frame);
                self.account.received.add(1);
            }
            self.link
                .transmit(&mut frames, &mut self.pool, &self.account);
            assert_eq!(self.pool.outstanding(), 0);
            let (left, right) = self.account.balance();
            assert_eq!(left, right, "{:?}", self.account);
        }

        /// Receives until `len` packet bytes have come, and cuts what was joined.
        fn receive(&mut self, len: usize) -> Vec<Vec<u8>> {
            let mut packets = Vec::new();
            let mut batch = Batch::new();
            while packets.iter().map(Vec::len).sum::<usize>() < len {
                let readable =
                    wait_readable(&[self.link.fd().unwrap()], Some(2_000_000_000)).unwrap();
                assert!(
                    readable != 0 || self.link.pending(),
                    "{} packets came, {:?}",
                    packets.len(),
                    self.account
                );
                self.link
                    .receive(&mut self.pool, &self.account, &mut batch)
                    .unwrap();
                for frame in batch.drain(..) {
                    packets.extend(cut(&frame));
                    count_forwarded(&self.account, frame.len());
                    self.pool.release(frame.into_buffer());
                }
            }
            assert_eq!(self.pool.outstanding(), 0);
            let (left, right) = self.account.balance();
            assert_eq!(left, right, "{:?}", self.account);
            packets
        }
    }

    fn cut(frame: &Frame) -> Vec<Vec<u8>> {
        if frame.gso.is_none() {
            return vec![frame.bytes().to_vec()];
        }
        let pieces = Pieces::of(frame).unwrap();
        (0..pieces.len())
            .map(|index| {
                let mut header = [0; 128];
                let len = pieces.header(index, &mut header).unwrap();
                [&header[..len], pieces.payload(index)].concat()
            })
            .collect()
    }

    fn super_frame(payload_len: usize, segment_size: usize) -> Packet {
        Packet {
            bytes: testing::tcp4_super_frame(payload_len, segment_size),
            checksum: Checksum::Partial {
                start: 20,
                offset: 16,
            },
            gso: Some(Gso {
                kind: GsoKind::Tcp4,
                segment_size: segment_size.try_into().unwrap(),
                header_len: 40,
            }),
            ..Packet::default()
        }
    }

    fn expected(packet: &Packet) -> Vec<Vec<u8>> {
        let mut pool = Pool::new(1, FRAME_LEN_MAX).unwrap();
        let mut frame = Frame::new(pool.take().unwrap());
        frame.fill(&packet.bytes);
        frame.gso = packet.gso;
        cut(&frame)
    }

    #[test]
    fn a_super_frame_crosses_as_complete_packets_in_every_mode() {
        for (gso_here, gso_there, one) in [
            (true, true, false),
            (true, false, false),
            (false, true, false),
            (false, false, false),
            (false, false, true),
        ] {
            for (payload_len, segment_size) in [(65_000, 1380), (64_000, 500), (3000, 1380)] {
                let mut here = end(gso_here, MERGE, one);
                let mut there = end(gso_there, MERGE, one);
                let sent = super_frame(payload_len, segment_size);
                let packets = expected(&sent);
                here.send(&[sent], &there);
                let came = there.receive(packets.concat().len());
                assert!(
                    came == packets,
                    "{gso_here} {gso_there} {one} {payload_len}/{segment_size}"
                );
                for packet in came {
                    let parsed = parse(&packet).unwrap();
                    assert!(sluice_wire::checksum::verify_l4(&packet, &parsed));
                }
            }
        }
    }

    #[test]
    fn small_frames_to_one_endpoint_leave_in_one_send() {
        let (mut here, mut there) = (end(true, MERGE, false), end(true, Merge::default(), false));
        let sent: Vec<Packet> = (0..100)
            .map(|port| testing::udp(false, port, &[1; 30]).into())
            .collect();
        here.send(&sent, &there);
        // 64 in the first run, 36 in the second.
        assert_eq!(here.account.merged.value(), 98);
        assert_eq!(here.account.forwarded.value(), 2);
        let bytes: Vec<Vec<u8>> = sent.into_iter().map(|packet| packet.bytes).collect();
        assert_eq!(there.receive(bytes.concat().len()), bytes);
    }

    #[test]
    fn datagrams_say_their_class_over_either_family_and_runs_have_one() {
        for (ip, gso) in [("127.0.0.1", true), ("::1", true), ("127.0.0.1", false)] {
            let settings = UdpSettings {
                address: ip.parse().ok(),
                port: 0,
                workers: 1,
                gso,
                merge: MERGE,
                one_packet_per_syscall: false,
            };
            let [mut here, mut there] = [(); 2].map(|()| End {
                link: open(&settings).unwrap().remove(0),
                pool: Pool::new(256, FRAME_LEN_MAX).unwrap(),
                account: Account::default(),
            });
            there.link.watch_class();
            let classes = [0, 2, 2, 2, 3, 0b1011_1000, 0];
            let encrypted = |class| Packet {
                // As the encrypted format begins, so that nothing looks into it.
                bytes: vec![4; 100],
                class,
                ..Packet::default()
            };
            here.send(&classes.map(encrypted), &there);
            let (mut came, mut batch) = (Vec::new(), Batch::new());
            while came.len() < classes.len() {
                wait_readable(&[there.link.fd().unwrap()], Some(2_000_000_000)).unwrap();
                there
                    .link
                    .receive(&mut there.pool, &there.account, &mut batch)
                    .unwrap();
                for frame in batch.drain(..) {
                    came.extend(std::iter::repeat_n(frame.class, frame.len() / 100));
                    there.pool.release(frame.into_buffer());
                }
            }
            assert_eq!(came, classes, "{ip} {gso}");
        }
    }

    #[test]
    fn an_empty_frame_is_never_sent() {
        let (mut here, there) = (end(true, MERGE, false), end(true, MERGE, false));
        here.send(&[vec![].into()], &there);
        assert_eq!(here.account.dropped(DropReason::Empty), 1);
        assert_eq!(here.account.forwarded.value(), 0);
    }

    #[test]
    fn datagrams_that_are_empty_or_have_no_fitting_buffer_are_dropped_by_name() {
        let mut there = end(true, MERGE, false);
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = (
            std::net::Ipv4Addr::LOCALHOST,
            there.link.local().unwrap().port,
        );
        let mut batch = Batch::new();
        for (bytes, reason) in [
            (&b""[..], DropReason::Empty),
            (&[0x45; 600][..], DropReason::TooBig),
            (&b"xx"[..], DropReason::PoolEmpty),
        ] {
            if reason == DropReason::TooBig {
                there.pool = Pool::new(8, 500).unwrap();
            }
            if reason == DropReason::PoolEmpty {
                there.pool = Pool::new(1, 100).unwrap();
                let _out = there.pool.take().unwrap();
            }
            sender.send_to(bytes, to).unwrap();
            wait_readable(&[there.link.fd().unwrap()], Some(2_000_000_000)).unwrap();
            there
                .link
                .receive(&mut there.pool, &there.account, &mut batch)
                .unwrap();
            assert!(batch.is_empty());
            assert_eq!(there.account.dropped(reason), 1);
        }
        let (left, right) = there.account.balance();
        assert_eq!(left, right);
    }

    #[test]
    fn a_datagram_that_fits_no_path_is_dropped_by_name() {
        let (mut here, there) = (end(true, MERGE, false), end(true, MERGE, false));
        let mut big = testing::udp(false, 1, &[0; 1000]);
        big.resize(FRAME_LEN_MAX, 0);
        here.send(&[big.into()], &there);
        assert_eq!(here.account.dropped(DropReason::TooBig), 1);
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let settings = UdpSettings {
            address: Some(Ip::v4([127, 0, 0, 1])),
            port: taken.local_addr().unwrap().port(),
            workers: 2,
            gso: true,
            merge: MERGE,
            one_packet_per_syscall: false,
        };
        let error = open(&settings).unwrap_err();
        assert!(matches!(error, UdpError::Taken { .. }), "{error}");
    }

    #[test]
    fn any_cut_is_joined_to_the_same_bytes() {
        bolero::check!()
            .with_generator((1_usize..64_000, 1_usize..1400))
            .with_iterations(200)
            .for_each(|&(payload_len, segment_size)| {
                let segment_size = segment_size.max(payload_len / 1000 + 1);
                if segment_size >= payload_len {
                    return;
                }
                let mut here = end(true, MERGE, false);
                let mut there = end(true, MERGE, false);
                let sent = super_frame(payload_len, segment_size);
                let packets = expected(&sent);
                here.send(&[sent], &there);
                assert!(there.receive(packets.concat().len()) == packets);
            });
    }
}
