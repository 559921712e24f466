//! The service side over Ethernet: frames of local instances in, frames to their MAC addresses out.

use super::directory::{DirectoryReader, Neighbour};
use super::headers::{destination, push_ethernet, sources, strip_ethernet};
use super::port::Port;
use super::{Mac, cut};
use crate::{Arrival, Health, Link, LinkDown};
use arrayvec::ArrayVec;
use sluice_memory::{Account, Batch, Frame, Pool};
use sluice_wire::DropReason;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// The queues of the service device that one worker serves.
#[derive(Debug)]
pub struct XdpServiceLink {
    port: Port,
    mac: Mac,
    neighbours: DirectoryReader<Neighbour>,
    guards_sources: bool,
}

impl XdpServiceLink {
    pub(super) const fn new(
        port: Port,
        mac: Mac,
        neighbours: DirectoryReader<Neighbour>,
        guards_sources: bool,
    ) -> Self {
        Self {
            port,
            mac,
            neighbours,
            guards_sources,
        }
    }
}

impl Link for XdpServiceLink {
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
        let Self {
            port,
            neighbours,
            guards_sources,
            ..
        } = self;
        let neighbours = guards_sources.then(|| neighbours.load());
        Ok(port.receive(pool, account, batch, |frame| {
            if let Some(neighbours) = &neighbours
                && let Some((from, ip)) = sources(frame.bytes())
                && neighbours.get(ip).is_some_and(|known| known.mac != from)
            {
                return Err(DropReason::SourceForged);
            }
            strip_ethernet(frame)?;
            Ok(())
        }))
    }

    fn transmit<const N: usize>(
        &mut self,
        frames: &mut ArrayVec<Frame, N>,
        pool: &mut Pool,
        account: &Account,
    ) {
        let Self {
            port,
            mac,
            neighbours,
            ..
        } = self;
        let neighbours = neighbours.load();
        port.transmit(pool, |port, pool| {
            for frame in frames.drain(..) {
                cut::each(frame, pool, account, |mut frame, pool| {
                    let len = frame.len();
                    let ready = destination(frame.bytes())
                        .and_then(|ip| neighbours.get(ip))
                        .ok_or(DropReason::NoNeighbour)
                        .and_then(|to| match len {
                            fits if fits <= usize::from(to.mtu) => {
                                push_ethernet(&mut frame, to.mac, *mac)
                            }
                            _ => Err(DropReason::TooBig),
                        });
                    port.push_or_drop(frame, len, ready, pool, account);
                });
            }
        });
    }

    fn pending(&self) -> bool {
        self.port.unsent()
    }

    fn health(&self) -> Arc<Health> {
        self.port.health()
    }
}
