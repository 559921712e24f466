//! The two authenticators at the end of messages 1 and 2 (the paper, section 5.4.4).
//!
//! `mac1` shows that the sender knows whom it talks to: without it nothing is answered, so that a scanner finds nobody. `mac2`
//! shows that it receives at the address it sends from, and is asked for under load.

use super::hash::{HASH_LEN, MAC_LEN, hash, mac};
use super::message::MACS_LEN;
use crate::key::PublicKey;
use subtle::ConstantTimeEq;

const LABEL_MAC1: &[u8] = b"mac1----";
const LABEL_COOKIE: &[u8] = b"cookie--";

/// What a sender under load gave us, to show that we receive at our address.
pub type Cookie = [u8; MAC_LEN];

/// The keys that follow from a receiver's public key: everybody who knows it can make them.
#[derive(Clone, Debug)]
pub struct MacKeys {
    mac1: [u8; HASH_LEN],
    cookie: [u8; HASH_LEN],
}

impl MacKeys {
    /// For messages to the owner of `receiver`.
    #[must_use]
    pub fn new(receiver: &PublicKey) -> Self {
        Self {
            mac1: hash(&[LABEL_MAC1, receiver.as_bytes()]),
            cookie: hash(&[LABEL_COOKIE, receiver.as_bytes()]),
        }
    }

    /// Encrypts the cookies that this receiver gives.
    pub(crate) const fn cookie(&self) -> &[u8; HASH_LEN] {
        &self.cookie
    }

    /// Fills in both authenticators, `mac2` only if there is a cookie; returns `mac1`, which a cookie reply refers to.
    ///
    /// # Panics
    /// If `message` is shorter than the two.
    pub fn stamp(&self, message: &mut [u8], cookie: Option<&Cookie>) -> [u8; MAC_LEN] {
        let (before, macs) = message.split_at_mut(message.len() - MACS_LEN);
        let (mac1_room, mac2_room) = macs.split_at_mut(MAC_LEN);
        let mac1 = mac(&self.mac1, &[before]);
        mac1_room.copy_from_slice(&mac1);
        if let Some(cookie) = cookie {
            mac2_room.copy_from_slice(&mac(cookie, &[before, &mac1]));
        }
        mac1
    }

    /// Whether `mac1` of an initiation or response was made for this receiver; it is returned.
    #[must_use]
    pub fn mac1(&self, message: &[u8]) -> Option<[u8; MAC_LEN]> {
        let (rest, _mac2) = message.split_last_chunk::<MAC_LEN>()?;
        let (before, mac1) = rest.split_last_chunk::<MAC_LEN>()?;
        equal(&mac(&self.mac1, &[before]), mac1).then_some(*mac1)
    }
}

/// Whether `mac2` of an initiation or response was made with this cookie.
#[must_use]
pub fn has_mac2(message: &[u8], cookie: &Cookie) -> bool {
    message
        .split_last_chunk::<MAC_LEN>()
        .is_some_and(|(before, mac2)| equal(&mac(cookie, &[before]), mac2))
}

/// In constant time.
fn equal(one: &[u8; MAC_LEN], other: &[u8; MAC_LEN]) -> bool {
    one.as_slice().ct_eq(other).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_authenticator_covers_all_before_it() {
        let keys = MacKeys::new(&PublicKey::from_bytes([5; 32]));
        let cookie = [9; MAC_LEN];
        let mut message = [3; 92];
        message[60..].fill(0);
        let mac1 = keys.stamp(&mut message, None);
        assert_eq!(keys.mac1(&message), Some(mac1));
        assert_eq!(message[76..], [0; 16]);
        assert!(!has_mac2(&message, &cookie));

        keys.stamp(&mut message, Some(&cookie));
        assert!(has_mac2(&message, &cookie));
        assert!(!has_mac2(&message, &[8; MAC_LEN]));
        for bit in 0..8 * message.len() {
            let mut changed = message;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(keys.mac1(&changed).is_some(), bit >= 8 * 76, "bit {bit}");
            assert!(!has_mac2(&changed, &cookie), "bit {bit}");
        }
        let stranger = MacKeys::new(&PublicKey::from_bytes([6; 32]));
        assert_eq!(stranger.mac1(&message), None);
        assert_eq!(keys.mac1(&message[..31]), None);
        assert!(!has_mac2(&[], &cookie));
    }
}
