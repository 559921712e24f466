//! The state that both sides of a handshake carry from step to step: a chaining key and a hash of all that was said.

use super::hash::{HASH_LEN, derive, hash};
use crate::aead::{Cipher, TAG_LEN};
use crate::key::{PresharedKey, PrivateKey, PublicKey, Secret};
use crate::refusal::Refusal;
use zeroize::Zeroizing;

const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";

/// `C` and `H` of the paper (section 5.4.2).
#[derive(Clone)]
pub(super) struct Symmetric {
    chaining_key: Secret,
    transcript: [u8; HASH_LEN],
}

impl Symmetric {
    /// The state before the first message to the owner of `responder`.
    pub(super) fn new(responder: &PublicKey) -> Self {
        let chaining_key = hash(&[CONSTRUCTION]);
        let protocol = hash(&[&chaining_key, IDENTIFIER]);
        Self {
            chaining_key: Zeroizing::new(chaining_key),
            transcript: hash(&[&protocol, responder.as_bytes()]),
        }
    }

    /// An ephemeral public key, in the clear.
    pub(super) fn mix_ephemeral(&mut self, ephemeral: &PublicKey) {
        [self.chaining_key] = derive(self.chaining_key.as_slice(), ephemeral.as_bytes());
        self.mix_hash(ephemeral.as_bytes());
    }

    /// A shared secret that no encryption follows.
    ///
    /// # Errors
    /// [`Refusal::LowOrderKey`].
    pub(super) fn mix_agreement(
        &mut self,
        ours: &PrivateKey,
        theirs: &PublicKey,
    ) -> Result<(), Refusal> {
        let shared = ours.agree(theirs).ok_or(Refusal::LowOrderKey)?;
        [self.chaining_key] = derive(self.chaining_key.as_slice(), shared.as_slice());
        Ok(())
    }

    /// A shared secret, and the cipher for what follows. It seals one text.
    ///
    /// # Errors
    /// [`Refusal::LowOrderKey`].
    pub(super) fn mix_agreement_for_cipher(
        &mut self,
        ours: &PrivateKey,
        theirs: &PublicKey,
    ) -> Result<Cipher, Refusal> {
        let shared = ours.agree(theirs).ok_or(Refusal::LowOrderKey)?;
        let key;
        [self.chaining_key, key] = derive(self.chaining_key.as_slice(), shared.as_slice());
        Ok(Cipher::new(&key))
    }

    /// The pre-shared key, and the cipher for what follows. It seals one text.
    pub(super) fn mix_preshared(&mut self, preshared: &PresharedKey) -> Cipher {
        let (temporary, key);
        [self.chaining_key, temporary, key] =
            derive(self.chaining_key.as_slice(), preshared.as_bytes());
        self.mix_hash(temporary.as_slice());
        Cipher::new(&key)
    }

    /// Encrypts a text of `N - 16` bytes.
    pub(super) fn seal<const N: usize>(&mut self, cipher: &Cipher, text: &[u8]) -> [u8; N] {
        let mut sealed = [0; N];
        let (room, tag_room) = sealed.split_at_mut(N - TAG_LEN);
        room.copy_from_slice(text);
        tag_room.copy_from_slice(&cipher.seal(0, &self.transcript, room));
        self.mix_hash(&sealed);
        sealed
    }

    /// Decrypts into the first `N - 16` bytes.
    ///
    /// # Errors
    /// [`Refusal::Forged`].
    pub(super) fn open<const N: usize>(
        &mut self,
        cipher: &Cipher,
        sealed: &[u8; N],
    ) -> Result<[u8; N], Refusal> {
        let mut text = *sealed;
        cipher.open(0, &self.transcript, &mut text)?;
        self.mix_hash(sealed);
        Ok(text)
    }

    /// The session's two secrets: from initiator to responder, and back.
    pub(super) fn split(&self) -> [Secret; 2] {
        derive(self.chaining_key.as_slice(), &[])
    }

    fn mix_hash(&mut self, bytes: &[u8]) {
        self.transcript = hash(&[&self.transcript, bytes]);
    }
}
