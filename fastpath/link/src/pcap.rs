//! A capture file as a link: replays its packets as received ones, and records what is sent to another file.
//!
//! The classic format (draft-ietf-opsawg-pcap), either byte order, microseconds or nanoseconds; link types raw IP
//! (101, 228, 229, and 12 as OpenBSD and old libpcap wrote it) and Ethernet (1), whose frames without IP are skipped.

use crate::{Arrival, Health, Link, LinkDown};
use arrayvec::ArrayVec;
use sluice_memory::{Account, Batch, Frame, Pool};
use sluice_wire::DropReason;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

const MAGIC_MICROSECONDS: u32 = 0xa1b2_c3d4;
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
const FILE_HEADER_LEN: usize = 24;
const RECORD_HEADER_LEN: usize = 16;
const ETHERNET_LEN: usize = 14;

const LINKTYPE_ETHERNET: u32 = 1;
const LINKTYPE_RAW_OLD: u32 = 12;
const LINKTYPE_RAW: u32 = 101;
const LINKTYPE_IPV4: u32 = 228;
const LINKTYPE_IPV6: u32 = 229;

#[derive(Debug, Error)]
pub enum PcapError {
    #[error("reading {path} failed: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("creating {path} failed: {source}", path = path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error(
        "{path} is no classic pcap file; convert it with `tcpdump -r in -w out` or `editcap -F pcap in out`",
        path = path.display()
    )]
    Format { path: PathBuf },
    #[error("{path} has link type {link_type}; only raw IP and Ethernet can be replayed", path = path.display())]
    LinkType { path: PathBuf, link_type: u32 },
}

/// The packets of a capture. Iterating never panics, whatever the bytes; a truncated last record ends it.
#[derive(Clone, Debug)]
pub struct Capture<'a> {
    rest: &'a [u8],
    swapped: bool,
    ethernet: bool,
}

/// Why bytes are not a capture that can be replayed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NotReplayable {
    Format,
    LinkType(u32),
}

impl<'a> Capture<'a> {
    /// # Errors
    /// When the bytes do not begin with the header of a classic pcap file of a known link type.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, NotReplayable> {
        let (header, rest) = bytes
            .split_first_chunk::<FILE_HEADER_LEN>()
            .ok_or(NotReplayable::Format)?;
        let magic = word(header, 0, false).ok_or(NotReplayable::Format)?;
        let swapped = match magic {
            MAGIC_MICROSECONDS | MAGIC_NANOSECONDS => false,
            _ if [MAGIC_MICROSECONDS, MAGIC_NANOSECONDS].contains(&magic.swap_bytes()) => true,
            _ => return Err(NotReplayable::Format),
        };
        let link_type = word(header, 20, swapped).ok_or(NotReplayable::Format)? & 0x0fff_ffff;
        let ethernet = match link_type {
            LINKTYPE_ETHERNET => true,
            LINKTYPE_RAW_OLD | LINKTYPE_RAW | LINKTYPE_IPV4 | LINKTYPE_IPV6 => false,
            other => return Err(NotReplayable::LinkType(other)),
        };
        Ok(Self {
            rest,
            swapped,
            ethernet,
        })
    }
}

impl<'a> Iterator for Capture<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let (header, rest) = self.rest.split_at_checked(RECORD_HEADER_LEN)?;
            let len = usize::try_from(word(header, 8, self.swapped)?).ok()?;
            let (packet, rest) = rest.split_at_checked(len)?;
            self.rest = rest;
            if !self.ethernet {
                return Some(packet);
            }
            if let Some(packet) = inside_ethernet(packet) {
                return Some(packet);
            }
        }
    }
}

/// The IP packet in an Ethernet frame, behind up to two VLAN tags.
fn inside_ethernet(frame: &[u8]) -> Option<&[u8]> {
    let mut kind_at = ETHERNET_LEN - 2;
    for _ in 0..3 {
        match frame.get(kind_at..)?.first_chunk()? {
            [0x08, 0x00] | [0x86, 0xdd] => return frame.get(kind_at + 2..),
            [0x81, 0x00] | [0x88, 0xa8] => kind_at += 4,
            _ => return None,
        }
    }
    None
}

