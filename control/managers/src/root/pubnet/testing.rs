//! Tokens for tests, signed with keys that were made for nothing else.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde_json::{Value, json};

pub(crate) const PUBLIC_KEY: &str = include_str!("testdata/issuer.pub.pem");
pub(crate) const SIGNING_KEY: &str = include_str!("testdata/issuer.key.pem");
pub(crate) const OTHER_KEY: &str = include_str!("testdata/other.key.pem");

/// The claims of Oakestra's access token, made at `now_s` for ten minutes.
pub(crate) fn claims(now_s: u64) -> Value {
    json!({
        "fresh": false, "iat": now_s, "jti": "b2f4c9c6-5d6c-4f0e-9c7b-1f6a3f0d2e11", "type": "access",
        "sub": "Admin", "nbf": now_s, "exp": now_s + 600, "file_access_token": false,
    })
}

/// A token signed with RS256.
pub(crate) fn token(key: &str, claims: &Value) -> String {
    sign(Some(key), &json!({"alg": "RS256", "typ": "JWT"}), claims)
}

/// A token with any header; without a key its signature is empty.
pub(crate) fn sign(key: Option<&str>, header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = key.map_or_else(Vec::new, |pem| {
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let pair = RsaKeyPair::from_pkcs8(&STANDARD.decode(body).unwrap()).unwrap();
        let mut signature = vec![0; pair.public().modulus_len()];
        let random = SystemRandom::new();
        pair.sign(
            &RSA_PKCS1_SHA256,
            &random,
            signed.as_bytes(),
            &mut signature,
        )
        .unwrap();
        signature
    });
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}
