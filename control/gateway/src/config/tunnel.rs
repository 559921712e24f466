//! The meaning of `[tunnel]`.

use super::check::Check;
use super::{ConfigError, RawTunnel};
use sluice_routes::Formats;
use sluice_wire::Subnet;
use sluice_worker::Dscp;
use std::path::PathBuf;

/// How packets to other nodes are wrapped.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tunnel {
    /// This node has a key, and speaks the encrypted format with nodes that have one.
    pub encrypt: bool,
    /// Nodes without a key are spoken to, in plain, if their address is in one of these.
    pub plain_peers: Vec<Subnet>,
    /// What encrypted datagrams show of the kind of packet in them.
    pub dscp: Dscp,
    /// Where the keys of all sessions are written, if anywhere.
    pub key_log: Option<PathBuf>,
}

impl Tunnel {
    /// What the routes go by.
    #[must_use]
    pub fn formats(&self) -> Formats {
        if self.encrypt {
            let plain = self.plain_peers.clone();
            Formats::Encrypted { plain }
        } else {
            Formats::Plain
        }
    }
}

impl Check<'_> {
    pub(super) fn tunnel(&self, raw: &RawTunnel) -> Result<Tunnel, ConfigError> {
        const PLAIN_PEERS: &str = "tunnel.plain_peers";
        let plain_peers = self.subnets(PLAIN_PEERS, &raw.plain_peers)?;
        if !raw.encrypt && !plain_peers.is_empty() {
            return Err(self.value(
                PLAIN_PEERS,
                format!("{:?}", raw.plain_peers),
                "[] while `tunnel.encrypt` is false: then all nodes are spoken to in plain",
            ));
        }
        let dscp = self.number("tunnel.dscp", raw.dscp, 0..=63_u8)?;
        if raw.copy_dscp && dscp != 0 {
            return Err(self.value(
                "tunnel.dscp",
                raw.dscp.to_string(),
                "0 while `tunnel.copy_dscp` is true: then it is that of the packet inside",
            ));
        }
        Ok(Tunnel {
            encrypt: raw.encrypt,
            plain_peers,
            dscp: if raw.copy_dscp {
                Dscp::Inner
            } else {
                Dscp::Fixed(dscp)
            },
            key_log: self.optional_path("tunnel.key_log", &raw.key_log)?,
        })
    }
}
