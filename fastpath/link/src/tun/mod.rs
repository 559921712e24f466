//! The service side as a TUN device: one queue per worker, super-frames whole in both directions.

pub mod vnet_header;

use crate::pieces::{HeaderBytes, Pieces, complete_checksum, count_forwarded};
use crate::sys::tun::{Offload, attach, in_use, set_offload, set_persistent};
use crate::{Arrival, Health, Link, LinkDown, Merge};
use arrayvec::ArrayVec;
use sluice_memory::{
    Account, Batch, Checksum, FRAME_LEN_MAX, Frame, HEADROOM, Pool, TAILROOM, Train,
};
use sluice_wire::DropReason;
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use thiserror::Error;
use vnet_header::{VNET_HEADER_LEN, VnetHeader};

/// Packets of one train; UDP links make shorter ones.
const TRAIN_MAX: usize = 1000;

/// Bytes read before what was read goes on: they are still in the cache when they are sent.
const RECEIVE_BYTES_MAX: usize = 60 * 1024;

/// How to open the service side.
#[derive(Clone, Debug)]
pub struct TunSettings {
    /// The device, at most 15 bytes. An existing one of this name is adopted as it is.
    pub name: String,
    /// Queues, one per worker, 1 or more.
    pub workers: usize,
    /// Exchange super-frames and partial checksums with the kernel.
    pub offload: bool,
    /// One packet per system call: for comparisons.
    pub one_packet_per_syscall: bool,
    /// The device, its addresses and routes outlive this process, so that a restart adopts them.
    pub persistent: bool,
}

#[derive(Debug, Error)]
pub enum TunError {
    #[error("TUN device {name} is in use by another process; stop it, or change `gateway.tun`")]
    InUse { name: String },
    #[error(
        "attaching to TUN device {name} failed: {source}; it needs CAP_NET_ADMIN, /dev/net/tun, and no device of that name but a multi-queue TUN"
    )]
    Attach { name: String, source: io::Error },
}

/// One queue of the device.
#[derive(Debug)]
pub struct TunLink {
    name: String,
    queue: File,
    offload: Offload,
    /// Packets per receive: 1 in the comparison mode.
    burst: usize,
    health: Arc<Health>,
}

/// Opens the device once per worker. Makes it when it does not exist; bringing it up is the caller's.
///
/// # Errors
/// When another process has it, or without privilege.
pub fn open(settings: &TunSettings) -> Result<Vec<TunLink>, TunError> {
    let failed = |source| TunError::Attach {
        name: settings.name.clone(),
        source,
    };
    if in_use(&settings.name).map_err(failed)? {
        return Err(TunError::InUse {
            name: settings.name.clone(),
        });
    }
    let most = if settings.offload && !settings.one_packet_per_syscall {
        Offload::FULL
    } else {
        Offload::NONE
    };
    let mut links = Vec::new();
    for _ in 0..settings.workers.max(1) {
        let queue = attach(&settings.name).map_err(failed)?;
        links.push(TunLink {
            name: settings.name.clone(),
            offload: set_offload(&queue, most).map_err(failed)?,
            queue,
            burst: if settings.one_packet_per_syscall {
                1
            } else {
                usize::MAX
            },
            health: Arc::default(),
        });
    }
    if let Some(link) = links.first() {
        set_persistent(&link.queue, settings.persistent).map_err(failed)?;
    }
    Ok(links)
}

impl TunLink {
    /// What the kernel accepted.
    #[must_use]
    pub const fn offload(&self) -> Offload {
        self.offload
    }

    /// What is worth joining for this device.
    #[must_use]
    pub const fn merge(&self) -> Merge {
        Merge {
            tcp: self.offload.tcp(),
            udp: self.offload.udp(),
        }
    }

    /// Makes the device outlive its last queue, or go with it.
    ///
    /// # Errors
    /// When the queue is no longer attached.
    pub fn set_persistent(&self, persistent: bool) -> io::Result<()> {
        set_persistent(&self.queue, persistent)
    }

