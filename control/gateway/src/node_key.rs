//! The node's static key: where its file is, and who it makes the node.

use crate::config::Config;
use sluice_managers::{Secret, SecretFile};
use sluice_proto::message::NodeKey;
use sluice_tunnel::key::{Identity, PrivateKey};

/// What to do about a key file that cannot be used. Nothing but the key is lost by it: the managers are told the new one.
const WAY_OUT: &str = "`sluice key rotate` puts a new key in its place";

/// The file with the node's private key.
pub(crate) fn file(config: &Config) -> SecretFile {
    SecretFile::new(config.gateway.key_file.clone(), WAY_OUT)
}

/// The file, when nobody chose another place for it than the state of the gateway.
pub(crate) fn own_file(config: &Config) -> Option<SecretFile> {
    let gateway = &config.gateway;
    gateway
        .key_file
        .starts_with(&gateway.state_dir)
        .then(|| file(config))
}

/// Who the node is by a private key.
pub(crate) fn identity(secret: &Secret) -> Identity {
    Identity::new(PrivateKey::from_bytes(secret))
}

/// What the managers are told.
pub(crate) const fn public(identity: &Identity) -> NodeKey {
    NodeKey::from_bytes(*identity.public().as_bytes())
}
