//! A delay line: TUN devices that are the network between hosts, and a thread that lets packets wait on their way.
//!
//! It stands in for netem, which many kernels lack. Delay, jitter and loss come from a seed.

use super::clock::now;
use super::error::LabError;
use super::netns::NetNs;
use super::tap::{self, Kind};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How the line treats packets.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Every packet waits this long; a round trip waits twice.
    pub one_way: Duration,
    /// And up to this much longer, evenly spread. Packets may overtake each other.
    pub jitter: Duration,
    /// Of a thousand packets this many are lost.
    pub lost_per_mille: u32,
    pub seed: u64,
}

/// A host's end: its device and the addresses (with prefix length) on it.
#[derive(Clone, Debug)]
pub struct End {
    pub namespace: NetNs,
    pub device: String,
    pub addresses: Vec<(IpAddr, u8)>,
}

/// A running delay line. Dropping it cuts the line; the devices go with it.
#[derive(Debug)]
pub struct DelayLine {
    cut: Arc<AtomicBool>,
    one_way_ns: Arc<AtomicU64>,
    lost_per_mille: Arc<AtomicU32>,
    carrier: Option<JoinHandle<()>>,
}

impl DelayLine {
    /// Makes the devices, gives them their addresses, and begins to carry.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(ends: &[End], settings: Settings) -> Result<Self, LabError> {
        let mut files = Vec::new();
        let mut routes = BTreeMap::new();
        for (index, end) in ends.iter().enumerate() {
            files.push(tap::open(&end.namespace, Kind::Tun, &end.device)?);
            let mut commands = format!("link set {} mtu 1500 txqueuelen 1000 up", end.device);
            for (address, length) in &end.addresses {
                let nodad = if address.is_ipv6() { " nodad" } else { "" };
                commands.push_str(&format!(
                    "\naddress add {address}/{length} dev {}{nodad}",
                    end.device
                ));
                routes.insert(*address, index);
            }
            end.namespace.ip(&commands)?;
        }
        let cut = Arc::new(AtomicBool::new(false));
        let one_way_ns = Arc::new(AtomicU64::new(nanoseconds(settings.one_way)));
        let lost_per_mille = Arc::new(AtomicU32::new(settings.lost_per_mille));
        let line = Line {
            one_way_ns: Arc::clone(&one_way_ns),
            lost_per_mille: Arc::clone(&lost_per_mille),
            files,
            routes,
            settings,
            random: settings.seed | 1,
            waiting: BinaryHeap::new(),
            numbered: 0,
        };
        let told = Arc::clone(&cut);
        let carrier = std::thread::Builder::new()
            .name("delay line".to_owned())
            .spawn(move || line.carry(&told))
            .map_err(LabError::socket("the delay line's thread"))?;
        Ok(Self {
            cut,
            one_way_ns,
            lost_per_mille,
            carrier: Some(carrier),
        })
    }

    /// Changes how long packets wait from now on.
    pub fn set_one_way(&self, one_way: Duration) {
        self.one_way_ns
            .store(nanoseconds(one_way), Ordering::Relaxed);
    }

    /// Changes how many of a thousand packets are lost from now on, in each direction.
    pub fn set_lost_per_mille(&self, lost: u32) {
        self.lost_per_mille.store(lost, Ordering::Relaxed);
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Drop for DelayLine {
    fn drop(&mut self) {
        self.cut.store(true, Ordering::Relaxed);
        if let Some(carrier) = self.carrier.take() {
            // It holds nothing that a panic could leave behind.
            let _ = carrier.join();
        }
    }
}

/// When a packet is due, its number (so that equal times keep their order), the end it goes to, its bytes.
type Waiting = (Instant, u64, usize, Vec<u8>);

struct Line {
    one_way_ns: Arc<AtomicU64>,
    lost_per_mille: Arc<AtomicU32>,
    files: Vec<File>,
    routes: BTreeMap<IpAddr, usize>,
    settings: Settings,
    random: u64,
    waiting: BinaryHeap<Reverse<Waiting>>,
    numbered: u64,
}

impl Line {
    /// The longest sleep, so that a cut line ends soon.
    const NAP: Duration = Duration::from_millis(50);

    fn carry(mut self, cut: &AtomicBool) {
        // The default slack of 50 us would be a tenth of the delay.
        let _ = nix::sys::prctl::set_timerslack(1);
        let mut packet = vec![0; 65_536];
        while !cut.load(Ordering::Relaxed) {
            let due = self.waiting.peek().map(|Reverse((due, ..))| *due);
            let nap = due
                .map_or(Self::NAP, |due| due.saturating_duration_since(now()))
                .min(Self::NAP);
            let mut polled: Vec<PollFd<'_>> = self
                .files
                .iter()
                .map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN))
                .collect();
            // An interrupted wait is a short one.
            let _ = ppoll(&mut polled, Some(TimeSpec::from_duration(nap)), None);
            for index in 0..self.files.len() {
                self.take_in(index, &mut packet);
            }
            self.deliver();
        }
    }

    fn take_in(&mut self, index: usize, packet: &mut [u8]) {
        loop {
            let len = match self.files[index].read(packet) {
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            let Some(&to) = destination(&packet[..len]).and_then(|ip| self.routes.get(&ip)) else {
                continue;
            };
            if self.roll(1000) < u64::from(self.lost_per_mille.load(Ordering::Relaxed)) {
                continue;
            }
            let jitter_us = u64::try_from(self.settings.jitter.as_micros()).unwrap_or(u64::MAX);
            let late = Duration::from_micros(self.roll(jitter_us + 1));
            let one_way = Duration::from_nanos(self.one_way_ns.load(Ordering::Relaxed));
            self.numbered += 1;
            self.waiting.push(Reverse((
                now() + one_way + late,
                self.numbered,
                to,
                packet[..len].to_vec(),
            )));
        }
    }

    fn deliver(&mut self) {
        while let Some(Reverse((due, ..))) = self.waiting.peek()
            && *due <= now()
        {
            if let Some(Reverse((_, _, to, packet))) = self.waiting.pop() {
                // A full queue loses the packet, as any network does.
                let _ = self.files[to].write(&packet);
            }
        }
    }

    /// The next number below `bound` (xorshift64*).
    fn roll(&mut self, bound: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound.max(1)
    }
}

fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => <[u8; 4]>::try_from(packet.get(16..20)?)
            .ok()
            .map(IpAddr::from),
        6 => <[u8; 16]>::try_from(packet.get(24..40)?)
            .ok()
            .map(IpAddr::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_destination_is_read_from_both_families() {
        let mut v4 = [0; 20];
        v4[0] = 0x45;
        v4[16..20].copy_from_slice(&[192, 0, 2, 1]);
        assert_eq!(destination(&v4), Some("192.0.2.1".parse().unwrap()));
        let mut v6 = [0; 40];
        v6[0] = 0x60;
        v6[39] = 1;
        assert_eq!(destination(&v6), Some("::1".parse().unwrap()));
        assert_eq!(destination(&v6[..30]), None);
        assert_eq!(destination(&[]), None);
    }
}
