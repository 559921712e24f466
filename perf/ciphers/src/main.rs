//! ChaCha20-Poly1305 of ring, aws-lc-rs and the RustCrypto crates: nanoseconds to seal and to open a packet in place.
//!
//! Each takes its turn in every round, and the best batch of all rounds counts: what else the machine does only makes a batch
//! slower.

use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInPlace, KeyInit};
use std::time::Instant;

const LENGTHS: [usize; 3] = [64, 1400, 1440];
const TAG_LEN: usize = 16;
const BATCH: u64 = 64;
const BATCHES: u64 = 50;
const ROUNDS: u64 = 40;

/// One crate's cipher with one key.
trait Cipher {
    /// Seals all but the last 16 bytes, which become the tag.
    fn seal(&self, counter: u64, buffer: &mut [u8]);

    /// Opens what `seal` made.
    fn open(&self, counter: u64, buffer: &mut [u8]);
}

/// ring and aws-lc-rs have the same interface.
macro_rules! less_safe {
    ($name:ident, $of:ident) => {
        struct $name($of::aead::LessSafeKey);

        impl $name {
            fn new() -> Self {
                let key = $of::aead::UnboundKey::new(&$of::aead::CHACHA20_POLY1305, &[7; 32]);
                Self($of::aead::LessSafeKey::new(
                    key.expect("32 bytes are a key"),
                ))
            }
        }

        impl Cipher for $name {
            fn seal(&self, counter: u64, buffer: &mut [u8]) {
                let (text, tag) = buffer.split_at_mut(buffer.len() - TAG_LEN);
                let nonce = $of::aead::Nonce::assume_unique_for_key(nonce(counter));
                let made = self
                    .0
                    .seal_in_place_separate_tag(nonce, $of::aead::Aad::empty(), text);
                tag.copy_from_slice(made.expect("a short text is sealed").as_ref());
            }

            fn open(&self, counter: u64, buffer: &mut [u8]) {
                let nonce = $of::aead::Nonce::assume_unique_for_key(nonce(counter));
                let opened = self.0.open_in_place(nonce, $of::aead::Aad::empty(), buffer);
                opened.expect("what was sealed is opened");
            }
        }
    };
}

less_safe!(Ring, ring);
less_safe!(AwsLc, aws_lc_rs);

impl Cipher for ChaCha20Poly1305 {
    fn seal(&self, counter: u64, buffer: &mut [u8]) {
        let (text, tag) = buffer.split_at_mut(buffer.len() - TAG_LEN);
        let made = self.encrypt_in_place_detached(&nonce(counter).into(), &[], text);
        tag.copy_from_slice(&made.expect("a short text is sealed"));
    }

    fn open(&self, counter: u64, buffer: &mut [u8]) {
        let (text, tag) = buffer.split_at_mut(buffer.len() - TAG_LEN);
        let tag: [u8; TAG_LEN] = (&*tag).try_into().expect("16 bytes");
        let opened = self.decrypt_in_place_detached(&nonce(counter).into(), &[], text, &tag.into());
        opened.expect("what was sealed is opened");
    }
}

fn nonce(counter: u64) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    bytes
}

/// The best nanoseconds for one packet, to seal and to open.
fn measure(cipher: &dyn Cipher, buffers: &mut [Vec<u8>], best: &mut [f64; 2]) {
    for batch in 0..BATCHES {
        let mut timed = |index: usize, work: fn(&dyn Cipher, u64, &mut [u8])| {
            let begin = Instant::now();
            for (counter, buffer) in (batch * BATCH..).zip(buffers.iter_mut()) {
                work(cipher, counter, buffer);
            }
            let each = begin.elapsed().as_nanos() as f64 / BATCH as f64;
            best[index] = best[index].min(each);
        };
        timed(0, |cipher, counter, buffer| cipher.seal(counter, buffer));
        timed(1, |cipher, counter, buffer| cipher.open(counter, buffer));
    }
}

fn main() {
    let rust_crypto = ChaCha20Poly1305::new(&[7; 32].into());
    let ciphers: [(&str, &dyn Cipher); 3] = [
        ("ring", &Ring::new()),
        ("aws-lc-rs", &AwsLc::new()),
        ("chacha20poly1305", &rust_crypto),
    ];
    println!("bytes  crate             seal ns  open ns");
    for len in LENGTHS {
        let mut buffers = vec![vec![0; len + TAG_LEN]; BATCH as usize];
        let mut best = [[f64::INFINITY; 2]; 3];
        for _ in 0..ROUNDS {
            for ((_, cipher), best) in ciphers.iter().zip(&mut best) {
                measure(*cipher, &mut buffers, best);
            }
        }
        for ((name, _), [seal, open]) in ciphers.iter().zip(best) {
            println!("{len:5}  {name:16}  {seal:7.0}  {open:7.0}");
        }
    }
}