fn word(bytes: &[u8], offset: usize, swapped: bool) -> Option<u32> {
    let word = u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?);
    Some(if swapped { word.swap_bytes() } else { word })
}

/// Replays a file, and records to another.
#[derive(Debug)]
pub struct PcapLink {
    name: String,
    packets: Vec<Box<[u8]>>,
    next: usize,
    record: Option<BufWriter<File>>,
    health: Arc<Health>,
}

impl PcapLink {
    /// Reads the whole capture `replay`, and creates `record` when it is given.
    ///
    /// # Errors
    /// When a file cannot be opened, or `replay` is not a capture that can be replayed.
    pub fn open(replay: &Path, record: Option<&Path>) -> Result<Self, PcapError> {
        let path = replay.to_path_buf();
        let bytes = match std::fs::read(replay) {
            Ok(bytes) => bytes,
            Err(source) => return Err(PcapError::Read { path, source }),
        };
        let capture = match Capture::parse(&bytes) {
            Ok(capture) => capture,
            Err(NotReplayable::Format) => return Err(PcapError::Format { path }),
            Err(NotReplayable::LinkType(link_type)) => {
                return Err(PcapError::LinkType { path, link_type });
            }
        };
        let packets = capture.map(Into::into).collect();
        let record = record.map(create).transpose()?;
        Ok(Self {
            name: replay.display().to_string(),
            packets,
            next: 0,
            record,
            health: Arc::default(),
        })
    }

    /// Packets that are still to come.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.packets.len() - self.next
    }

    fn write(&mut self, packet: &[u8]) -> io::Result<()> {
        let Some(record) = &mut self.record else {
            return Ok(());
        };
        let len = u32::try_from(packet.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes();
        // Links know no time: records carry none.
        record.write_all(&[0; 8])?;
        record.write_all(&len)?;
        record.write_all(&len)?;
        record.write_all(packet)
    }
}

/// A new capture file of raw IP.
fn create(path: &Path) -> Result<BufWriter<File>, PcapError> {
    let mut header = Vec::with_capacity(FILE_HEADER_LEN);
    header.extend(MAGIC_MICROSECONDS.to_le_bytes());
    header.extend(2_u16.to_le_bytes());
    header.extend(4_u16.to_le_bytes());
    header.extend([0; 8]);
    header.extend(262_144_u32.to_le_bytes());
    header.extend(LINKTYPE_RAW.to_le_bytes());
    let written = File::create(path).and_then(|file| {
        let mut file = BufWriter::new(file);
        file.write_all(&header)?;
        Ok(file)
    });
    written.map_err(|source| PcapError::Create {
        path: path.to_path_buf(),
        source,
    })
}

