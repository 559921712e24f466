//! What came: buffers with one packet or a run of packets become frames, one per flow and run.
//!
//! Packets that continue one another (verified, contiguous, equal headers) leave as one frame with a [`Train`]: inside
//! a buffer without a copy, over buffers by appending the packet. A packet that was summed and is damaged is dropped
//! here; a packet that nothing could be joined to is not summed and leaves as it came, for its receiver to check.

use crate::pieces::Merge;
use sluice_memory::{Account, Batch, Checksum, Frame, Gso, GsoKind, Pool, TAILROOM, Train};
use sluice_wire::checksum::verify_l4;
use sluice_wire::segment::Run;
use sluice_wire::{DropReason, Family, Parsed, Protocol, parse};

/// A received buffer with more than so many bytes is not appended to a frame: copying it costs more than one write.
const APPEND_MAX: usize = 16 * 1024;

/// Packets of one frame: what the kernel takes of UDP (UDP_MAX_SEGMENTS, 64 before 6.9), and of TCP less than the parts
/// of one writev(2) (IOV_MAX, 1024).
const UDP_PACKETS_MAX: u32 = 64;
const TCP_PACKETS_MAX: u32 = 512;

/// A packet that others may follow, and those that did.
#[derive(Clone, Debug)]
struct Growing {
    /// Of the first packet.
    parsed: Parsed,
    run: Run,
    /// The first packet's checksum was found to be right. Those of the others are, always.
    verified: bool,
}

/// What offering a packet came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Offer {
    Joined,
    Refused,
    /// The first packet, not summed before, is damaged.
    FirstDamaged,
    /// The packet offered is damaged.
    Damaged,
}

impl Growing {
    fn start(first: &[u8], merge: Merge) -> Option<Self> {
        let parsed = parse(first).ok()?;
        if !merge.of(parsed.protocol) {
            return None;
        }
        Some(Self {
            parsed,
            run: Run::start(first, &parsed)?,
            verified: false,
        })
    }

    /// Sums are done last: most packets that do not belong together are told apart by their headers.
    fn offer(&mut self, first: &[u8], next: &[u8]) -> Offer {
        let most = match self.parsed.protocol {
            Protocol::Tcp => TCP_PACKETS_MAX,
            Protocol::Udp | Protocol::Icmp | Protocol::Other(_) => UDP_PACKETS_MAX,
        };
        if self.run.packets() >= most {
            return Offer::Refused;
        }
        let Ok(parsed) = parse(next) else {
            return Offer::Refused;
        };
        let mut longer = self.run;
        if !longer.join(first, next, &parsed) {
            return Offer::Refused;
        }
        if !self.verified {
            if !verify_l4(first, &self.parsed) {
                return Offer::FirstDamaged;
            }
            self.verified = true;
        }
        if !verify_l4(next, &parsed) {
            return Offer::Damaged;
        }
        self.run = longer;
        Offer::Joined
    }
}

/// A received buffer and how far it was worked off.
#[derive(Debug)]
pub(super) struct Source {
    frame: Frame,
    /// Bytes of every packet but the last.
    stride: usize,
    at: usize,
    /// The packet at `at` is known to be damaged.
    damaged: bool,
    /// Outcomes so far, for the account: each but the first is a split.
    groups: u32,
}

impl Source {
    pub(super) const fn new(frame: Frame, stride: usize) -> Self {
        Self {
            frame,
            stride,
            at: 0,
            damaged: false,
            groups: 0,
        }
    }

    /// Its first datagram begins as no packet does, but as the messages of the encrypted format: the worker opens them.
    pub(super) fn is_encrypted(&self) -> bool {
        self.at == 0 && matches!(self.frame.bytes().first(), Some(1..=4))
    }

    /// All of it as one frame.
    pub(super) fn into_run(self) -> Frame {
        let mut frame = self.frame;
        if self.stride < frame.len() {
            frame.train = u16::try_from(self.stride).ok().map(|stride| Train {
                stride,
                header_len: 0,
            });
        }
        frame
    }

