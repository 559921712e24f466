//! Cookies: whoever is under load asks an initiator to show that it receives at its address, before it spends a key agreement
//! on it (the paper, sections 5.3 and 5.4.7).

use crate::address::Address;
use crate::aead::TAG_LEN;
use crate::entropy::Entropy;
use crate::key::Secret;
use crate::noise::hash::{MAC_LEN, mac};
use crate::noise::mac::{Cookie, MacKeys};
use crate::noise::message::CookieReply;
use crate::refusal::Refusal;
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use std::fmt;
use std::time::Duration;
use zeroize::Zeroizing;

/// Cookies are worth something for so long, and the secret behind them is replaced as often.
pub const COOKIE_LIFETIME: Duration = Duration::from_secs(120);

/// A cookie that may be replaced before our message arrives is not used: so much earlier it counts as old.
const COOKIE_LATENCY: Duration = Duration::from_secs(5);

/// The side that gives cookies. It remembers none: a cookie is the address, authenticated by a secret.
#[derive(Default)]
pub(crate) struct CookieSecret(Option<(Secret, Duration)>);

impl CookieSecret {
    /// The cookie of an address.
    pub(crate) fn cookie(&mut self, from: Address, now: Duration, entropy: &mut Entropy) -> Cookie {
        if let Some((_, made)) = &self.0
            && now.saturating_sub(*made) >= COOKIE_LIFETIME
        {
            self.0 = None;
        }
        let (secret, _) = self
            .0
            .get_or_insert_with(|| (Zeroizing::new(entropy.bytes()), now));
        mac(
            secret.as_slice(),
            &[&from.ip.to_bits().to_be_bytes(), &from.port.to_be_bytes()],
        )
    }
}

impl fmt::Debug for CookieSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieSecret(secret)")
    }
}

/// The reply to the message with this sender index and `mac1`. `ours` are the keys of our own public key.
pub(crate) fn reply(
    ours: &MacKeys,
    receiver: u32,
    mac1: &[u8; MAC_LEN],
    cookie: &Cookie,
    entropy: &mut Entropy,
) -> CookieReply {
    let nonce = entropy.bytes();
    let mut sealed_cookie = [0; MAC_LEN + TAG_LEN];
    let (text, tag) = sealed_cookie.split_at_mut(MAC_LEN);
    text.copy_from_slice(cookie);
    let sealed = cipher(ours)
        .encrypt_in_place_detached(&nonce.into(), mac1, text)
        .unwrap_or_else(|_| unreachable!("only a text of more than 256 GiB is refused"));
    tag.copy_from_slice(&sealed);
    CookieReply {
        receiver,
        nonce,
        sealed_cookie,
    }
}

/// The side that got a cookie from a peer, if it did.
#[derive(Default)]
pub(crate) struct CookieJar {
    held: Option<(Cookie, Duration)>,
    /// `mac1` of the message that we sent last: what a reply must be about.
    mac1: Option<[u8; MAC_LEN]>,
}

impl CookieJar {
    /// Authenticates a message to the peer, whose keys these are.
    pub(crate) fn stamp(&mut self, theirs: &MacKeys, message: &mut [u8], now: Duration) {
        let fresh = |since: Duration| now.saturating_sub(since) < COOKIE_LIFETIME - COOKIE_LATENCY;
        self.held = self.held.filter(|(_, since)| fresh(*since));
        let cookie = self.held.as_ref().map(|(cookie, _)| cookie);
        self.mac1 = Some(theirs.stamp(message, cookie));
    }

    /// Takes a cookie, for the next message: that is sent when it would be without.
    ///
    /// # Errors
    /// [`Refusal::Forged`]: not by the peer, or not about our last message.
    pub(crate) fn take(
        &mut self,
        theirs: &MacKeys,
        reply: &CookieReply,
        now: Duration,
    ) -> Result<(), Refusal> {
        let mac1 = self.mac1.ok_or(Refusal::Forged)?;
        let mut cookie = [0; MAC_LEN];
        let (text, tag) = reply.sealed_cookie.split_at(MAC_LEN);
        cookie.copy_from_slice(text);
        cipher(theirs)
            .decrypt_in_place_detached(&reply.nonce.into(), &mac1, &mut cookie, tag.into())
            .map_err(|_| Refusal::Forged)?;
        self.held = Some((cookie, now));
        // One reply to one message.
        self.mac1 = None;
        Ok(())
    }
}

impl fmt::Debug for CookieJar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieJar(secret)")
    }
}

fn cipher(keys: &MacKeys) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(keys.cookie().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::PublicKey;
    use crate::noise::mac::has_mac2;
    use crate::testing::entropy;
    use sluice_wire::Ip;

    const START: Duration = Duration::from_secs(50);

    fn address(last: u8, port: u16) -> Address {
        let ip = Ip::v4([192, 0, 2, last]);
        Address { ip, port }
    }

    #[test]
    fn a_cookie_is_of_an_address_and_of_two_minutes() {
        let (mut secret, mut random) = (CookieSecret::default(), entropy(1));
        let mut cookie = |from, now| secret.cookie(from, now, &mut random);
        let first = cookie(address(1, 100), START);
        assert_ne!(cookie(address(1, 101), START), first);
        assert_ne!(cookie(address(2, 100), START), first);
        let end = START + COOKIE_LIFETIME;
        assert_eq!(
            cookie(address(1, 100), end - Duration::from_millis(1)),
            first
        );
        assert_ne!(cookie(address(1, 100), end), first);
    }

    #[test]
    fn a_reply_is_for_one_message_of_one_sender() {
        let giver = MacKeys::new(&PublicKey::from_bytes([5; 32]));
        let stranger = MacKeys::new(&PublicKey::from_bytes([6; 32]));
        let mut random = entropy(2);
        let cookie = [0xcc; 16];
        let (mut jar, mut message) = (CookieJar::default(), [1; 148]);
        let early = reply(&giver, 9, &[0; 16], &cookie, &mut random);
        assert_eq!(
            jar.take(&giver, &early, START),
            Err(Refusal::Forged),
            "nothing was sent"
        );

        jar.stamp(&giver, &mut message, START);
        assert!(!has_mac2(&message, &cookie));
        let mac1 = giver.mac1(&message).unwrap();
        let answer = reply(&giver, 9, &mac1, &cookie, &mut random);
        assert_eq!(answer.receiver, 9);
        let foreign = reply(&stranger, 9, &mac1, &cookie, &mut random);
        assert_eq!(jar.take(&giver, &foreign, START), Err(Refusal::Forged));
        assert_eq!(jar.take(&giver, &early, START), Err(Refusal::Forged));
        assert_eq!(jar.take(&giver, &answer, START), Ok(()));
        assert_eq!(
            jar.take(&giver, &answer, START),
            Err(Refusal::Forged),
            "again"
        );

        let just = COOKIE_LIFETIME - COOKIE_LATENCY - Duration::from_millis(1);
        jar.stamp(&giver, &mut message, START + just);
        assert!(has_mac2(&message, &cookie));
        message[148 - 16..].fill(0);
        jar.stamp(
            &giver,
            &mut message,
            START + just + Duration::from_millis(1),
        );
        assert!(!has_mac2(&message, &cookie), "too old to be used");
    }
}
