//! The keys of handshakes as text, for whoever must read a capture: Wireshark reads it (its preference `wg.keylog_file`).
//!
//! Off unless a sink is given. Who has the text has this node's private key, and can read what it said while the text was written.

use crate::key::{Identity, PresharedKey, PrivateKey, PublicKey};
use std::fmt;
use zeroize::Zeroizing;

/// Takes the lines of one handshake, each with its line end.
pub type Sink = Box<dyn FnMut(&str) + Send>;

/// See the module.
#[derive(Default)]
pub(crate) struct KeyLog(Option<Sink>);

impl KeyLog {
    pub(crate) const fn new(sink: Sink) -> Self {
        Self(Some(sink))
    }

    /// Notes a handshake of which `ephemeral` is our part.
    pub(crate) fn note(
        &mut self,
        local: &Identity,
        remote: &PublicKey,
        ephemeral: &PrivateKey,
        preshared: &PresharedKey,
    ) {
        let Some(sink) = &mut self.0 else {
            return;
        };
        // The pre-shared key belongs to the ephemeral one before it.
        let text = Zeroizing::new(format!(
            "LOCAL_STATIC_PRIVATE_KEY = {}\nREMOTE_STATIC_PUBLIC_KEY = {remote}\nLOCAL_EPHEMERAL_PRIVATE_KEY = {}\n\
             PRESHARED_KEY = {}\n",
            *local.private().to_text(),
            *ephemeral.to_text(),
            *preshared.to_text(),
        ));
        sink(&text);
    }
}

impl fmt::Debug for KeyLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Some(_) => "KeyLog(on)",
            None => "KeyLog(off)",
        })
    }
}
