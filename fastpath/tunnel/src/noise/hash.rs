//! BLAKE2s (RFC 7693) in the three shapes that the paper (section 5.4) uses: hash, keyed hash and key derivation.

use crate::key::{KEY_LEN, Secret};
use blake2::digest::consts::U16;
use blake2::digest::{Digest, FixedOutput, KeyInit, Mac};
use blake2::{Blake2s256, Blake2sMac};
use hmac::SimpleHmac;
use zeroize::Zeroizing;

/// Bytes of a hash.
pub(crate) const HASH_LEN: usize = 32;

/// Bytes of a message authenticator, and of a cookie.
pub(crate) const MAC_LEN: usize = 16;

/// `HASH` of the parts, one after the other.
pub(crate) fn hash(parts: &[&[u8]]) -> [u8; HASH_LEN] {
    let mut hasher = Blake2s256::new();
    for part in parts {
        Digest::update(&mut hasher, part);
    }
    hasher.finalize().into()
}

/// `MAC`: keyed BLAKE2s of 16 bytes. `key` has at most 32.
pub(crate) fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; MAC_LEN] {
    let mut hasher = <Blake2sMac<U16> as KeyInit>::new_from_slice(key)
        .unwrap_or_else(|_| unreachable!("keys of authenticators have 16 or 32 bytes"));
    for part in parts {
        Mac::update(&mut hasher, part);
    }
    hasher.finalize_fixed().into()
}

/// `KDF1`, `KDF2`, `KDF3`: N secrets from a chaining key and an input (RFC 5869 with HMAC-BLAKE2s and no info).
pub(super) fn derive<const N: usize>(chaining_key: &[u8; KEY_LEN], input: &[u8]) -> [Secret; N] {
    let extracted = hmac(chaining_key, &[input]);
    let mut counter = 0;
    let mut last: Option<Secret> = None;
    std::array::from_fn(|_| {
        counter += 1;
        let before = last.as_ref().map_or(&[][..], |secret| secret.as_slice());
        let secret = hmac(&extracted, &[before, &[counter]]);
        last = Some(secret.clone());
        secret
    })
}

fn hmac(key: &[u8; KEY_LEN], parts: &[&[u8]]) -> Secret {
    let mut hasher = <SimpleHmac<Blake2s256> as KeyInit>::new_from_slice(key)
        .unwrap_or_else(|_| unreachable!("HMAC takes keys of every length"));
    for part in parts {
        Mac::update(&mut hasher, part);
    }
    Zeroizing::new(hasher.finalize_fixed().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::bytes;

    /// RFC 7693 appendix B.
    #[test]
    fn hashed_as_in_rfc_7693() {
        let expected = bytes("508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982");
        assert_eq!(hash(&[b"abc"]), expected);
        assert_eq!(hash(&[b"a", b"", b"bc"]), expected);
    }

    #[test]
    fn a_longer_derivation_begins_as_a_shorter_one() {
        let [one] = derive::<1>(&[3; 32], b"input");
        let three = derive::<3>(&[3; 32], b"input");
        assert_eq!(*one, *three[0]);
        assert_ne!(*three[0], *three[1]);
        assert_ne!(*three[1], *three[2]);
    }
}
