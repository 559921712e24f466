//! BLAKE2s (RFC 7693) in the three shapes that the paper (section 5.4) uses: hash, keyed hash and key derivation.

use crate::key::Secret;
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
pub(super) fn derive<const N: usize>(chaining_key: &[u8], input: &[u8]) -> [Secret; N] {
    let extracted = hmac(chaining_key, &[input]);
    let mut counter = 0;
    let mut last: Option<Secret> = None;
    std::array::from_fn(|_| {
        counter += 1;
        let before = last.as_ref().map_or(&[][..], |secret| secret.as_slice());
        let secret = hmac(extracted.as_slice(), &[before, &[counter]]);
        last = Some(secret.clone());
        secret
    })
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Secret {
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

    /// The values are of another implementation of BLAKE2s and HMAC, Python's.
    #[test]
    fn authenticated_and_derived_as_by_others() {
        let by_cookie = bytes("21089c86c1f2fb0cb10c1fb7e17c38cc");
        assert_eq!(mac(&[b'k'; 16], &[b"mes", b"sage"]), by_cookie);
        let key: [u8; 32] =
            bytes("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
        let by_hash = bytes("2b75eb9c63ca8524ff53d01905b406eb");
        assert_eq!(mac(&key, &[b"message"]), by_hash);

        let derived = [
            "6f0e5ad38daba1bea8a0d213688736f19763239305e0f58aba697f9ffc41c633",
            "df1194df20802a4fe594cde27e92991c8cae66c366e8106aaa937a55fa371e8a",
            "fac6e2745a325f5dc5d11a5b165aad08b0ada28e7b4e666b7c077934a4d76c24",
        ]
        .map(|text| Zeroizing::new(bytes(text)));
        assert_eq!(derive::<3>(b"test-key", b"test-input"), derived);
        assert_eq!(derive::<1>(b"test-key", b"test-input"), derived[..1]);
    }
}
