//! How packets to a node are wrapped: as the rows say that place instances there.

use super::Routes;
use sluice_proto::message::NodeKey;
use sluice_tables::TunnelFormat;
use sluice_wire::Ip;

impl Routes {
    /// Whether nodes whose rows say a key are spoken to by the encrypted format from now on; not at first. To be set before any
    /// row is, once the workers have this node's own key.
    pub const fn set_encrypts(&mut self, encrypts: bool) {
        self.encrypts = encrypts;
    }

    /// The format that goes with what a row says of a node's key.
    pub(super) fn said(&self, key: Option<NodeKey>) -> Option<TunnelFormat> {
        let key = key.filter(|_| self.encrypts)?;
        Some(TunnelFormat::WireGuard {
            key: *key.as_bytes(),
        })
    }

    /// How the node is spoken to by what other rows say. One without a key does not make it plain, and what it was when an
    /// instance left it does not bring an old key back.
    pub(super) fn known_format(&self, host: Ip, port: u16) -> Option<TunnelFormat> {
        let peer = self.tables().peer(self.writer.peer_at(host, port)?)?;
        Some(peer.format)
    }
}