    /// Reads one packet into `frame`; false when none is there.
    fn read(&self, frame: &mut Frame) -> io::Result<bool> {
        // The header lands in the headroom, so that the packet starts where packets start.
        let start = HEADROOM - VNET_HEADER_LEN;
        let buffer = frame.buffer_mut();
        let end = (buffer.len() - TAILROOM).min(HEADROOM + FRAME_LEN_MAX);
        match (&self.queue).read(&mut buffer[start..end]) {
            Ok(len) => {
                frame.set_range(start, len);
                Ok(true)
            }
            Err(error) => nothing_there(error),
        }
    }

    /// Without a buffer: what has come is dropped, or the worker would wake for it again and again.
    fn discard(&self) -> io::Result<bool> {
        match (&self.queue).read(&mut [0; VNET_HEADER_LEN]) {
            Ok(_len) => Ok(true),
            Err(error) => nothing_there(error),
        }
    }

    fn down(&self, source: io::Error) -> LinkDown {
        LinkDown {
            link: self.name.clone(),
            source,
        }
    }

    /// Whether the kernel takes `frame` as it is.
    fn takes(&self, frame: &Frame) -> bool {
        frame.gso.is_none_or(|gso| match gso.kind {
            sluice_memory::GsoKind::Tcp4 | sluice_memory::GsoKind::Tcp6 => self.offload.tcp(),
            sluice_memory::GsoKind::Udp => self.offload.udp(),
        })
    }

    /// Writes one frame and counts it.
    fn write(&self, frame: &mut Frame, account: &Account) {
        if frame.is_empty() {
            account.drop_frame(DropReason::Empty);
            return;
        }
        if !self.takes(frame) {
            self.write_pieces(frame, account);
            return;
        }
        if frame.gso.is_none()
            && !self.offload.tcp()
            && let Err(reason) = complete_checksum(frame)
        {
            account.drop_frame(reason);
            return;
        }
        let len = frame.len();
        match self.write_whole(frame) {
            Ok(()) => count_forwarded(account, len),
            Err(error) if frame.gso.is_some() && error.raw_os_error() == Some(libc::EINVAL) => {
                self.health.gso_refused.add(1);
                self.write_pieces(frame, account);
            }
            Err(error) => self.count_refused(&error, account),
        }
    }

    fn write_whole(&self, frame: &mut Frame) -> io::Result<()> {
        let header = VnetHeader::of(frame).emit();
        let train = frame.train;
        // Every link leaves more headroom than this, and a frame without it is a bug that shows as EINVAL.
        let Some(front) = frame.push_front(VNET_HEADER_LEN) else {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        };
        front.copy_from_slice(&header);
        let result = match train {
            None => retry(|| (&self.queue).write(frame.bytes())),
            Some(train) => self.write_train(frame.bytes(), train),
        };
        // A fall-back writes the packet again.
        let _ = frame.pull_front(VNET_HEADER_LEN);
        result
    }

