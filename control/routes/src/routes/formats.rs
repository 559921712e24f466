//! How packets to a node are wrapped: encrypted with the key that rows say, or in plain where that is allowed.

use super::Routes;
use sluice_proto::ServiceName;
use sluice_proto::message::NodeKey;
use sluice_tables::TunnelFormat;
use sluice_wire::{Ip, Subnet};
use std::collections::BTreeSet;

/// How other nodes are spoken to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Formats {
    /// All of them in plain, whatever their rows say.
    Plain,
    /// With their keys. Nodes whose rows say none are spoken to only if their addresses are in `plain`, and in plain.
    Encrypted { plain: Vec<Subnet> },
}

impl Routes {
    /// How other nodes are spoken to from now on: in plain at first. To be set before any row is, once the workers have this
    /// node's own key.
    pub fn set_formats(&mut self, formats: Formats) {
        self.formats = formats;
    }

    /// Nodes that are not spoken to, because no row says their key and plain is not allowed there.
    pub fn unspoken(&self) -> BTreeSet<(Ip, u16)> {
        self.unspoken.values().copied().collect()
    }

    /// How the node is spoken to on which the row with this key places an instance; `None`: not at all.
    pub(super) fn format(&self, key: Option<NodeKey>, host: Ip, port: u16) -> Option<TunnelFormat> {
        let said = self.said(key).or_else(|| self.known_format(host, port));
        said.or_else(|| self.plain_to(host))
    }

    /// The same of a node where an instance ran before. What its key was then does not bring it back if there is another.
    pub(super) fn former_format(
        &self,
        key: Option<NodeKey>,
        host: Ip,
        port: u16,
    ) -> Option<TunnelFormat> {
        let known = self.known_format(host, port).or_else(|| self.said(key));
        known.or_else(|| self.plain_to(host))
    }

    /// Notes whether the node of this instance is spoken to.
    pub(super) fn note_spoken(
        &mut self,
        name: &ServiceName,
        number: u32,
        node: (Ip, u16),
        is: bool,
    ) {
        let instance = (name.clone(), number);
        if is {
            self.unspoken.remove(&instance);
        } else if self.unspoken.insert(instance, node) != Some(node) {
            let (ip, port) = node;
            tracing::warn!(
                node = %ip,
                port,
                "the managers say no key of this node, and it is not spoken to; `tunnel.plain_peers` allows plain text"
            );
        }
    }

    /// Nothing is known of these instances any more: of one, or of all.
    pub(super) fn forget_spoken(&mut self, name: &ServiceName, number: Option<u32>) {
        self.unspoken
            .retain(|(job, it), _| job != name || number.is_some_and(|number| number != *it));
    }

    /// The format that goes with what a row says of a node's key.
    fn said(&self, key: Option<NodeKey>) -> Option<TunnelFormat> {
        let key = key.filter(|_| self.formats != Formats::Plain)?;
        Some(TunnelFormat::WireGuard {
            key: *key.as_bytes(),
        })
    }

    /// How the node is spoken to by what other rows say. One without a key does not make it plain, and what it was when an
    /// instance left it does not bring an old key back.
    fn known_format(&self, host: Ip, port: u16) -> Option<TunnelFormat> {
        let peer = self.tables().peer(self.writer.peer_at(host, port)?)?;
        Some(peer.format)
    }

    fn plain_to(&self, host: Ip) -> Option<TunnelFormat> {
        let is_allowed = match &self.formats {
            Formats::Plain => true,
            Formats::Encrypted { plain } => plain.iter().any(|subnet| subnet.contains(host)),
        };
        is_allowed.then_some(TunnelFormat::Plain)
    }
}
