//! The side that answers: reads message 1, learns who wrote it, writes message 2 (the paper, sections 5.4.2 and 5.4.3).

use super::TransportKeys;
use super::message::{Initiation, Response};
use super::symmetric::Symmetric;
use super::timestamp::Timestamp;
use crate::key::{Identity, KEY_LEN, PresharedKey, PrivateKey, PublicKey};
use crate::refusal::Refusal;
use std::fmt;

/// An initiation that was read. Its author had [`Responder::initiator`]'s private key; whether it is admitted, and whether
/// [`Responder::timestamp`] is new, is for the caller to judge, who may take its time.
pub struct Responder {
    symmetric: Symmetric,
    initiator: PublicKey,
    timestamp: Timestamp,
    ephemeral: PublicKey,
    index: u32,
}

impl Responder {
    /// Reads an initiation.
    ///
    /// # Errors
    /// [`Refusal::Forged`]: not for us, or not by whom it says. [`Refusal::LowOrderKey`].
    pub fn read(local: &Identity, initiation: &Initiation) -> Result<Self, Refusal> {
        let mut symmetric = Symmetric::new(local.public());
        symmetric.mix_ephemeral(&initiation.ephemeral);

        let cipher = symmetric.mix_agreement_for_cipher(local.private(), &initiation.ephemeral)?;
        let opened = symmetric.open(&cipher, &initiation.sealed_static)?;
        let initiator = PublicKey::from_bytes(front(&opened));

        let cipher = symmetric.mix_agreement_for_cipher(local.private(), &initiator)?;
        let opened = symmetric.open(&cipher, &initiation.sealed_timestamp)?;
        Ok(Self {
            symmetric,
            initiator,
            timestamp: Timestamp::from_bytes(front(&opened)),
            ephemeral: initiation.ephemeral,
            index: initiation.sender,
        })
    }

    /// The initiator's static key.
    #[must_use]
    pub const fn initiator(&self) -> &PublicKey {
        &self.initiator
    }

    /// When the initiator wrote it, by its clock: not later than that of an initiation that was answered before means a replay.
    #[must_use]
    pub const fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// What the initiator called the session.
    #[must_use]
    pub const fn sender(&self) -> u32 {
        self.index
    }

