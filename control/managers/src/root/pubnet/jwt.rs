//! JSON Web Tokens signed with RS256 (RFC 7515, RFC 7519; RFC 7518 section 3.3), and the public key they are verified with.
//!
//! One algorithm is known, so the token's `alg` can choose nothing: another one, `none` included, is refused before a
//! signature is looked at (RFC 8725 section 3.1).

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

/// Shortest modulus in bits (RFC 7518 section 3.3).
const MODULUS_BITS_MIN: usize = 2048;

/// `AlgorithmIdentifier` of an RSA key in a SubjectPublicKeyInfo (RFC 3279 section 2.3.1): rsaEncryption, NULL.
const RSA_ENCRYPTION: [u8; 13] = [
    0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];

/// DER tags.
const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;
const INTEGER: u8 = 0x02;

/// Why a text is no key to verify RS256 with.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub(super) enum KeyError {
    #[error("expected PEM: a `PUBLIC KEY` or an `RSA PUBLIC KEY`")]
    Pem,
    #[error("the PEM holds no RSA public key")]
    NotRsa,
    #[error("an RSA key of {0} bits; RS256 needs at least {MODULUS_BITS_MIN}")]
    Short(usize),
}

/// Why a token is refused; for the log, the caller learns nothing.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub(super) enum Refused {
    #[error("it is no signed JSON Web Token")]
    Malformed,
    #[error("it is not signed with RS256")]
    Algorithm,
    /// Perhaps with another key: see [`super::key_server`].
    #[error("its signature is not of the key server's key")]
    Signature,
    #[error("it says not until when it is valid")]
    Endless,
    #[error("it has expired")]
    Expired,
    #[error("it is not valid yet")]
    Early,
    #[error("it names nobody (`sub`)")]
    Nobody,
    #[error("it is no access token")]
    Purpose,
}

/// A public key of the issuer.
#[derive(Clone, Debug)]
pub(super) struct Key(UnparsedPublicKey<Vec<u8>>);

impl Key {
    /// Reads a PEM text: SubjectPublicKeyInfo (RFC 5280 section 4.1) or RSAPublicKey (RFC 8017 appendix A.1.1).
    pub(super) fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let wrapped = block(pem, "PUBLIC KEY");
        let der = match &wrapped {
            Some(der) => unwrap(der).ok_or(KeyError::NotRsa)?.to_vec(),
            None => block(pem, "RSA PUBLIC KEY").ok_or(KeyError::Pem)?,
        };
        let bits = modulus_bits(&der).ok_or(KeyError::NotRsa)?;
        if bits < MODULUS_BITS_MIN {
            return Err(KeyError::Short(bits));
        }
        Ok(Self(UnparsedPublicKey::new(
            &RSA_PKCS1_2048_8192_SHA256,
            der,
        )))
    }

    /// Whether `token` opens the interface at `now_s`, seconds since 1970. What a claim must be is what Oakestra's root
    /// asks for; beyond that, a token must say when it ends.
    pub(super) fn verify(&self, token: &str, now_s: u64) -> Result<(), Refused> {
        let (signed, signature) = token.rsplit_once('.').ok_or(Refused::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(Refused::Malformed)?;
        let header: Header = part(header)?;
        if header.alg != "RS256" || header.crit.is_some() {
            return Err(Refused::Algorithm);
        }
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_| Refused::Malformed)?;
        self.0
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| Refused::Signature)?;
        part::<Claims>(claims)?.check(now_s)
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    /// Extensions that must be understood; none is (RFC 7515 section 4.1.11).
    crit: Option<Value>,
}

/// Times are seconds since 1970, possibly with a fraction (RFC 7519 section 2, NumericDate). A claim of another type is a
/// malformed token, not an absent claim.
#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    exp: Option<f64>,
    nbf: Option<f64>,
    iat: Option<f64>,
    /// Flask-JWT-Extended: `access` or `refresh`; `access` when absent.
    r#type: Option<String>,
    /// Oakestra: a token for one download only.
    #[serde(default)]
    file_access_token: Value,
}