    const fn is_used_up(&self) -> bool {
        self.at >= self.frame.len()
    }

    fn packet(&self, at: usize) -> &[u8] {
        let bytes = self.frame.bytes();
        bytes
            .get(at..bytes.len().min(at + self.stride))
            .unwrap_or(&[])
    }

    fn count_group(&mut self, account: &Account) {
        if self.groups > 0 {
            account.split.add(1);
        }
        self.groups += 1;
    }

    /// Drops the packet at `at`.
    fn drop_packet(&mut self, account: &Account) {
        self.at += self.packet(self.at).len();
        self.damaged = false;
        self.count_group(account);
        account.drop_frame(DropReason::BadChecksum);
    }

    /// The longest run from `at` on: what it is, and where it ends. `None` when the first packet is damaged.
    fn run(&mut self, merge: Merge) -> Option<(Option<Growing>, usize)> {
        let first = self.packet(self.at);
        let mut end = self.at + first.len();
        let mut growing = Growing::start(first, merge);
        let mut damaged = false;
        if let Some(growing) = &mut growing {
            while end < self.frame.len() {
                let next = self.packet(end);
                match growing.offer(first, next) {
                    Offer::Joined => end += next.len(),
                    Offer::Refused => break,
                    Offer::Damaged => {
                        damaged = true;
                        break;
                    }
                    Offer::FirstDamaged => return None,
                }
            }
        }
        self.damaged = damaged;
        Some((growing, end))
    }
}

/// The frame being built.
#[derive(Debug)]
struct Open {
    frame: Frame,
    /// `None`: nothing can follow.
    growing: Option<Growing>,
    /// Bytes of the first packet.
    stride: usize,
    /// Its only packet is known to be damaged.
    damaged: bool,
}

/// Turns received buffers into frames of a batch. Keeps the last frame open until [`Joiner::flush`].
#[derive(Debug, Default)]
pub(super) struct Joiner {
    merge: Merge,
    open: Option<Open>,
}

impl Joiner {
    pub(super) const fn new(merge: Merge) -> Self {
        Self { merge, open: None }
    }

    /// Works off `source` while `batch` has room for two more frames: the open one, and the next. Returns the source
    /// when it is not used up.
    pub(super) fn take(
        &mut self,
        mut source: Source,
        pool: &mut Pool,
        account: &Account,
        batch: &mut Batch,
    ) -> Option<Source> {
        self.append(&mut source, account);
        while !source.is_used_up() {
            self.flush(pool, account, batch);
            if batch.remaining_capacity() < 2 {
                return Some(source);
            }
            if source.damaged {
                source.drop_packet(account);
                continue;
            }
            let start = source.at;
            let Some((growing, end)) = source.run(self.merge) else {
                source.drop_packet(account);
                continue;
            };
            source.count_group(account);
            let stride = source.packet(start).len();
            let open = |frame| Open {
                frame,
                growing,
                stride,
                damaged: false,
            };
            if end >= source.frame.len() {
                let mut frame = source.frame;
                // Cannot fail: `start` is inside the frame.
                let _ = frame.pull_front(start);
                self.open = Some(open(frame));
                return None;
            }
            // Another flow follows in the same buffer: this part moves to a buffer of its own.
            source.at = end;
            let Some(buffer) = pool.take() else {
                account.drop_frame(DropReason::PoolEmpty);
                continue;
            };
            let mut frame = Frame::new(buffer);
            frame.fill(source.frame.bytes().get(start..end).unwrap_or(&[]));
            frame.outer = source.frame.outer;
            account.copied.add(1);
            self.open = Some(open(frame));
        }
        pool.release(source.frame.into_buffer());
        None
    }

