//! ChaCha20-Poly1305 (RFC 8439) with the nonces of Noise: four zero bytes, then the counter, little-endian.

use crate::key::KEY_LEN;
use crate::refusal::Refusal;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use std::hint::black_box;

/// Bytes by which sealing makes a text longer.
pub(crate) const TAG_LEN: usize = 16;

/// One key. The caller makes sure that no counter seals twice; "less safe" is ring's name for that.
pub(crate) struct Cipher(LessSafeKey);

impl Cipher {
    pub(crate) fn new(key: &[u8; KEY_LEN]) -> Self {
        Self(ring_key(key))
    }

    /// Encrypts in place and returns the tag.
    #[inline]
    pub(crate) fn seal(&self, counter: u64, aad: &[u8], text: &mut [u8]) -> [u8; TAG_LEN] {
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce(counter), Aad::from(aad), text)
            .unwrap_or_else(|_| unreachable!("only a text of more than 256 GiB is refused"));
        let mut bytes = [0; TAG_LEN];
        bytes.copy_from_slice(tag.as_ref());
        bytes
    }

    /// Checks and decrypts in place a text that ends with its tag; what is left is the text without.
    ///
    /// # Errors
    /// [`Refusal::Forged`]; the bytes are then of no use to anybody.
    #[inline]
    pub(crate) fn open<'t>(
        &self,
        counter: u64,
        aad: &[u8],
        sealed: &'t mut [u8],
    ) -> Result<&'t mut [u8], Refusal> {
        self.0
            .open_in_place(nonce(counter), Aad::from(aad), sealed)
            .map_err(|_| Refusal::Forged)
    }

    /// Overwrites the key, which ring does not do for one that is dropped.
    fn wipe(&mut self) {
        self.0 = ring_key(&[0; KEY_LEN]);
        // Else the compiler may see that nobody reads the zeros, and not write them.
        black_box(&self.0);
    }
}

impl Drop for Cipher {
    fn drop(&mut self) {
        self.wipe();
    }
}

fn ring_key(key: &[u8; KEY_LEN]) -> LessSafeKey {
    let key = UnboundKey::new(&CHACHA20_POLY1305, key)
        .unwrap_or_else(|_| unreachable!("a key of 32 bytes is what the cipher takes"));
    LessSafeKey::new(key)
}

#[inline]
fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::bytes;

    /// RFC 8439 appendix A.5, whose nonce is a counter of Noise.
    #[test]
    fn sealed_as_in_rfc_8439() {
        let key = bytes("1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0");
        let counter = u64::from_le_bytes([1, 2, 3, 4, 5, 6, 7, 8]);
        let aad: [u8; 12] = bytes("f33388860000000000004e91");
        let text = "Internet-Drafts are draft documents valid for a maximum of six months and may be updated, \
                    replaced, or obsoleted by other documents at any time. It is inappropriate to use \
                    Internet-Drafts as reference material or to cite them other than as /\u{201c}work in \
                    progress./\u{201d}";
        let sealed_text: [u8; 265] = bytes(concat!(
            "64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb24c6cfc18755d43eea09ee94e382d26b0",
            "bdb7b73c321b0100d4f03b7f355894cf332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1ff37c855",
            "9797a06ef4f0ef61c186324e2b3506383606907b6a7c02b0f9f6157b53c867e4b9166c767b804d46a59b5216cde7a4e9",
            "9040c5a40433225ee282a1b0a06c523eaf4534d7f83fa1155b0047718cbc546a0d072b04b3564eea1b422273f548271a",
            "0bb2316053fa76991955ebd63159434ecebb4e466dae5a1073a6727627097a1049e617d91d361094fa68f0ff77987130",
            "305beaba2eda04df997b714d6c6f2c29a6ad5cb4022b02709b",
        ));
        let tag: [u8; 16] = bytes("eead9d67890cbb22392336fea1851f38");

        let cipher = Cipher::new(&key);
        let mut datagram = text.as_bytes().to_vec();
        assert_eq!(cipher.seal(counter, &aad, &mut datagram), tag);
        assert_eq!(datagram, sealed_text);
        datagram.extend(tag);
        for at in [0, 264, 265, 280] {
            let mut forged = datagram.clone();
            forged[at] ^= 1;
            assert_eq!(
                cipher.open(counter, &aad, &mut forged),
                Err(Refusal::Forged)
            );
        }
        assert_eq!(
            cipher.open(counter + 1, &aad, &mut datagram.clone()),
            Err(Refusal::Forged)
        );
        assert_eq!(
            cipher.open(counter, &[], &mut datagram.clone()),
            Err(Refusal::Forged)
        );
        assert_eq!(
            cipher.open(counter, &aad, &mut datagram).unwrap(),
            text.as_bytes()
        );
        assert_eq!(cipher.open(0, &[], &mut [0; 15]), Err(Refusal::Forged));
    }

    #[test]
    fn a_wiped_key_is_the_key_of_zeros() {
        let mut cipher = Cipher::new(&[9; 32]);
        cipher.wipe();
        assert_eq!(
            cipher.seal(0, &[], &mut [1, 2, 3]),
            Cipher::new(&[0; 32]).seal(0, &[], &mut [1, 2, 3])
        );
    }
}
