//! Random bytes, from the caller: the system's in a gateway, a seed's in tests.

use crate::key::{KEY_LEN, PrivateKey};
use std::fmt;
use std::time::Duration;
use zeroize::Zeroizing;

/// Fills a buffer with random bytes that nobody can predict: all secrets come from here.
pub type Fill = Box<dyn FnMut(&mut [u8]) + Send>;

/// What is made of random bytes.
pub(crate) struct Entropy(Fill);

impl Entropy {
    pub(crate) fn new(fill: Fill) -> Self {
        Self(fill)
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        (self.0)(&mut bytes);
        bytes
    }

    pub(crate) fn private_key(&mut self) -> PrivateKey {
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        (self.0)(bytes.as_mut_slice());
        PrivateKey::from_bytes(&bytes)
    }

    pub(crate) fn index(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    /// From zero up to `max`.
    pub(crate) fn jitter(&mut self, max: Duration) -> Duration {
        max * u32::from(u16::from_le_bytes(self.bytes())) / u32::from(u16::MAX)
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy")
    }
}