    /// Appends packets of `source` to the open frame as long as they continue it.
    fn append(&mut self, source: &mut Source, account: &Account) {
        let Some(open) = &mut self.open else {
            return;
        };
        let Some(growing) = &mut open.growing else {
            return;
        };
        if source.frame.len() > APPEND_MAX || source.frame.outer != open.frame.outer {
            return;
        }
        let mut joined = false;
        while !source.is_used_up() {
            let next = source.packet(source.at);
            if next.len() + TAILROOM > open.frame.tailroom() {
                break;
            }
            let first = open.frame.bytes().get(..open.stride).unwrap_or(&[]);
            match growing.offer(first, next) {
                Offer::Joined => {
                    open.frame.append(next);
                    source.at += next.len();
                    joined = true;
                }
                Offer::Damaged => {
                    source.damaged = true;
                    break;
                }
                Offer::FirstDamaged => {
                    open.damaged = true;
                    break;
                }
                Offer::Refused => break,
            }
        }
        if joined {
            source.count_group(account);
            account.merged.add(1);
        }
    }

    /// Ends the open frame and moves it to `batch`, which has room for it.
    pub(super) fn flush(&mut self, pool: &mut Pool, account: &Account, batch: &mut Batch) {
        match self.open.take() {
            None => {}
            Some(open) if open.damaged => {
                account.drop_frame(DropReason::BadChecksum);
                pool.release(open.frame.into_buffer());
            }
            Some(open) => batch.push(open.close()),
        }
    }
}

