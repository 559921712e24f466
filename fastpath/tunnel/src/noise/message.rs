//! The four messages on the wire. Integers are little-endian; offsets and lengths in bytes.
//!
//! | message | len | layout: field `offset..end` |
//! |---|---|---|
//! | 1, initiation | 148 | type `0`, zeros `1..4`, sender index `4..8`, ephemeral key `8..40`, static key and tag `40..88`, timestamp and tag `88..116`, mac1 `116..132`, mac2 `132..148` |
//! | 2, response | 92 | type `0`, zeros `1..4`, sender index `4..8`, receiver index `8..12`, ephemeral key `12..44`, tag of nothing `44..60`, mac1 `60..76`, mac2 `76..92` |
//! | 3, cookie reply | 64 | type `0`, zeros `1..4`, receiver index `4..8`, nonce `8..32`, cookie and tag `32..64` |
//! | 4, transport data | 32 or more | type `0`, zeros `1..4`, receiver index `4..8`, counter `8..16`, packet and tag `16..` |
//!
//! The two authenticators at the end of messages 1 and 2 are [`super::mac`]'s; here they are room.

use super::hash::MAC_LEN;
use crate::aead::TAG_LEN;
use crate::key::{KEY_LEN, PublicKey};
use crate::refusal::Refusal;

/// Length of an initiation.
pub const INITIATION_LEN: usize = 148;
/// Length of a response.
pub const RESPONSE_LEN: usize = 92;
/// Length of a cookie reply.
pub const COOKIE_REPLY_LEN: usize = 64;
/// Length of what goes before the packet in transport data.
pub const TRANSPORT_HEADER_LEN: usize = 16;
/// Length of transport data without a packet in it.
pub const TRANSPORT_LEN_MIN: usize = TRANSPORT_HEADER_LEN + TAG_LEN;
/// Length of the two authenticators.
pub(super) const MACS_LEN: usize = 2 * MAC_LEN;

/// Length of a TAI64N timestamp.
pub(super) const TIMESTAMP_LEN: usize = 12;
/// Length of the nonce of a cookie reply (XChaCha20).
pub(crate) const COOKIE_NONCE_LEN: usize = 24;

/// What a message is, by its first four bytes and its length.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    Initiation,
    Response,
    CookieReply,
    Transport,
}

impl Kind {
    /// # Errors
    /// [`Refusal::Malformed`]: no type, reserved bytes that are not zero, or another length than the type's.
    #[inline]
    pub const fn of(datagram: &[u8]) -> Result<Self, Refusal> {
        let Some((&first, _)) = datagram.split_first_chunk::<4>() else {
            return Err(Refusal::Malformed);
        };
        match (first, datagram.len()) {
            ([1, 0, 0, 0], INITIATION_LEN) => Ok(Self::Initiation),
            ([2, 0, 0, 0], RESPONSE_LEN) => Ok(Self::Response),
            ([3, 0, 0, 0], COOKIE_REPLY_LEN) => Ok(Self::CookieReply),
            ([4, 0, 0, 0], TRANSPORT_LEN_MIN..) => Ok(Self::Transport),
            _ => Err(Refusal::Malformed),
        }
    }
}

/// Takes fields off the front of a message whose length was checked.
struct Fields<'m>(&'m [u8]);

impl<'m> Fields<'m> {
    fn take<const N: usize>(&mut self) -> &'m [u8; N] {
        let Some((field, rest)) = self.0.split_first_chunk() else {
            unreachable!("the fields add up to the length of the message");
        };
        self.0 = rest;
        field
    }

    fn index(&mut self) -> u32 {
        u32::from_le_bytes(*self.take())
    }
}

/// Puts fields one behind the other.
struct Writer<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Writer<N> {
    const fn new(kind: u8) -> Self {
        let mut bytes = [0; N];
        bytes[0] = kind;
        Self { bytes, at: 4 }
    }

    fn put(mut self, field: &[u8]) -> Self {
        self.bytes[self.at..][..field.len()].copy_from_slice(field);
        self.at += field.len();
        self
    }
}

