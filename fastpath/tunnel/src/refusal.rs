//! Why a datagram of the encrypted format goes no further: every reason has a name and a counter.

macro_rules! refusals {
    ($($variant:ident $name:literal $cause:literal;)*) => {
        /// Why a datagram was refused. Nothing is answered, except where the cause says so.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[repr(u8)]
        pub enum Refusal {
            $(#[doc = $cause] $variant,)*
        }

        impl Refusal {
            /// All reasons, in counter order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable name in metrics, in kebab case.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

refusals! {
    Malformed "malformed"
        "No WireGuard message: an unknown type, reserved bits that are set, or a length that the type does not have.";
    WrongMac1 "wrong-mac1"
        "The first authenticator is not made for our public key: a scanner, or a peer that knows us by an old key.";
    Forged "forged"
        "What a handshake message or packet encrypts was not encrypted for this handshake or session.";
    UnknownSession "unknown-session"
        "Transport data of a session that is not known, or no longer: the peer notices within 15 seconds and begins a new one.";
    SessionEnded "session-ended"
        "Transport data of a session that is too old, or has sent too much, to be used.";
    Replayed "replayed"
        "The packet came before.";
    TooOld "too-old"
        "More than the replay window came in the session since: it may have come before.";
    CookieSent "cookie-sent"
        "We are under load, and the sender of the handshake message has not shown that it receives where it sends from. It was answered by a cookie, with which it can.";
    TooMany "too-many"
        "More handshake messages than we look at: of everybody, of this source, or of this peer.";
    UnknownInitiator "unknown-initiator"
        "The initiation of a key that is no peer's. It is kept a moment: control was asked, and may add the peer.";
    OldInitiation "old-initiation"
        "The peer wrote a later initiation than this, which was answered: a replay, or the peer's clock went back.";
    LowOrderKey "low-order-key"
        "A public key with which everybody shares the same secret (RFC 7748 section 6.1).";
}

#[cfg(test)]
mod tests {
    use super::Refusal;

    #[test]
    fn every_reason_has_a_name_of_its_own() {
        let mut names: Vec<_> = Refusal::ALL.iter().map(|refusal| refusal.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Refusal::ALL.len());
        for (at, refusal) in Refusal::ALL.iter().enumerate() {
            assert_eq!(at, *refusal as usize);
        }
    }
}