impl Claims {
    fn check(&self, now_s: u64) -> Result<(), Refused> {
        #[expect(
            clippy::cast_precision_loss,
            reason = "seconds since 1970 are far below 2^52"
        )]
        let now = now_s as f64;
        if self.exp.ok_or(Refused::Endless)? <= now {
            return Err(Refused::Expired);
        }
        // `now` has no fraction either.
        let early = |at: f64| at.floor() > now;
        if self.nbf.is_some_and(early) || self.iat.is_some_and(early) {
            return Err(Refused::Early);
        }
        if self.sub.is_none() {
            return Err(Refused::Nobody);
        }
        let access = self.r#type.as_ref().is_none_or(|kind| kind == "access");
        if !access || !matches!(self.file_access_token, Value::Null | Value::Bool(false)) {
            return Err(Refused::Purpose);
        }
        Ok(())
    }
}

fn part<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, Refused> {
    let json = URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| Refused::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| Refused::Malformed)
}

/// The bytes between the lines `-----BEGIN label-----` and `-----END label-----` (RFC 7468).
fn block(pem: &str, label: &str) -> Option<Vec<u8>> {
    let (_, rest) = pem.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let body: String = body.split_ascii_whitespace().collect();
    STANDARD.decode(body).ok()
}

/// The RSAPublicKey inside a SubjectPublicKeyInfo.
fn unwrap(der: &[u8]) -> Option<&[u8]> {
    let (info, []) = value(der, SEQUENCE)? else {
        return None;
    };
    let (algorithm, rest) = value(info, SEQUENCE)?;
    let (bits, []) = value(rest, BIT_STRING)? else {
        return None;
    };
    // The first byte counts unused bits.
    let (0, key) = bits.split_first().map(|(unused, key)| (*unused, key))? else {
        return None;
    };
    (algorithm == RSA_ENCRYPTION).then_some(key)
}

fn modulus_bits(der: &[u8]) -> Option<usize> {
    let (numbers, []) = value(der, SEQUENCE)? else {
        return None;
    };
    let (modulus, _) = value(numbers, INTEGER)?;
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let first = modulus.get(zeros)?;
    Some((modulus.len() - zeros) * 8 - usize::try_from(first.leading_zeros()).ok()?)
}

