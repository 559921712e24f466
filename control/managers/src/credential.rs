//! What a node shows to prove its id to the broker: derived from the id and a secret of the cluster manager, so that nothing is
//! kept for each node.

use crate::access::{Access, Token};
use crate::secret_file::{Secret, SecretFile, SecretFileError};
use base64ct::{Base64UrlUnpadded, Encoding};
use ring::hmac;
use sluice_proto::broker::topic::Grant;
use std::net::IpAddr;
use std::path::Path;

/// What is authenticated begins with this: the secret means nothing else.
const PURPOSE: &[u8] = b"sluice node credential 1\0";
/// Characters of a credential.
const TEXT_LEN: usize = 43;
/// In the manager's `data_dir`.
const FILE: &str = "nodes.key";
const WAY_OUT: &str =
    "remove it, and the next start makes a new one; then every node needs its new credential";

/// Makes and checks the credentials of one cluster's nodes. It never prints its secret.
#[derive(Clone)]
pub struct NodeCredentials(hmac::Key);

impl NodeCredentials {
    /// By the secret in a cluster manager's `data_dir`, which is made if there is none.
    ///
    /// # Errors
    /// When the file cannot be read or made, or others may read it.
    pub fn of_manager(data_dir: &Path) -> Result<Self, SecretFileError> {
        let file = SecretFile::new(data_dir.join(FILE), WAY_OUT);
        Ok(Self::new(&file.read_or_make()?))
    }

    fn new(secret: &Secret) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret.as_slice()))
    }

    /// The password of a node: HMAC-SHA256 of its id, 43 characters of base64url (RFC 4648 section 5).
    #[must_use]
    pub fn of(&self, node: &str) -> Token {
        let tag = hmac::sign(&self.0, &[PURPOSE, node.as_bytes()].concat());
        let mut text = [0; TEXT_LEN];
        Base64UrlUnpadded::encode(tag.as_ref(), &mut text)
            .ok()
            .and_then(|text| Token::new(text).ok())
            .unwrap_or_else(|| unreachable!("32 bytes are 43 characters of base64, and a token"))
    }

    fn admits(&self, node: &str, presented: &[u8]) -> bool {
        self.of(node).matches(presented)
    }
}

impl std::fmt::Debug for NodeCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeCredentials(..)")
    }
}

/// Who may connect to the broker.
#[derive(Debug, Default)]
pub(crate) struct BrokerAccess {
    pub(crate) access: Access,
    /// Asked of every client whose id is a node's; `None`: such a client is believed, if `access` admits it.
    pub(crate) nodes: Option<NodeCredentials>,
}

impl BrokerAccess {
    /// Whether a client may connect as who it says it is. What it may do then follows from its id alone ([`Grant`]).
    pub(crate) fn admits(
        &self,
        peer: IpAddr,
        client_id: &str,
        login: Option<(&str, &[u8])>,
    ) -> bool {
        match (&self.nodes, Grant::of_client(client_id)) {
            (Some(nodes), Grant::Node(node)) => {
                let is_node =
                    |(user, password): (&str, &[u8])| user == node && nodes.admits(&node, password);
                self.access.exempts(peer) || login.is_some_and(is_node)
            }
            (_, Grant::All | Grant::Node(_)) => self
                .access
                .admits(peer, login.map(|(_, password)| password)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "0123456789abcdef01234567";
    const OTHER: &str = "ffffffffffffffffffffffff";

    fn credentials(secret: u8) -> NodeCredentials {
        NodeCredentials::new(&Secret::new([secret; 32]))
    }

    /// Nodes have them in files; another release makes the same.
    #[test]
    fn a_credential_is_of_one_node_and_one_cluster() {
        let token = credentials(1).of(NODE);
        assert_eq!(
            token.secret(),
            "Vs-dyNCa4kHDmxMPVHXuR4AYdeZcHfLdecqSE0_1CFM"
        );
        assert_ne!(credentials(1).of(OTHER).secret(), token.secret());
        assert_ne!(credentials(2).of(NODE).secret(), token.secret());
        assert_eq!(format!("{:?}", credentials(1)), "NodeCredentials(..)");
    }

    #[test]
    fn a_node_is_who_its_credential_says() {
        let shared = Token::new("correct-horse").unwrap();
        let access = BrokerAccess {
            access: Access {
                token: Some(shared.clone()),
                allow_without_token: vec!["192.0.2.0/24".parse().unwrap()],
            },
            nodes: Some(credentials(1)),
        };
        let own = credentials(1).of(NODE);
        let engine = format!("{NODE}-ne");
        for (client_id, user, password, expected) in [
            (NODE, Some(NODE), &own, true),
            (engine.as_str(), Some(NODE), &own, true),
            // Another's id, with or without its name.
            (OTHER, Some(NODE), &own, false),
            (OTHER, Some(OTHER), &own, false),
            (NODE, None, &own, false),
            // What all managers share makes nobody a node, and a node no manager.
            (NODE, Some(NODE), &shared, false),
            ("manager", Some("manager"), &shared, true),
            ("manager", Some(NODE), &own, false),
        ] {
            let login = user.map(|user| (user, password.secret().as_bytes()));
            let admitted = |peer: &str| access.admits(peer.parse().unwrap(), client_id, login);
            assert_eq!(admitted("198.51.100.1"), expected, "{client_id} {user:?}");
            assert_eq!(admitted("127.0.0.1"), expected, "{client_id} {user:?}");
            assert!(admitted("192.0.2.9"), "Oakestra's parts show nothing");
        }
    }

    /// As Oakestra has it.
    #[test]
    fn without_credentials_a_client_is_who_it_says() {
        let access = BrokerAccess::default();
        let loopback = "127.0.0.1".parse().unwrap();
        assert!(access.admits(loopback, NODE, None));
        assert!(access.admits(loopback, "manager", None));
        assert!(!access.admits("192.0.2.9".parse().unwrap(), NODE, None));
    }
}
