//! The handshake of WireGuard: Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s, one message each way.
//!
//! ```text
//!  Initiator::start ──── Initiation: our ephemeral key, our static key, the time ────► Responder::read
//!                                                          is this initiator admitted, and with which pre-shared key?
//!  Initiator::finish ◄── Response: its ephemeral key, and that it has the secrets ──── Responder::respond
//!  TransportKeys                                                                       TransportKeys
//! ```
//!
//! The initiator knows the responder's static key before; the responder learns the initiator's from the first message, which
//! proves already who sent it, but not that it was sent just now: that is for [`Timestamp`], and for the first packet in the
//! new session. Everything here is a value: no time, no randomness but the ephemeral key that the caller gives.
//!
//! "The paper" is J. A. Donenfeld, *WireGuard: Next Generation Kernel Network Tunnel*, 2017.

pub mod message;
pub mod timestamp;
pub(crate) mod hash;
mod symmetric;
pub mod initiator;
pub mod responder;
pub mod mac;

pub use initiator::Initiator;
pub use mac::MacKeys;
pub use message::{CookieReply, Initiation, Kind, Response};
pub use responder::Responder;
pub use timestamp::Timestamp;

use crate::key::Secret;
use std::fmt;

/// What a finished handshake leaves: the secrets and names of a session. Overwritten when dropped.
pub struct TransportKeys {
    /// Encrypts what we send.
    pub sending: Secret,
    /// Decrypts what we receive.
    pub receiving: Secret,
    /// What we call the session: the receiver index of what comes.
    pub local_index: u32,
    /// What the peer calls it: the receiver index of what goes.
    pub remote_index: u32,
    /// Whether we began the handshake.
    pub initiated: bool,
}

impl fmt::Debug for TransportKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransportKeys")
            .field("local_index", &self.local_index)
            .field("remote_index", &self.remote_index)
            .field("initiated", &self.initiated)
            .finish_non_exhaustive()
    }
}