    /// Writes virtio-net header, first packet, and the payload of each packet after it.
    fn write_train(&self, bytes: &[u8], train: Train) -> io::Result<()> {
        let stride = usize::from(train.stride).max(1);
        let (first, rest) = bytes.split_at(bytes.len().min(stride + VNET_HEADER_LEN));
        let mut parts = ArrayVec::<IoSlice<'_>, TRAIN_MAX>::new();
        parts.push(IoSlice::new(first));
        for packet in rest.chunks(stride) {
            let payload = packet.get(usize::from(train.header_len)..).unwrap_or(&[]);
            if parts.try_push(IoSlice::new(payload)).is_err() {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
        }
        retry(|| (&self.queue).write_vectored(&parts))
    }

    /// Writes a super-frame as the packets it stands for.
    fn write_pieces(&self, frame: &Frame, account: &Account) {
        let pieces = match Pieces::of(frame) {
            Ok(pieces) => pieces,
            Err(reason) => {
                account.drop_frame(reason);
                return;
            }
        };
        account.split.add(pieces.len() as u64 - 1);
        for index in 0..pieces.len() {
            let mut header: HeaderBytes = [0; _];
            let payload = pieces.payload(index);
            let header_len = match pieces.header(index, &mut header) {
                Ok(len) => len,
                Err(reason) => {
                    account.drop_frame(reason);
                    continue;
                }
            };
            let parts = [
                IoSlice::new(&[0; VNET_HEADER_LEN]),
                IoSlice::new(header.get(..header_len).unwrap_or(&[])),
                IoSlice::new(payload),
            ];
            match retry(|| (&self.queue).write_vectored(&parts)) {
                Ok(()) => count_forwarded(account, header_len + payload.len()),
                Err(error) => self.count_refused(&error, account),
            }
        }
    }

    fn count_refused(&self, error: &io::Error, account: &Account) {
        let errno = error.raw_os_error().unwrap_or(0);
        self.health.note_errno(errno);
        account.drop_frame(match errno {
            libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM => DropReason::LinkFull,
            _ => DropReason::LinkError,
        });
    }
}

/// Writes again after a signal.
fn retry(mut write: impl FnMut() -> io::Result<usize>) -> io::Result<()> {
    loop {
        match write() {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Tells an empty queue, and a device that is only set down (EFAULT, EIO), from one that is gone.
fn nothing_there(error: io::Error) -> io::Result<bool> {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EINTR | libc::EFAULT | libc::EIO | libc::ENOMEM) => Ok(false),
        Some(_) | None => Err(error),
    }
}

impl Link for TunLink {
    fn name(&self) -> &str {
        &self.name
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.queue.as_fd())
    }

    fn receive(
        &mut self,
        pool: &mut Pool,
        account: &Account,
        batch: &mut Batch,
    ) -> Result<Arrival, LinkDown> {
        let mut bytes = 0;
        for _ in 0..batch.remaining_capacity().min(self.burst) {
            if bytes >= RECEIVE_BYTES_MAX {
                break;
            }
            let Some(buffer) = pool.take() else {
                if !self.discard().map_err(|source| self.down(source))? {
                    return Ok(Arrival::Drained);
                }
                account.received.add(1);
                account.drop_frame(DropReason::PoolEmpty);
                continue;
            };
            let mut frame = Frame::new(buffer);
            match self.read(&mut frame) {
                Ok(true) => {}
                Ok(false) => {
                    pool.release(frame.into_buffer());
                    return Ok(Arrival::Drained);
                }
                Err(source) => {
                    pool.release(frame.into_buffer());
                    return Err(self.down(source));
                }
            }
            account.received.add(1);
            match describe(&mut frame) {
                Ok(()) => {
                    bytes += frame.len();
                    account.received_bytes.add(frame.len() as u64);
                    batch.push(frame);
                }
                Err(reason) => {
                    account.drop_frame(reason);
                    pool.release(frame.into_buffer());
                }
            }
        }
        Ok(Arrival::More)
    }

    fn transmit<const N: usize>(
        &mut self,
        frames: &mut ArrayVec<Frame, N>,
        pool: &mut Pool,
        account: &Account,
    ) {
        for mut frame in frames.drain(..) {
            self.write(&mut frame, account);
            pool.release(frame.into_buffer());
        }
    }

    fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }
}

/// Takes the virtio-net header off and understands it.
fn describe(frame: &mut Frame) -> Result<(), DropReason> {
    let header = frame
        .bytes()
        .first_chunk()
        .copied()
        .ok_or(DropReason::Malformed)?;
    frame.pull_front(VNET_HEADER_LEN).ok_or(DropReason::Empty)?;
    frame.checksum = Checksum::Unknown;
    VnetHeader::parse(header).describe(frame)
}