/// Message 1: the initiator introduces itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Initiation {
    /// What the initiator calls the session to come.
    pub sender: u32,
    pub ephemeral: PublicKey,
    /// The initiator's static public key, encrypted.
    pub sealed_static: [u8; KEY_LEN + TAG_LEN],
    /// The initiator's time, encrypted.
    pub sealed_timestamp: [u8; TIMESTAMP_LEN + TAG_LEN],
}

impl Initiation {
    /// # Errors
    /// [`Refusal::Malformed`].
    pub fn parse(datagram: &[u8]) -> Result<Self, Refusal> {
        let Kind::Initiation = Kind::of(datagram)? else {
            return Err(Refusal::Malformed);
        };
        let mut fields = Fields(&datagram[4..]);
        Ok(Self {
            sender: fields.index(),
            ephemeral: PublicKey::from_bytes(*fields.take()),
            sealed_static: *fields.take(),
            sealed_timestamp: *fields.take(),
        })
    }

    /// The message with zeros for both authenticators: [`super::MacKeys::stamp`] fills them.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; INITIATION_LEN] {
        Writer::new(1)
            .put(&self.sender.to_le_bytes())
            .put(self.ephemeral.as_bytes())
            .put(&self.sealed_static)
            .put(&self.sealed_timestamp)
            .bytes
    }
}

/// Message 2: the responder agrees.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Response {
    /// What the responder calls the session.
    pub sender: u32,
    /// [`Initiation::sender`].
    pub receiver: u32,
    pub ephemeral: PublicKey,
    /// Nothing, encrypted: proves that the responder has the secrets.
    pub sealed_nothing: [u8; TAG_LEN],
}

impl Response {
    /// # Errors
    /// [`Refusal::Malformed`].
    pub fn parse(datagram: &[u8]) -> Result<Self, Refusal> {
        let Kind::Response = Kind::of(datagram)? else {
            return Err(Refusal::Malformed);
        };
        let mut fields = Fields(&datagram[4..]);
        Ok(Self {
            sender: fields.index(),
            receiver: fields.index(),
            ephemeral: PublicKey::from_bytes(*fields.take()),
            sealed_nothing: *fields.take(),
        })
    }

    /// The message with zeros for both authenticators: [`super::MacKeys::stamp`] fills them.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; RESPONSE_LEN] {
        Writer::new(2)
            .put(&self.sender.to_le_bytes())
            .put(&self.receiver.to_le_bytes())
            .put(self.ephemeral.as_bytes())
            .put(&self.sealed_nothing)
            .bytes
    }
}

/// Message 3: whoever is under load asks for its cookie back, instead of answering message 1 or 2.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CookieReply {
    /// The sender index of the message that it is about.
    pub receiver: u32,
    pub nonce: [u8; COOKIE_NONCE_LEN],
    pub sealed_cookie: [u8; MAC_LEN + TAG_LEN],
}

impl CookieReply {
    /// # Errors
    /// [`Refusal::Malformed`].
    pub fn parse(datagram: &[u8]) -> Result<Self, Refusal> {
        let Kind::CookieReply = Kind::of(datagram)? else {
            return Err(Refusal::Malformed);
        };
        let mut fields = Fields(&datagram[4..]);
        Ok(Self {
            receiver: fields.index(),
            nonce: *fields.take(),
            sealed_cookie: *fields.take(),
        })
    }

    #[must_use]
    pub fn to_bytes(&self) -> [u8; COOKIE_REPLY_LEN] {
        Writer::new(3)
            .put(&self.receiver.to_le_bytes())
            .put(&self.nonce)
            .put(&self.sealed_cookie)
            .bytes
    }
}

/// The header of message 4, which carries a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TransportHeader {
    /// What the receiver calls the session.
    pub receiver: u32,
    /// How many were sealed before in this session and direction: the nonce.
    pub counter: u64,
}

