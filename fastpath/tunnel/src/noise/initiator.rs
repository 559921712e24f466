//! The side that begins: writes message 1, reads message 2 (the paper, sections 5.4.2 and 5.4.3).

use super::TransportKeys;
use super::message::{Initiation, Response};
use super::symmetric::Symmetric;
use super::timestamp::Timestamp;
use crate::key::{Identity, PresharedKey, PrivateKey, PublicKey};
use crate::refusal::Refusal;
use std::fmt;

/// A handshake that waits for its response. Its secrets are overwritten when it is dropped.
#[derive(Clone)]
pub struct Initiator {
    symmetric: Symmetric,
    ephemeral: PrivateKey,
    index: u32,
}

impl Initiator {
    /// Begins a handshake with the owner of `responder`. `ephemeral` is made of fresh random bytes, `index` is what the
    /// session will be called by the other side, and `timestamp` is later than that of every initiation sent before to it.
    ///
    /// # Errors
    /// [`Refusal::LowOrderKey`]: `responder` is no key with which a secret can be shared.
    pub fn start(
        local: &Identity,
        responder: &PublicKey,
        ephemeral: PrivateKey,
        index: u32,
        timestamp: Timestamp,
    ) -> Result<(Self, Initiation), Refusal> {
        let mut symmetric = Symmetric::new(responder);
        let ephemeral_public = ephemeral.public();
        symmetric.mix_ephemeral(&ephemeral_public);

        let cipher = symmetric.mix_agreement_for_cipher(&ephemeral, responder)?;
        let sealed_static = symmetric.seal(&cipher, local.public().as_bytes());

        let cipher = symmetric.mix_agreement_for_cipher(local.private(), responder)?;
        let sealed_timestamp = symmetric.seal(&cipher, timestamp.as_bytes());

        let initiation = Initiation {
            sender: index,
            ephemeral: ephemeral_public,
            sealed_static,
            sealed_timestamp,
        };
        let this = Self {
            symmetric,
            ephemeral,
            index,
        };
        Ok((this, initiation))
    }

    /// What the initiation called the session.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// Reads the response. A refused one changes nothing: the real one may still come.
    ///
    /// # Errors
    /// [`Refusal::Forged`]: another handshake's, another peer's, or another pre-shared key. [`Refusal::LowOrderKey`].
    pub fn finish(
        &self,
        local: &Identity,
        preshared: &PresharedKey,
        response: &Response,
    ) -> Result<TransportKeys, Refusal> {
        let mut symmetric = self.symmetric.clone();
        symmetric.mix_ephemeral(&response.ephemeral);
        symmetric.mix_agreement(&self.ephemeral, &response.ephemeral)?;
        symmetric.mix_agreement(local.private(), &response.ephemeral)?;
        let cipher = symmetric.mix_preshared(preshared);
        symmetric.open(&cipher, &response.sealed_nothing)?;

        let [sending, receiving] = symmetric.split();
        Ok(TransportKeys {
            sending,
            receiving,
            local_index: self.index,
            remote_index: response.sender,
            initiated: true,
        })
    }
}

impl fmt::Debug for Initiator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Initiator")
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}