/// Content of the DER value with this tag at the start of `bytes`, and what follows it (X.690 section 8.1.3).
fn value(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let [found, length, rest @ ..] = bytes else {
        return None;
    };
    let (length, rest) = match length {
        short @ ..=0x7f => (usize::from(*short), rest),
        0x81 => {
            let (length, rest) = rest.split_first()?;
            (usize::from(*length), rest)
        }
        0x82 => {
            let (length, rest) = rest.split_first_chunk()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    (*found == tag)
        .then(|| rest.split_at_checked(length))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{OTHER_KEY, PUBLIC_KEY, SIGNING_KEY, claims, sign, token};
    use super::*;
    use serde_json::json;

    const NOW_S: u64 = 1_800_000_000;

    fn verify(token: &str) -> Result<(), Refused> {
        Key::from_pem(PUBLIC_KEY).unwrap().verify(token, NOW_S)
    }

    #[test]
    fn a_token_of_the_key_opens_until_it_expires() {
        let good = token(SIGNING_KEY, &claims(NOW_S));
        assert_eq!(verify(&good), Ok(()));
        let key = Key::from_pem(PUBLIC_KEY).unwrap();
        assert_eq!(key.verify(&good, NOW_S + 599), Ok(()));
        assert_eq!(key.verify(&good, NOW_S + 600), Err(Refused::Expired));
        assert_eq!(key.verify(&good, NOW_S - 1), Err(Refused::Early));
    }

    #[test]
    fn every_other_token_is_refused_for_its_own_reason() {
        let with = |name: &str, value: Value| {
            let mut claims = claims(NOW_S);
            claims[name] = value;
            token(SIGNING_KEY, &claims)
        };
        let without = |name: &str| {
            let mut claims = claims(NOW_S);
            claims.as_object_mut().unwrap().remove(name);
            token(SIGNING_KEY, &claims)
        };
        let good = token(SIGNING_KEY, &claims(NOW_S));
        let (signed, signature) = good.rsplit_once('.').unwrap();
        let (header, _) = signed.split_once('.').unwrap();
        let forged = URL_SAFE_NO_PAD.encode(json!({"sub": "root", "exp": NOW_S + 9}).to_string());
        for (what, token, reason) in [
            ("nothing", String::new(), Refused::Malformed),
            ("two parts", signed.to_owned(), Refused::Malformed),
            ("four parts", format!("{good}.a"), Refused::Malformed),
            (
                "another key",
                token(OTHER_KEY, &claims(NOW_S)),
                Refused::Signature,
            ),
            (
                "other claims under a signature",
                format!("{header}.{forged}.{signature}"),
                Refused::Signature,
            ),
            ("no signature", format!("{signed}."), Refused::Signature),
            (
                "no algorithm",
                sign(None, &json!({"alg": "none"}), &claims(NOW_S)),
                Refused::Algorithm,
            ),
            (
                // A verifier that lets the token choose would take the public key for a shared secret.
                "the public key as an HMAC secret",
                sign(None, &json!({"alg": "HS256"}), &claims(NOW_S)),
                Refused::Algorithm,
            ),
            (
                "an extension that must be understood",
                sign(
                    Some(SIGNING_KEY),
                    &json!({"alg": "RS256", "crit": ["b64"], "b64": false}),
                    &claims(NOW_S),
                ),
                Refused::Algorithm,
            ),
            (
                "an end in words",
                with("exp", json!("tomorrow")),
                Refused::Malformed,
            ),
            ("no end", without("exp"), Refused::Endless),
            ("made later", with("iat", json!(NOW_S + 5)), Refused::Early),
            ("valid later", with("nbf", json!(NOW_S + 5)), Refused::Early),
            ("of nobody", without("sub"), Refused::Nobody),
            (
                "to refresh",
                with("type", json!("refresh")),
                Refused::Purpose,
            ),
            (
                "for a download",
                with("file_access_token", json!(true)),
                Refused::Purpose,
            ),
        ] {
            assert_eq!(verify(&token), Err(reason), "{what}");
        }
    }

    #[test]
    fn keys_are_read_from_both_kinds_of_pem_and_must_be_long_enough() {
        let info = block(PUBLIC_KEY, "PUBLIC KEY").unwrap();
        let bare = STANDARD.encode(unwrap(&info).unwrap());
        let bare =
            format!("-----BEGIN RSA PUBLIC KEY-----\n{bare}\n-----END RSA PUBLIC KEY-----\n");
        let key = Key::from_pem(&bare).unwrap();
        assert_eq!(
            key.verify(&token(SIGNING_KEY, &claims(NOW_S)), NOW_S),
            Ok(())
        );
        // The rest of a curve's key, and RSA keys that are cut anywhere.
        let curve = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----";
        assert_eq!(Key::from_pem(curve).unwrap_err(), KeyError::NotRsa);
        assert_eq!(Key::from_pem("secret").unwrap_err(), KeyError::Pem);
        for length in 0..info.len() {
            assert_eq!(unwrap(&info[..length]), None, "{length}");
        }
        // SEQUENCE { INTEGER of 1024 bits, INTEGER 65537 }
        let mut numbers = vec![INTEGER, 0x81, 0x81, 0];
        numbers.extend([0xab; 128]);
        numbers.extend([INTEGER, 3, 1, 0, 1]);
        let mut short = vec![SEQUENCE, 0x81, u8::try_from(numbers.len()).unwrap()];
        short.extend(numbers);
        assert_eq!(modulus_bits(&short), Some(1024));
        let short = STANDARD.encode(short);
        let short = format!("-----BEGIN RSA PUBLIC KEY-----{short}-----END RSA PUBLIC KEY-----");
        assert_eq!(Key::from_pem(&short).unwrap_err(), KeyError::Short(1024));
    }
}