impl TransportHeader {
    /// # Errors
    /// [`Refusal::Malformed`], also where there is no room for a tag.
    #[inline]
    pub fn parse(datagram: &[u8]) -> Result<Self, Refusal> {
        let Kind::Transport = Kind::of(datagram)? else {
            return Err(Refusal::Malformed);
        };
        let mut fields = Fields(&datagram[4..]);
        Ok(Self {
            receiver: fields.index(),
            counter: u64::from_le_bytes(*fields.take()),
        })
    }

    #[inline]
    #[must_use]
    pub fn to_bytes(self) -> [u8; TRANSPORT_HEADER_LEN] {
        Writer::new(4)
            .put(&self.receiver.to_le_bytes())
            .put(&self.counter.to_le_bytes())
            .bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that all differ from their neighbours, under a header that fits.
    fn counting<const N: usize>(kind: u8) -> [u8; N] {
        let mut bytes = std::array::from_fn(|at| u8::try_from(at % 251).unwrap());
        bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
        bytes
    }

    #[test]
    fn the_type_the_reserved_bytes_and_the_length_decide() {
        for (kind, len, expected) in [
            (1, INITIATION_LEN, Kind::Initiation),
            (2, RESPONSE_LEN, Kind::Response),
            (3, COOKIE_REPLY_LEN, Kind::CookieReply),
            (4, TRANSPORT_LEN_MIN, Kind::Transport),
        ] {
            let datagram = [&[kind, 0, 0, 0][..], &[0xff; 200]].concat();
            for cut in 0..=datagram.len() {
                let fits = cut == len || kind == 4 && cut > len;
                let answer = if fits {
                    Ok(expected)
                } else {
                    Err(Refusal::Malformed)
                };
                assert_eq!(
                    Kind::of(&datagram[..cut]),
                    answer,
                    "type {kind} of {cut} bytes"
                );
            }
            for at in 0..4 {
                let mut other = datagram[..len].to_vec();
                other[at] ^= 0x80;
                assert_eq!(Kind::of(&other), Err(Refusal::Malformed));
            }
        }
    }

    #[test]
    fn fields_are_where_the_paper_has_them() {
        let bytes: [u8; INITIATION_LEN] = counting(1);
        let initiation = Initiation::parse(&bytes).unwrap();
        assert_eq!(initiation.sender, 0x0706_0504);
        assert_eq!(initiation.ephemeral.as_bytes()[..], bytes[8..40]);
        assert_eq!(initiation.sealed_static[..], bytes[40..88]);
        assert_eq!(initiation.sealed_timestamp[..], bytes[88..116]);
        assert_eq!(initiation.to_bytes()[..116], bytes[..116]);
        assert_eq!(initiation.to_bytes()[116..], [0; 32]);

        let bytes: [u8; RESPONSE_LEN] = counting(2);
        let response = Response::parse(&bytes).unwrap();
        assert_eq!(
            (response.sender, response.receiver),
            (0x0706_0504, 0x0b0a_0908)
        );
        assert_eq!(response.ephemeral.as_bytes()[..], bytes[12..44]);
        assert_eq!(response.sealed_nothing[..], bytes[44..60]);
        assert_eq!(response.to_bytes()[..60], bytes[..60]);
        assert_eq!(response.to_bytes()[60..], [0; 32]);

        let bytes: [u8; COOKIE_REPLY_LEN] = counting(3);
        let reply = CookieReply::parse(&bytes).unwrap();
        assert_eq!(reply.receiver, 0x0706_0504);
        assert_eq!(reply.nonce[..], bytes[8..32]);
        assert_eq!(reply.sealed_cookie[..], bytes[32..64]);
        assert_eq!(reply.to_bytes(), bytes);

        let bytes: [u8; TRANSPORT_LEN_MIN] = counting(4);
        let header = TransportHeader::parse(&bytes).unwrap();
        assert_eq!(header.receiver, 0x0706_0504);
        assert_eq!(header.counter, 0x0f0e_0d0c_0b0a_0908);
        assert_eq!(header.to_bytes()[..], bytes[..16]);
    }
}
