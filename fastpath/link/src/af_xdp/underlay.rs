//! The underlay over Ethernet: we write Ethernet, IP and UDP; what that cannot carry goes over the kernel's UDP socket.
//!
//! The socket is open on the same port as long as the link. It receives what the XDP program leaves to the kernel
//! (fragments, options, VLAN tags, other devices), and sends where no next hop is known: the kernel then resolves the
//! neighbour, keeps the datagram meanwhile, and control hears of the new neighbour.

use super::directory::{DirectoryReader, Hop};
use super::headers::{outer_class, unwrap, wrap};
use super::port::Port;
use super::{Mac, cut};
use crate::{Arrival, Health, Link, LinkDown, UdpLink};
use arrayvec::ArrayVec;
use sluice_memory::{Account, BATCH_MAX, Batch, Frame, Pool};
use sluice_wire::DropReason;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// While frames keep coming by AF_XDP, the socket is asked once in so many calls.
const SOCKET_EVERY: u32 = 32;

/// The queues of the underlay device that one worker serves, and its UDP socket.
#[derive(Debug)]
pub struct XdpUnderlayLink {
    port: Port,
    socket: UdpLink,
    mac: Mac,
    hops: DirectoryReader<Hop>,
    /// The outer source ports: this worker's, its lane; and the tunnel's own, to which an encrypted peer answers.
    source_port: u16,
    tunnel_port: u16,
    /// Received frames say their class.
    watches_class: bool,
    calls: u32,
}

impl XdpUnderlayLink {
    pub(super) const fn new(
        port: Port,
        socket: UdpLink,
        mac: Mac,
        hops: DirectoryReader<Hop>,
        source_port: u16,
        tunnel_port: u16,
    ) -> Self {
        Self {
            port,
            socket,
            mac,
            hops,
            source_port,
            tunnel_port,
            watches_class: false,
            calls: 0,
        }
    }
}

impl Link for XdpUnderlayLink {
    fn name(&self) -> &str {
        self.port.name()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.port.fd())
    }

    fn receive(
        &mut self,
        pool: &mut Pool,
        account: &Account,
        batch: &mut Batch,
    ) -> Result<Arrival, LinkDown> {
        self.port.check()?;
        let before = batch.len();
        let watches_class = self.watches_class;
        let arrival = self.port.receive(pool, account, batch, |frame| {
            if watches_class {
                frame.class = outer_class(frame);
            }
            let outer = unwrap(frame)?;
            if outer.ip.is_discard_only() {
                return Err(DropReason::MartianSource);
            }
            frame.outer = Some(outer);
            Ok(())
        });
        self.calls = self.calls.wrapping_add(1);
        // Nothing by AF_XDP: then it is the socket that woke the worker. It stays readable if it is left alone, but what
        // it has read already wakes nobody.
        let ask_socket = batch.len() == before
            || self.socket.pending()
            || self.calls.is_multiple_of(SOCKET_EVERY);
        if !batch.is_full() && ask_socket {
            return self.socket.receive(pool, account, batch);
        }
        Ok(arrival)
    }

    fn transmit<const N: usize>(
        &mut self,
        frames: &mut ArrayVec<Frame, N>,
        pool: &mut Pool,
        account: &Account,
    ) {
        let Self {
            port,
            socket,
            mac,
            hops,
            source_port,
            tunnel_port,
            ..
        } = self;
        let hops = hops.load();
        let mut by_socket = ArrayVec::<Frame, BATCH_MAX>::new();
        port.transmit(pool, |port, pool| {
            for frame in frames.drain(..) {
                let Some(to) = frame.outer else {
                    account.drop_frame(DropReason::NoTunnel);
                    pool.release(frame.into_buffer());
                    continue;
                };
                let Some(hop) = hops.get(to.ip) else {
                    if by_socket.is_full() {
                        socket.transmit(&mut by_socket, pool, account);
                    }
                    by_socket.push(frame);
                    continue;
                };
                let from = match frame.bytes().first() {
                    Some(1..=4) => *tunnel_port,
                    Some(_) | None => *source_port,
                };
                cut::each(frame, pool, account, |mut frame, pool| {
                    let len = frame.len();
                    let ready = wrap(&mut frame, hop, from, to, *mac);
                    port.push_or_drop(frame, len, ready, pool, account);
                });
            }
        });
        if !by_socket.is_empty() {
            socket.transmit(&mut by_socket, pool, account);
        }
    }

    fn watch_class(&mut self) {
        self.watches_class = true;
        self.socket.watch_class();
    }

    fn take_opened(&mut self, frame: Frame) -> Option<Frame> {
        // Only the socket receives runs.
        if frame.train.is_some() {
            self.socket.take_opened(frame)
        } else {
            Some(frame)
        }
    }

    fn pending(&self) -> bool {
        self.port.unsent() || self.socket.pending()
    }

    fn health(&self) -> Arc<Health> {
        self.port.health()
    }
}