    /// Agrees. `ephemeral` is made of fresh random bytes; `index` is what the initiator will call the session. Nothing is to
    /// be sent with these keys before something came that was: only that shows that the initiation was no recorded one.
    ///
    /// # Errors
    /// [`Refusal::LowOrderKey`].
    pub fn respond(
        mut self,
        preshared: &PresharedKey,
        ephemeral: &PrivateKey,
        index: u32,
    ) -> Result<(TransportKeys, Response), Refusal> {
        let ephemeral_public = ephemeral.public();
        self.symmetric.mix_ephemeral(&ephemeral_public);
        self.symmetric.mix_agreement(ephemeral, &self.ephemeral)?;
        self.symmetric.mix_agreement(ephemeral, &self.initiator)?;
        let cipher = self.symmetric.mix_preshared(preshared);
        let sealed_nothing = self.symmetric.seal(&cipher, &[]);

        let [receiving, sending] = self.symmetric.split();
        let keys = TransportKeys {
            sending,
            receiving,
            local_index: index,
            remote_index: self.index,
            initiated: false,
        };
        let response = Response {
            sender: index,
            receiver: self.index,
            ephemeral: ephemeral_public,
            sealed_nothing,
        };
        Ok((keys, response))
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder")
            .field("initiator", &self.initiator)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

/// The text in front of the room for a tag.
fn front<const N: usize, const SEALED: usize>(opened: &[u8; SEALED]) -> [u8; N] {
    const { assert!(N + crate::aead::TAG_LEN == SEALED && N <= KEY_LEN) };
    std::array::from_fn(|at| opened[at])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::Initiator;
    use std::time::Duration;

    fn identity(seed: u8) -> Identity {
        Identity::new(PrivateKey::from_bytes(&[seed; 32]))
    }

    fn initiation(from: &Identity, to: &Identity) -> (Initiator, Initiation) {
        let time = Timestamp::at(Duration::from_secs(1_700_000_000));
        Initiator::start(
            from,
            to.public(),
            PrivateKey::from_bytes(&[3; 32]),
            17,
            time,
        )
        .unwrap()
    }

    #[test]
    fn both_sides_come_to_the_same_keys() {
        let (alice, bob) = (identity(1), identity(2));
        let (initiator, initiation) = initiation(&alice, &bob);
        let responder = Responder::read(&bob, &initiation).unwrap();
        assert_eq!(responder.initiator(), alice.public());
        assert_eq!(
            responder.timestamp(),
            Timestamp::at(Duration::from_secs(1_700_000_000))
        );
        let preshared = PresharedKey::from_bytes(&[8; 32]);
        let (theirs, response) = responder
            .respond(&preshared, &PrivateKey::from_bytes(&[4; 32]), 29)
            .unwrap();
        let ours = initiator.finish(&alice, &preshared, &response).unwrap();
        assert_eq!(ours.sending, theirs.receiving);
        assert_eq!(ours.receiving, theirs.sending);
        assert_ne!(ours.sending, ours.receiving);
        assert_eq!((ours.local_index, ours.remote_index), (17, 29));
        assert_eq!((theirs.local_index, theirs.remote_index), (29, 17));

        let other = PresharedKey::none();
        let refused = initiator.finish(&alice, &other, &response).unwrap_err();
        assert_eq!(refused, Refusal::Forged, "another pre-shared key");
    }

    #[test]
    fn every_changed_bit_is_refused() {
        let (alice, bob) = (identity(1), identity(2));
        let (initiator, first) = initiation(&alice, &bob);
        let bytes = first.to_bytes();
        for bit in 64..8 * 116 {
            let mut changed = bytes;
            changed[bit / 8] ^= 1 << (bit % 8);
            let changed = Initiation::parse(&changed).unwrap();
            // X25519 does not see the highest bit of a coordinate (RFC 7748 section 5), but the transcript does.
            assert_eq!(
                Responder::read(&bob, &changed).unwrap_err(),
                Refusal::Forged
            );
        }
        assert_eq!(
            Responder::read(&alice, &first).unwrap_err(),
            Refusal::Forged
        );

        let none = PresharedKey::none();
        let (_, second) = Responder::read(&bob, &first)
            .unwrap()
            .respond(&none, &PrivateKey::from_bytes(&[4; 32]), 29)
            .unwrap();
        let bytes = second.to_bytes();
        for bit in 96..8 * 60 {
            let mut changed = bytes;
            changed[bit / 8] ^= 1 << (bit % 8);
            let changed = Response::parse(&changed).unwrap();
            let refused = initiator.finish(&alice, &none, &changed).unwrap_err();
            assert_eq!(refused, Refusal::Forged);
        }
        assert!(
            initiator.finish(&alice, &none, &second).is_ok(),
            "the real one still counts"
        );
    }

    #[test]
    fn keys_of_low_order_end_a_handshake() {
        let (alice, bob) = (identity(1), identity(2));
        let zero = PublicKey::from_bytes([0; 32]);
        let ephemeral = || PrivateKey::from_bytes(&[3; 32]);
        let time = Timestamp::at(Duration::ZERO);
        assert_eq!(
            Initiator::start(&alice, &zero, ephemeral(), 1, time).unwrap_err(),
            Refusal::LowOrderKey
        );
        let (initiator, mut first) = initiation(&alice, &bob);
        first.ephemeral = zero;
        assert_eq!(
            Responder::read(&bob, &first).unwrap_err(),
            Refusal::LowOrderKey
        );
        let response = Response {
            sender: 1,
            receiver: 17,
            ephemeral: zero,
            sealed_nothing: [0; 16],
        };
        assert_eq!(
            initiator
                .finish(&alice, &PresharedKey::none(), &response)
                .unwrap_err(),
            Refusal::LowOrderKey
        );
    }
}
