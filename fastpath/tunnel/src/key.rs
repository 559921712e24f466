//! The keys of a tunnel and their text form: base64 of 32 bytes, 44 characters, as the `wg` tool writes them.

use base64ct::{Base64, Encoding};
use std::fmt;
use std::str::FromStr;
use subtle::ConstantTimeEq;
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

/// Bytes of every key: Curve25519 private and public, and pre-shared.
pub const KEY_LEN: usize = 32;

/// Characters of a key's text form.
pub const KEY_TEXT_LEN: usize = 44;

/// 32 secret bytes, overwritten when dropped.
pub type Secret = Zeroizing<[u8; KEY_LEN]>;

/// Why a text is no key. The text is not repeated: it may be a private key with a slip in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyError {
    #[error("a key has 44 characters, and this text has {0}")]
    Length(usize),
    #[error(
        "a key is base64 of 32 bytes (A-Z a-z 0-9 + / and one = at the end), and this text is not"
    )]
    Base64,
}

/// A static or ephemeral Curve25519 private key (RFC 7748 section 5). It never prints itself, and is overwritten when
/// dropped.
#[derive(Clone)]
pub struct PrivateKey(StaticSecret);

impl PrivateKey {
    /// The key of 32 random bytes; the bits that RFC 7748 fixes may have any value.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; KEY_LEN]) -> Self {
        Self(StaticSecret::from(*bytes))
    }

    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(x25519_dalek::PublicKey::from(&self.0).to_bytes())
    }

    /// The text for the key file: 44 characters without a line end, overwritten when dropped.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new([0; KEY_TEXT_LEN]);
        Zeroizing::new(encode(self.0.as_bytes(), &mut text).to_owned())
    }

    /// The secret shared with the owner of a public key; `None` if it is all zeros, as it is for a `peer` of low order,
    /// whoever we are (RFC 7748 section 6.1).
    pub(crate) fn agree(&self, peer: &PublicKey) -> Option<Secret> {
        let shared = self
            .0
            .diffie_hellman(&x25519_dalek::PublicKey::from(peer.0));
        shared
            .was_contributory()
            .then(|| Zeroizing::new(shared.to_bytes()))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(secret)")
    }
}

impl FromStr for PrivateKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(|bytes| Self::from_bytes(&bytes))
    }
}

/// A Curve25519 public key: the u-coordinate, little-endian (RFC 7748 section 5). It names a peer.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PublicKey([u8; KEY_LEN]);

impl PublicKey {
    #[must_use]
    pub const fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(encode(&self.0, &mut [0; KEY_TEXT_LEN]))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Ok(Self(*decode(text)?))
    }
}

/// A secret that two peers share besides their keys, mixed into the handshake (Noise `psk2`). It never prints itself, and
/// is overwritten when dropped.
#[derive(Clone)]
pub struct PresharedKey(Secret);

impl PresharedKey {
    /// What stands for "none": 32 zeros (WireGuard paper, section 5.4.3).
    #[must_use]
    pub fn none() -> Self {
        Self(Zeroizing::new([0; KEY_LEN]))
    }

    #[must_use]
    pub fn from_bytes(bytes: &[u8; KEY_LEN]) -> Self {
        Self(Zeroizing::new(*bytes))
    }

    /// The text for a configuration file: 44 characters without a line end, overwritten when dropped.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new([0; KEY_TEXT_LEN]);
        Zeroizing::new(encode(&self.0, &mut text).to_owned())
    }

    pub(crate) fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(secret)")
    }
}

impl PartialEq for PresharedKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

impl Eq for PresharedKey {}

impl FromStr for PresharedKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Ok(Self(decode(text)?))
    }
}

/// Who we are: a static private key with its public key, which is computed once.
#[derive(Clone, Debug)]
pub struct Identity {
    private: PrivateKey,
    public: PublicKey,
}

impl Identity {
    #[must_use]
    pub fn new(private: PrivateKey) -> Self {
        let public = private.public();
        Self { private, public }
    }

    #[must_use]
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    pub(crate) const fn private(&self) -> &PrivateKey {
        &self.private
    }
}

fn encode<'t>(bytes: &[u8; KEY_LEN], text: &'t mut [u8; KEY_TEXT_LEN]) -> &'t str {
    Base64::encode(bytes, text)
        .unwrap_or_else(|_| unreachable!("32 bytes are 44 characters of base64"))
}

fn decode(text: &str) -> Result<Secret, KeyError> {
    if text.len() != KEY_TEXT_LEN {
        return Err(KeyError::Length(text.len()));
    }
    let mut bytes = Zeroizing::new([0; KEY_LEN]);
    match Base64::decode(text, bytes.as_mut_slice()) {
        Ok(decoded) if decoded.len() == KEY_LEN => Ok(bytes),
        _ => Err(KeyError::Base64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::bytes;

    /// RFC 7748 section 5.2.
    #[test]
    fn agreement_is_the_function_of_rfc_7748() {
        for (scalar, coordinate, agreed) in [
            (
                "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
                "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
                "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
            ),
            (
                "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
                "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
                "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
            ),
        ] {
            let private = PrivateKey::from_bytes(&bytes(scalar));
            let secret = private.agree(&PublicKey(bytes(coordinate))).unwrap();
            assert_eq!(*secret, bytes::<32>(agreed));
        }
    }

    #[test]
    fn a_public_key_of_low_order_shares_no_secret() {
        let private = PrivateKey::from_bytes(&[7; 32]);
        let mut one = [0; 32];
        one[0] = 1;
        for low in [[0; 32], one] {
            assert!(private.agree(&PublicKey(low)).is_none());
        }
    }

    #[test]
    fn text_leads_back_to_the_key_and_other_text_to_none() {
        let private = PrivateKey::from_bytes(&[0x5a; 32]);
        let public = private.public();
        let text = public.to_string();
        assert_eq!(text.len(), KEY_TEXT_LEN);
        assert_eq!(text.parse(), Ok(public));
        let again: PrivateKey = private.to_text().parse().unwrap();
        assert_eq!(again.public(), public);

        let short = &text[..43];
        assert_eq!(short.parse::<PublicKey>(), Err(KeyError::Length(43)));
        let url = format!("{}-_=", &text[..41]);
        assert_eq!(url.parse::<PublicKey>(), Err(KeyError::Base64));
        let long = "A".repeat(44);
        assert_eq!(long.parse::<PublicKey>(), Err(KeyError::Base64), "33 bytes");
        assert_eq!("é".repeat(22).parse::<PublicKey>(), Err(KeyError::Base64));
    }

    #[test]
    fn secrets_do_not_print_themselves() {
        let private = PrivateKey::from_bytes(&[0x5a; 32]);
        let shared = PresharedKey::from_bytes(&[0x5a; 32]);
        assert_eq!(format!("{private:?}"), "PrivateKey(secret)");
        assert_eq!(format!("{shared:?}"), "PresharedKey(secret)");
        let identity = format!("{:?}", Identity::new(private.clone()));
        let public = private.public();
        assert_eq!(
            identity,
            format!("Identity {{ private: PrivateKey(secret), public: PublicKey({public}) }}")
        );
    }
}
