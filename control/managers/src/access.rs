//! Who may talk to a listener: a token compared in constant time, and prefixes that need none.

use sluice_wire::{Ip, Subnet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use subtle::ConstantTimeEq;
use thiserror::Error;

/// A shared secret. It is never printed: `Debug` shows only that there is one.
#[derive(Clone)]
pub struct Token(String);

#[derive(Debug, Error)]
pub enum TokenError {
    #[error("cannot read the token file {path}: {source}")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "the token is {length} characters long; it needs 8 to 1024 printable characters without spaces"
    )]
    Shape { length: usize },
}

impl Token {
    /// # Errors
    /// When `text`, without surrounding white space, is not 8 to 1024 printable ASCII characters: shorter is a
    /// mistake (an empty file), and others do not survive an HTTP header.
    pub fn new(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if !(8..=1024).contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::Shape { length: text.len() });
        }
        Ok(Self(text.to_owned()))
    }

    /// Reads a token from a file that holds nothing else.
    ///
    /// # Errors
    /// When the file cannot be read or holds no token.
    pub fn from_file(path: &Path) -> Result<Self, TokenError> {
        let text = std::fs::read_to_string(path).map_err(|source| TokenError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::new(&text)
    }

    /// Whether `presented` is this token. The time it takes tells nothing but its length.
    #[must_use]
    pub fn matches(&self, presented: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(presented).into()
    }

    /// The secret itself, to be sent to a peer. Never log it.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// The rule of one listener.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Asked of every peer, when there is one.
    pub token: Option<Token>,
    /// Peers inside these prefixes need no token: Oakestra's own parts cannot present one.
    pub allow_without_token: Vec<Subnet>,
}

#[derive(Debug, Error)]
#[error(
    "{listen} can be reached by others and nothing protects it: set `token_file`, or `allow_without_token` \
     for the networks that may do without, or listen on 127.0.0.1"
)]
pub struct Unprotected {
    listen: SocketAddr,
}

impl Access {
    /// # Errors
    /// When others could reach `listen` and neither a token nor a prefix limits them.
    pub fn check(&self, listen: SocketAddr) -> Result<(), Unprotected> {
        if listen.ip().is_loopback() || self.token.is_some() || !self.allow_without_token.is_empty()
        {
            return Ok(());
        }
        Err(Unprotected { listen })
    }

    /// Whether `peer`, presenting `token`, may speak. Without a configured token the peer must be on this machine
    /// or inside an allowed prefix.
    #[must_use]
    pub fn admits(&self, peer: IpAddr, token: Option<&[u8]>) -> bool {
        if self.exempts(peer) {
            return true;
        }
        match (&self.token, token) {
            (Some(expected), Some(presented)) => expected.matches(presented),
            (Some(_), None) => false,
            (None, _) => peer.to_canonical().is_loopback(),
        }
    }

    /// Whether `peer` is in a network that needs to show nothing.
    #[must_use]
    pub fn exempts(&self, peer: IpAddr) -> bool {
        let peer = Ip::from(peer);
        let mut prefixes = self.allow_without_token.iter();
        prefixes.any(|prefix| prefix.contains(peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_compared_whole_and_never_printed() {
        let token = Token::new(" correct-horse \n").unwrap();
        assert!(token.matches(b"correct-horse"));
        assert!(!token.matches(b"correct-hors"));
        assert!(!token.matches(b""));
        assert_eq!(format!("{token:?}"), "Token(..)");
        assert!(Token::new("short").is_err());
        assert!(Token::new("with a space in it").is_err());
    }

    #[test]
    fn only_loopback_is_open_by_default() {
        let open = Access::default();
        assert!(open.check("127.0.0.1:1".parse().unwrap()).is_ok());
        assert!(open.check("[::1]:1".parse().unwrap()).is_ok());
        assert!(open.check("0.0.0.0:1".parse().unwrap()).is_err());
        assert!(open.admits("127.0.0.1".parse().unwrap(), None));
        assert!(open.admits("::ffff:127.0.0.1".parse().unwrap(), None));
        assert!(!open.admits("192.0.2.1".parse().unwrap(), None));
    }

    #[test]
    fn a_configured_token_is_asked_of_everyone_outside_the_prefixes() {
        let access = Access {
            token: Some(Token::new("correct-horse").unwrap()),
            allow_without_token: vec!["192.0.2.0/24".parse().unwrap()],
        };
        assert!(access.check("0.0.0.0:1".parse().unwrap()).is_ok());
        let peer = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(access.admits(peer("192.0.2.9"), None));
        assert!(access.admits(peer("::ffff:192.0.2.9"), None));
        assert!(!access.admits(peer("127.0.0.1"), None));
        assert!(!access.admits(peer("127.0.0.1"), Some(b"wrong-horse")));
        assert!(access.admits(peer("198.51.100.1"), Some(b"correct-horse")));
    }
}