impl Open {
    /// Makes the first header stand for all packets.
    fn close(mut self) -> Frame {
        let Some(growing) = self.growing else {
            return self.frame;
        };
        if growing.verified {
            self.frame.checksum = Checksum::Verified;
        }
        let Some(joined) = growing.run.finish(self.frame.bytes_mut()) else {
            return self.frame;
        };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "headers of a run are at most 128 bytes, its packets at most 65,535"
        )]
        let (header_len, stride) = (joined.parsed.header_len() as u16, self.stride as u16);
        let kind = match (joined.parsed.protocol, joined.parsed.family) {
            (Protocol::Tcp, Family::V4) => GsoKind::Tcp4,
            (Protocol::Tcp, Family::V6) => GsoKind::Tcp6,
            (Protocol::Udp | Protocol::Icmp | Protocol::Other(_), _) => GsoKind::Udp,
        };
        self.frame.checksum = Checksum::Partial {
            start: joined.parsed.l3_len,
            offset: joined.checksum_offset,
        };
        self.frame.gso = Some(Gso {
            kind,
            segment_size: joined.segment_size,
            header_len,
        });
        self.frame.train = Some(Train { stride, header_len });
        self.frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pieces::Pieces;
    use crate::testing;
    use sluice_memory::Endpoint;

    const BOTH: Merge = Merge {
        tcp: true,
        udp: true,
    };

    struct Joined {
        frames: Batch,
        pool: Pool,
        account: Account,
    }

    /// Each of `buffers` is what one receive gave: packets and, for a run, the bytes of each but the last.
    fn join(merge: Merge, buffers: &[(&[Vec<u8>], Option<usize>)]) -> Joined {
        let mut pool = Pool::new(128, 65_535).unwrap();
        let account = Account::default();
        let mut joiner = Joiner::new(merge);
        let mut frames = Batch::new();
        for (packets, stride) in buffers {
            let bytes = packets.concat();
            let mut frame = Frame::new(pool.take().unwrap());
            frame.fill(&bytes);
            frame.outer = Some(Endpoint {
                ip: "192.0.2.1".parse().unwrap(),
                port: 50103,
            });
            account.received.add(1);
            let source = Source::new(frame, stride.unwrap_or(bytes.len()));
            assert!(
                joiner
                    .take(source, &mut pool, &account, &mut frames)
                    .is_none()
            );
        }
        joiner.flush(&mut pool, &account, &mut frames);
        account.forwarded.add(frames.len() as u64);
        let (left, right) = account.balance();
        assert_eq!(left, right, "{account:?}");
        assert_eq!(pool.outstanding(), frames.len());
        Joined {
            frames,
            pool,
            account,
        }
    }

    /// What the frame stands for, cut again.
    fn packets(frame: &Frame) -> Vec<Vec<u8>> {
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

    /// `count` packets of one TCP flow with `size` bytes of payload each, the last with `last`.
    fn stream(v6: bool, port: u16, count: u32, size: usize, last: usize) -> Vec<Vec<u8>> {
        let bytes = testing::payload(size * count as usize);
        (0..count)
            .map(|index| {
                let at = index as usize * size;
                let len = if index + 1 == count { last } else { size };
                let sequence = 1000 + u32::try_from(at).unwrap();
                let mut packet = testing::tcp(v6, port, sequence, &bytes[at..at + len]);
                if !v6 {
                    // Don't fragment, so that identifications mean nothing.
                    packet[6] |= 0x40;
                    let parsed = parse(&packet).unwrap();
                    sluice_wire::checksum::complete_ipv4_header(&mut packet, &parsed);
                }
                packet
            })
            .collect()
    }

    fn without_identification(packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let clear = |mut packet: Vec<u8>| {
            if packet[0] >> 4 == 4 {
                packet[4..6].fill(0);
                packet[10..12].fill(0);
            }
            packet
        };
        packets.into_iter().map(clear).collect()
    }

    #[test]
    fn a_run_in_one_buffer_becomes_a_train_without_a_copy() {
        for v6 in [false, true] {
            let sent = stream(v6, 4000, 20, 1300, 700);
            let joined = join(BOTH, &[(&sent, Some(sent[0].len()))]);
            assert_eq!(joined.frames.len(), 1);
            let frame = &joined.frames[0];
            assert_eq!(frame.gso.unwrap().segment_size, 1300);
            assert_eq!(
                frame.train.unwrap().stride as usize,
                sent[0].len(),
                "v6 {v6}"
            );
            assert_eq!(joined.account.copied.value(), 0);
            assert_eq!(
                without_identification(packets(frame)),
                without_identification(sent)
            );
        }
    }

    #[test]
    fn single_datagrams_of_one_flow_are_appended_and_counted_merged() {
        let sent = stream(false, 4000, 10, 1300, 1300);
        let buffers: Vec<_> = sent
            .iter()
            .map(|packet| (std::slice::from_ref(packet), None))
            .collect();
        let joined = join(BOTH, &buffers);
        assert_eq!(joined.frames.len(), 1);
        assert_eq!(joined.account.merged.value(), 9);
        assert_eq!(
            without_identification(packets(&joined.frames[0])),
            without_identification(sent)
        );
    }

    #[test]
    fn flows_in_one_buffer_part_and_the_last_one_keeps_the_buffer() {
        let (a, b) = (stream(false, 1, 3, 500, 500), stream(false, 2, 4, 500, 500));
        let sent = [a.clone(), b.clone(), a.clone()].concat();
        let joined = join(BOTH, &[(&sent, Some(sent[0].len()))]);
        assert_eq!(joined.frames.len(), 3);
        assert_eq!(joined.account.split.value(), 2);
        assert_eq!(joined.account.copied.value(), 2);
        let out: Vec<_> = joined.frames.iter().flat_map(packets).collect();
        assert_eq!(without_identification(out), without_identification(sent));
    }

    #[test]
    fn datagrams_of_one_flow_and_size_are_joined_only_for_who_takes_them() {
        let sent: Vec<_> = (0..8_u8)
            .map(|fill| testing::udp(true, 9, &[fill; 64]))
            .collect();
        let buffers = [(sent.as_slice(), Some(sent[0].len()))];
        let joined = join(BOTH, &buffers);
        assert_eq!(joined.frames.len(), 1);
        assert_eq!(joined.frames[0].gso.unwrap().kind, GsoKind::Udp);
        assert_eq!(packets(&joined.frames[0]), sent);
        let tcp_only = Merge {
            tcp: true,
            udp: false,
        };
        let joined = join(tcp_only, &buffers);
        assert_eq!(joined.frames.len(), 8);
        let out: Vec<_> = joined.frames.iter().flat_map(packets).collect();
        assert_eq!(out, sent);
    }

    #[test]
    fn no_frame_stands_for_more_packets_than_the_kernel_takes() {
        let datagram = testing::udp(false, 9, &[1; 20]);
        let sent = vec![datagram; 50];
        let buffer = (sent.as_slice(), Some(sent[0].len()));
        let joined = join(BOTH, &[buffer, buffer, buffer]);
        let counts: Vec<usize> = joined
            .frames
            .iter()
            .map(|frame| packets(frame).len())
            .collect();
        assert_eq!(counts, [64, 64, 22]);
    }

    #[test]
    fn a_damaged_packet_in_a_run_is_dropped_wherever_it_is() {
        for damaged in 0..5 {
            let mut sent = stream(false, 4000, 5, 800, 800);
            let last = sent[damaged].len() - 1;
            sent[damaged][last] ^= 1;
            for runs in [true, false] {
                let joined = if runs {
                    join(BOTH, &[(&sent, Some(sent[0].len()))])
                } else {
                    let buffers: Vec<_> = sent
                        .iter()
                        .map(|packet| (std::slice::from_ref(packet), None))
                        .collect();
                    join(BOTH, &buffers)
                };
                assert_eq!(joined.account.dropped(DropReason::BadChecksum), 1);
                let out: Vec<_> = joined.frames.iter().flat_map(packets).collect();
                let mut good = sent.clone();
                good.remove(damaged);
                assert_eq!(
                    without_identification(out),
                    without_identification(good),
                    "packet {damaged}, runs {runs}"
                );
            }
        }
    }

    #[test]
    fn a_full_batch_keeps_the_rest_of_a_buffer_for_later() {
        let sent: Vec<_> = (0..100_u16)
            .map(|port| testing::udp(false, port, &[7; 32]))
            .collect();
        let bytes = sent.concat();
        let mut pool = Pool::new(128, 65_535).unwrap();
        let account = Account::default();
        let mut joiner = Joiner::new(BOTH);
        let mut frame = Frame::new(pool.take().unwrap());
        frame.fill(&bytes);
        account.received.add(1);
        let mut rest = Some(Source::new(frame, sent[0].len()));
        let mut out = Vec::new();
        while let Some(source) = rest {
            let mut batch = Batch::new();
            rest = joiner.take(source, &mut pool, &account, &mut batch);
            joiner.flush(&mut pool, &account, &mut batch);
            assert!(!batch.is_empty());
            for frame in batch {
                out.push(frame.bytes().to_vec());
                account.forwarded.add(1);
                pool.release(frame.into_buffer());
            }
        }
        assert_eq!(out, sent);
        let (left, right) = account.balance();
        assert_eq!(left, right);
        assert_eq!(pool.outstanding(), 0);
    }

    #[test]
    fn any_bytes_come_out_as_they_went_in_or_are_dropped_by_name() {
        bolero::check!()
            .with_type::<(Vec<u8>, u8)>()
            .for_each(|(bytes, stride)| {
                if bytes.is_empty() {
                    return;
                }
                let stride = usize::from(*stride).max(1).max(bytes.len() / 60 + 1);
                let whole = [bytes.clone()];
                let joined = join(BOTH, &[(&whole, Some(stride))]);
                let out: usize = joined.frames.iter().map(Frame::len).sum();
                assert!(out <= bytes.len());
                assert!(joined.pool.outstanding() <= BATCH_LEN);
            });
    }

    const BATCH_LEN: usize = sluice_memory::BATCH_MAX;
}