impl Link for PcapLink {
    fn name(&self) -> &str {
        &self.name
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn receive(
        &mut self,
        pool: &mut Pool,
        account: &Account,
        batch: &mut Batch,
    ) -> Result<Arrival, LinkDown> {
        while let Some(packet) = self.packets.get(self.next) {
            if batch.is_full() {
                return Ok(Arrival::More);
            }
            // Replay loses nothing: without a buffer it waits.
            let Some(buffer) = pool.take() else {
                return Ok(Arrival::More);
            };
            self.next += 1;
            account.received.add(1);
            account.received_bytes.add(packet.len() as u64);
            let mut frame = Frame::new(buffer);
            if packet.len() + sluice_memory::TAILROOM > frame.tailroom() {
                account.drop_frame(DropReason::Malformed);
                pool.release(frame.into_buffer());
                continue;
            }
            frame.fill(packet);
            batch.push(frame);
        }
        Ok(Arrival::Drained)
    }

    fn transmit<const N: usize>(
        &mut self,
        frames: &mut ArrayVec<Frame, N>,
        pool: &mut Pool,
        account: &Account,
    ) {
        for frame in frames.drain(..) {
            match self.write(frame.bytes()) {
                Ok(()) => crate::pieces::count_forwarded(account, frame.len()),
                Err(error) => {
                    self.health.note_errno(error.raw_os_error().unwrap_or(0));
                    account.drop_frame(DropReason::LinkError);
                }
            }
            pool.release(frame.into_buffer());
        }
        if let Some(record) = &mut self.record
            && let Err(error) = record.flush()
        {
            self.health.note_errno(error.raw_os_error().unwrap_or(0));
        }
    }

    fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn capture(link_type: u32, swapped: bool, packets: &[&[u8]]) -> Vec<u8> {
        let put = |value: u32| {
            if swapped {
                value.to_be_bytes()
            } else {
                value.to_le_bytes()
            }
        };
        let mut bytes = Vec::new();
        bytes.extend(put(MAGIC_MICROSECONDS));
        bytes.extend([0; 16]);
        bytes.extend(put(link_type));
        for packet in packets {
            bytes.extend([0; 8]);
            bytes.extend(put(u32::try_from(packet.len()).unwrap()));
            bytes.extend(put(u32::try_from(packet.len()).unwrap()));
            bytes.extend(*packet);
        }
        bytes
    }

    #[test]
    fn raw_and_ethernet_captures_of_either_byte_order_give_ip_packets() {
        let ip = testing::udp(false, 1, b"x");
        let ethernet = [&[0; 12][..], &[8, 0], &ip].concat();
        let tagged = [&[0; 12][..], &[0x81, 0, 0, 5, 8, 0], &ip].concat();
        let arp = [&[0; 12][..], &[8, 6], &[0; 28]].concat();
        for swapped in [false, true] {
            let raw = capture(LINKTYPE_RAW, swapped, &[&ip, &ip]);
            assert_eq!(
                Capture::parse(&raw).unwrap().collect::<Vec<_>>(),
                [&ip, &ip]
            );
            let all = capture(LINKTYPE_ETHERNET, swapped, &[&ethernet, &arp, &tagged]);
            assert_eq!(
                Capture::parse(&all).unwrap().collect::<Vec<_>>(),
                [&ip, &ip]
            );
        }
        let other = capture(113, false, &[]);
        assert_eq!(
            Capture::parse(&other).unwrap_err(),
            NotReplayable::LinkType(113)
        );
        assert_eq!(
            Capture::parse(b"\n\r\r\n").unwrap_err(),
            NotReplayable::Format
        );
    }

    #[test]
    fn any_bytes_end() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let header = capture(LINKTYPE_ETHERNET, false, &[]);
            let bytes = [&header, bytes].concat();
            assert!(Capture::parse(&bytes).unwrap().count() <= bytes.len());
            let _ = Capture::parse(&bytes[FILE_HEADER_LEN..]).map(Iterator::count);
        });
    }

    #[test]
    fn what_is_replayed_and_recorded_can_be_replayed() {
        let dir = std::env::temp_dir().join(format!("sluice-pcap-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (first, second) = (dir.join("first.pcap"), dir.join("second.pcap"));
        let packets: Vec<Vec<u8>> = (0..100)
            .map(|port| testing::udp(true, port, b"payload"))
            .collect();
        let views: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
        std::fs::write(&first, capture(LINKTYPE_RAW, true, &views)).unwrap();

        let mut pool = Pool::new(100, 2000).unwrap();
        let account = Account::default();
        let mut link = PcapLink::open(&first, Some(&second)).unwrap();
        let mut batch = Batch::new();
        while link.remaining() > 0 {
            link.receive(&mut pool, &account, &mut batch).unwrap();
            link.transmit(&mut batch, &mut pool, &account);
        }
        assert_eq!(account.balance(), (100, 100));
        assert_eq!(pool.outstanding(), 0);
        let recorded = std::fs::read(&second).unwrap();
        assert_eq!(
            Capture::parse(&recorded).unwrap().collect::<Vec<_>>(),
            views
        );
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
