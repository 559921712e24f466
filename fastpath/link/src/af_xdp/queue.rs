//! One AF_XDP socket: bound to one queue of one device, its four rings, and the buffers it has lent to the kernel.

use super::lent::Lent;
use super::ring::{Consumer, Producer};
use super::{BusyPoll, Device, QueueSettings, XskError};
use crate::sys::while_busy;
use crate::sys::xsk::{Binding, Descriptor, Which, XskSocket};
use sluice_memory::{Account, Buffer, Frame, Pool, Region};
use sluice_wire::DropReason;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// One call sends at most so many frames in copy mode (`TX_BATCH_SIZE` of net/xdp/xsk.c).
const SENT_PER_KICK: u32 = 32;

#[derive(Debug)]
pub(super) struct Queue {
    socket: XskSocket,
    fill: Producer<u64>,
    completion: Consumer<u64>,
    receive: Consumer<Descriptor>,
    transmit: Producer<Descriptor>,
    lent: Lent,
    /// Buffers that are on loan for receiving.
    filled: u32,
    /// As many are to be.
    fill_target: u32,
    busy_poll: bool,
    /// The device was set down when frames were last sent: asking again would find it so.
    is_down: bool,
}

impl Queue {
    /// Binds a socket to queue `number` of `device` and shows it the memory of `region`: zero-copy where that is wanted
    /// and the driver can, else with copies.
    ///
    /// The memory is registered with each socket by itself, not shared by XDP_SHARED_UMEM: that flag makes all sockets
    /// zero-copy or none, and a worker's veth can only copy where its NIC need not.
    pub(super) fn open(
        device: &Device,
        number: u32,
        region: Region,
        settings: &QueueSettings,
    ) -> Result<Self, XskError> {
        let failed = |what: &'static str| {
            let device = device.name.clone();
            move |source| XskError::Open {
                device,
                queue: number,
                what,
                source,
            }
        };
        let zero_copy = settings.zero_copy
            && matches!(
                Self::bound(device, number, &region, settings, Binding::ZeroCopy)
                    .map(|(socket, _)| socket.binding()),
                Ok(Ok(Binding::ZeroCopy))
            );
        let binding = if zero_copy {
            Binding::ZeroCopy
        } else {
            Binding::Copy
        };
        let (socket, rings) = Self::bound(device, number, &region, settings, binding)
            .map_err(|(what, source)| failed(what)(source))?;
        if let Some(BusyPoll {
            microseconds,
            budget,
        }) = settings.busy_poll
        {
            socket
                .prefer_busy_poll(microseconds, budget)
                .map_err(failed("busy polling"))?;
        }
        Ok(Self {
            socket,
            fill: rings.fill,
            completion: rings.completion,
            receive: rings.receive,
            transmit: rings.transmit,
            lent: Lent::new(region),
            filled: 0,
            fill_target: settings.ring_entries,
            busy_poll: settings.busy_poll.is_some(),
            is_down: false,
        })
    }

    fn bound(
        device: &Device,
        number: u32,
        region: &Region,
        settings: &QueueSettings,
        binding: Binding,
    ) -> Result<(XskSocket, Rings), (&'static str, io::Error)> {
        let at = |what| move |source| (what, source);
        // A bind that failed leaves the socket half made: each attempt has a new one.
        while_busy(
            || {
                let socket = XskSocket::new().map_err(at("opening"))?;
                socket.register(region).map_err(at("registering memory"))?;
                let ring = |which| {
                    socket
                        .ring(which, settings.ring_entries)
                        .map_err(at("making a ring"))
                };
                let rings = Rings {
                    fill: Producer::new(ring(Which::Fill)?),
                    completion: Consumer::new(ring(Which::Completion)?),
                    receive: Consumer::new(ring(Which::Receive)?),
                    transmit: Producer::new(ring(Which::Transmit)?),
                };
                socket
                    .bind(device.index, number, binding)
                    .map_err(at("binding"))?;
                Ok((socket, rings))
            },
            |(_, error)| error.raw_os_error(),
        )
    }

    /// How frames are moved, by the kernel's word.
    pub(super) fn binding(&self) -> Binding {
        // It is bound, so that the kernel has an answer.
        self.socket.binding().unwrap_or(Binding::Copy)
    }

    /// Entries of the rings that the kernel made.
    pub(super) const fn ring_entries(&self) -> u32 {
        self.receive.entries()
    }

    pub(super) fn try_clone_socket(&self) -> io::Result<XskSocket> {
        self.socket.try_clone()
    }

    /// Lends buffers for receiving until the kernel has as many as it may.
    #[inline]
    pub(super) fn fill(&mut self, pool: &mut Pool) {
        let wanted = self.fill_target - self.filled;
        if wanted >= self.fill_target / 4 || self.filled == 0 {
            for _ in 0..wanted {
                let Some(buffer) = pool.take() else { break };
                let Some(address) = self.lend(buffer, pool) else {
                    break;
                };
                // The ring has as many places as buffers are lent to it.
                self.fill.push(address);
                self.filled += 1;
            }
            self.fill.publish();
        }
        if self.busy_poll || self.fill.wants_kick() {
            self.socket.kick_receive();
        }
    }

    /// Lends one buffer; one of another pool goes nowhere.
    fn lend(&mut self, buffer: Buffer, pool: &mut Pool) -> Option<u64> {
        self.lent
            .lend(buffer)
            .map_err(|buffer| pool.release(buffer))
            .ok()
    }

    /// The oldest received frame, from its Ethernet header on.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<Frame> {
        loop {
            let descriptor = self.receive.pop()?;
            // What was never lent is nothing we could return: the kernel is wrong, and the frame is none.
            let Some((buffer, start)) = self.lent.take_back(descriptor.address) else {
                continue;
            };
            self.filled -= 1;
            let mut frame = Frame::new(buffer);
            let len = (descriptor.len as usize).min(frame.buffer_mut().len() - start);
            frame.set_range(start, len);
            return Some(frame);
        }
    }

    /// Gives the places of popped frames back to the kernel.
    #[inline]
    pub(super) fn release(&self) {
        self.receive.release();
    }

    /// Takes buffers back whose frames were sent.
    #[inline]
    pub(super) fn reclaim(&mut self, pool: &mut Pool) {
        let mut any = false;
        while let Some(address) = self.completion.pop() {
            any = true;
            if let Some((buffer, _)) = self.lent.take_back(address) {
                pool.release(buffer);
            }
        }
        if any {
            self.completion.release();
        }
    }

    /// Hands `frame`, complete with Ethernet header, to the kernel, which sends it at [`Queue::flush`]. `len` bytes of
    /// layer 3 are counted.
    #[inline]
    pub(super) fn push(&mut self, frame: Frame, len: usize, pool: &mut Pool, account: &Account) {
        if self.transmit.room(1) == 0 {
            account.drop_frame(DropReason::LinkFull);
            pool.release(frame.into_buffer());
            return;
        }
        let (start, bytes) = (frame.headroom(), frame.len());
        let Ok(address) = self.lent.lend(frame.into_buffer()) else {
            // Links of one worker share one pool; a frame of another would be lost with its buffer.
            account.drop_frame(DropReason::LinkError);
            return;
        };
        self.transmit.push(Descriptor {
            address: address + start as u64,
            #[expect(clippy::cast_possible_truncation, reason = "a chunk is 4 KiB at most")]
            len: bytes as u32,
            options: 0,
        });
        crate::pieces::count_forwarded(account, len);
    }

    /// Sends what was pushed. The error is the device's; what could not be sent waits in the ring.
    #[inline]
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.transmit.publish();
        if !self.transmit.wants_kick() {
            return Ok(());
        }
        let mut kicks = self.transmit.pending().div_ceil(SENT_PER_KICK) + 1;
        while kicks > 0 && self.transmit.pending() > 0 {
            kicks -= 1;
            match self.socket.kick_transmit() {
                Ok(()) => {}
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::EINTR) => {}
                    Some(libc::EBUSY | libc::ENOBUFS) => break,
                    errno => {
                        self.is_down = errno == Some(libc::ENETDOWN);
                        return Err(error);
                    }
                },
            }
        }
        self.is_down = false;
        Ok(())
    }

    /// Frames wait in the transmit ring for another [`Queue::flush`]; while the device is down, for the next frame.
    #[inline]
    pub(super) fn unsent(&self) -> bool {
        !self.is_down && self.transmit.wants_kick() && self.transmit.pending() > 0
    }
}

/// The four rings before they have a socket.
struct Rings {
    fill: Producer<u64>,
    completion: Consumer<u64>,
    receive: Consumer<Descriptor>,
    transmit: Producer<Descriptor>,
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
