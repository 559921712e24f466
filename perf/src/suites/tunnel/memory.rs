//! What a session costs beside its cipher: packets are sealed and opened in memory, beside the cipher's own calls.

use super::super::Settings;
use crate::lab::LabError;
use crate::lab::clock::CpuClock;
use crate::report::{Goal, Report, Row};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sluice_tables::PeerSlot;
use sluice_tables::slots::Slot;
use sluice_tunnel::address::Address;
use sluice_tunnel::key::{Identity, PresharedKey, PrivateKey};
use sluice_tunnel::peer::PeerSettings;
use sluice_tunnel::session::{HEADROOM, Session, TAILROOM};
use sluice_tunnel::{Refusal, Speaker};
use sluice_wire::Ip;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

const PACKET_LEN: usize = 1400;
/// The longest packet: none is filled up beyond.
const MTU: usize = PACKET_LEN;
/// Packets of one batch, as many as a worker has at once.
const BATCH: usize = 64;
const NOW: Duration = Duration::from_secs(1000);

/// `aead_share`.
pub(super) fn aead_share(settings: &Settings, report: &mut Report) -> Result<(), LabError> {
    (settings.say)("sealing and opening in memory");
    let (runs, batches) = if settings.quick { (9, 200) } else { (25, 1000) };
    let [sender, receiver] = sessions()?;
    let clock = CpuClock::new();
    let mut raw = Raw::new();
    let mut buffers = vec![[0; HEADROOM + PACKET_LEN + TAILROOM]; BATCH];
    let mut ours = || {
        let begin = clock.now();
        for _ in 0..batches {
            for buffer in &mut buffers {
                let sealed = sender.seal(buffer, PACKET_LEN, MTU, NOW);
                let len = sealed.map_or(0, |sealed| sealed.len);
                black_box(len);
            }
            for buffer in &mut buffers {
                let datagram = &mut buffer[..HEADROOM + PACKET_LEN + 16];
                let opened = receiver.open(datagram, NOW);
                assert!(opened.is_ok(), "what was sealed is opened: {opened:?}");
            }
        }
        gbit_s(batches, clock.since(begin))
    };
    ours();
    let mut pairs = Vec::new();
    for _ in 0..runs {
        pairs.push((ours(), raw.gbit_s(batches, &clock)));
    }
    let row = Row::beside("aead_share", "Gbit/s", "ring_alone", &pairs);
    report.push(row.with_goal(Goal::RatioAtLeast(0.85)));
    Ok(())
}

/// Of packets that were both sealed and opened.
fn gbit_s(batches: usize, spent: Duration) -> f64 {
    8e-9 * (batches * BATCH * PACKET_LEN) as f64 / spent.as_secs_f64()
}

/// The cipher alone, with the nonces and lengths of the session.
struct Raw {
    key: LessSafeKey,
    counter: u64,
    buffers: Vec<[u8; PACKET_LEN + 16]>,
}

impl Raw {
    fn new() -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &[7; 32])
            .unwrap_or_else(|_| unreachable!("a key of 32 bytes is what the cipher takes"));
        Self {
            key: LessSafeKey::new(key),
            counter: 0,
            buffers: vec![[0; PACKET_LEN + 16]; BATCH],
        }
    }

    fn gbit_s(&mut self, batches: usize, clock: &CpuClock) -> f64 {
        let begin = clock.now();
        for _ in 0..batches {
            for (number, buffer) in (self.counter..).zip(&mut self.buffers) {
                let (text, tag) = buffer.split_at_mut(PACKET_LEN);
                let sealed = self
                    .key
                    .seal_in_place_separate_tag(nonce(number), Aad::empty(), text);
                if let Ok(made) = sealed {
                    tag.copy_from_slice(made.as_ref());
                }
            }
            for (number, buffer) in (self.counter..).zip(&mut self.buffers) {
                let opened = self.key.open_in_place(nonce(number), Aad::empty(), buffer);
                assert!(opened.is_ok(), "what was sealed is opened");
            }
            self.counter += BATCH as u64;
        }
        gbit_s(batches, clock.since(begin))
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Both ends of a session, after a handshake in memory.
fn sessions() -> Result<[Arc<Session>; 2], LabError> {
    let peer = PeerSlot::from_index(0);
    let identity = |host: u8| Identity::new(PrivateKey::from_bytes(&[host; 32]));
    let address = |host: u8| Address {
        ip: Ip::v4([192, 0, 2, host]),
        port: 50_103,
    };
    let refused = |refusal: String| LabError::Reply {
        what: "a handshake in memory".to_owned(),
        text: refusal,
    };
    let end = |own: u8, other: u8| -> Result<Speaker, LabError> {
        // Nobody outside hears these: they need not be hard to guess.
        let mut next = own;
        let fill = Box::new(move |bytes: &mut [u8]| {
            for byte in bytes {
                next = next.wrapping_mul(5).wrapping_add(1);
                *byte = next;
            }
        });
        let unix = Duration::from_secs(1_800_000_000);
        let mut speaker = Speaker::new(identity(own), fill, unix, NOW);
        let settings = PeerSettings {
            key: *identity(other).public(),
            preshared: PresharedKey::none(),
            address: Some(address(other)),
            keepalive: None,
        };
        let added = speaker.add(peer, settings, NOW);
        added.map_err(|error| refused(error.to_string()))?;
        Ok(speaker)
    };
    let mut ends = [end(1, 2)?, end(2, 1)?];
    ends[0].request(peer, NOW);
    for _ in 0..2 {
        for (from, host) in [(0, 1), (1, 2)] {
            while let Some(said) = ends[from].poll_transmit() {
                let mut datagram = said.datagram().to_vec();
                let heard = ends[1 - from].handle_datagram(&mut datagram, address(host), NOW);
                heard.map_err(|refusal: Refusal| refused(format!("{refusal:?}")))?;
            }
        }
    }
    let session =
        |speaker: &Speaker| -> Option<Arc<Session>> { speaker.sessions(peer)?.current.clone() };
    match [session(&ends[0]), session(&ends[1])] {
        [Some(one), Some(other)] => Ok([one, other]),
        _ => Err(refused("no session".to_owned())),
    }
}
