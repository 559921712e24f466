//! The issuer's public key, asked for when it is first needed and kept.
//!
//! Oakestra's root waits for the key server before it starts; here only callers of the public interface do. A server that
//! does not answer is asked again after a pause that doubles, and in between callers are told at once. A signature that
//! does not fit may mean that the issuer has a new key: it is asked for again, but not more often than once a minute, so
//! that bad tokens cost the key server nothing.

use super::jwt::{Key, Refused};
use crate::http::Client;
use hyper::Method;
use serde::Deserialize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long the key server may take.
const FETCH_WAIT: Duration = Duration::from_secs(2);

/// Pauses after a failure.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Shortest time between two keys.
const RENEWAL_PAUSE: Duration = Duration::from_secs(60);

/// See the module.
pub(super) struct KeyServer {
    /// `host:port`
    authority: String,
    client: Client,
    key: Mutex<Option<Arc<Key>>>,
    /// Held while asking, so that callers wait for one question together.
    next: tokio::sync::Mutex<Next>,
}

/// When the key server may be asked again.
struct Next {
    at: Instant,
    /// The pause after the next failure.
    pause: Duration,
}

/// Why a token cannot be judged, or was judged badly.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Closed {
    Refused(Refused),
    /// No key is known, and the next question may leave after this time.
    NoKey {
        retry: Duration,
    },
}

/// What the key server answers at `/key`.
#[derive(Deserialize)]
struct Body {
    public_key: String,
}

impl KeyServer {
    pub(super) fn new(authority: String) -> Self {
        Self {
            authority,
            client: Client::new(None, FETCH_WAIT),
            key: Mutex::new(None),
            next: tokio::sync::Mutex::new(Next {
                at: Instant::now(),
                pause: PAUSE_MIN,
            }),
        }
    }

    /// Whether `token` opens the interface at `now_s`, seconds since 1970.
    pub(super) async fn verify(&self, token: &str, now_s: u64) -> Result<(), Closed> {
        let known = self.key();
        if let Some(key) = &known {
            match key.verify(token, now_s) {
                Ok(()) => return Ok(()),
                Err(Refused::Signature) => {}
                Err(refused) => return Err(Closed::Refused(refused)),
            }
        }
        match self.other_than(known.as_ref()).await {
            Ok(key) => key.verify(token, now_s).map_err(Closed::Refused),
            Err(_) if known.is_some() => Err(Closed::Refused(Refused::Signature)),
            Err(retry) => Err(Closed::NoKey { retry }),
        }
    }

    fn key(&self) -> Option<Arc<Key>> {
        let key = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        key.clone()
    }

    /// A key that is newer than `known`, or how long the next question has to wait.
    async fn other_than(&self, known: Option<&Arc<Key>>) -> Result<Arc<Key>, Duration> {
        let mut next = self.next.lock().await;
        // Perhaps somebody else has asked meanwhile.
        if let Some(key) = self.key()
            && known.is_none_or(|known| !Arc::ptr_eq(known, &key))
        {
            return Ok(key);
        }
        let wait = next.at.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            return Err(wait);
        }
        match self.fetch().await {
            Ok(key) => {
                tracing::info!(server = self.authority, "key of the token issuer read");
                let key = Arc::new(key);
                *self.key.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&key));
                next.at = Instant::now() + RENEWAL_PAUSE;
                next.pause = PAUSE_MIN;
                Ok(key)
            }
            Err(error) => {
                let pause = next.pause;
                let next_s = pause.as_secs();
                tracing::warn!(server = self.authority, %error, next_s, "no key from the token issuer");
                next.at = Instant::now() + pause;
                next.pause = (pause * 2).min(PAUSE_MAX);
                Err(pause)
            }
        }
    }

    async fn fetch(&self) -> Result<Key, String> {
        let answer = self
            .client
            .call(Method::GET, &self.authority, "/key", vec![], FETCH_WAIT)
            .await
            .map_err(|error| error.to_string())?;
        if answer.status != 200 {
            return Err(format!("/key answers {}", answer.status));
        }
        let body: Body = serde_json::from_slice(&answer.body)
            .map_err(|error| format!("/key answers no {{\"public_key\": ...}}: {error}"))?;
        Key::from_pem(&body.public_key).map_err(|error| format!("`public_key`: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{OTHER_KEY, PUBLIC_KEY, SIGNING_KEY, claims, token};
    use super::*;
    use axum::Router;
    use axum::routing::get;
    use serde_json::json;
    use std::sync::atomic::{AtomicU32, Ordering};

    const NOW_S: u64 = 1_800_000_000;

    /// A key server that counts its questions and answers with `text`.
    async fn serve(text: Arc<Mutex<String>>) -> (KeyServer, Arc<AtomicU32>) {
        let asked = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&asked);
        let routes = Router::new().route(
            "/key",
            get(async move || {
                counted.fetch_add(1, Ordering::Relaxed);
                text.lock().unwrap().clone()
            }),
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(axum::serve(listener, routes).into_future());
        (KeyServer::new(address.to_string()), asked)
    }

    fn body(key: &str) -> Arc<Mutex<String>> {
        Arc::new(Mutex::new(json!({ "public_key": key }).to_string()))
    }

    #[tokio::test]
    async fn the_key_is_asked_for_once_and_again_only_after_a_pause() {
        let shown = body("-----BEGIN NONSENSE-----");
        let (keys, asked) = serve(Arc::clone(&shown)).await;
        let good = token(SIGNING_KEY, &claims(NOW_S));
        for _ in 0..3 {
            let closed = keys.verify(&good, NOW_S).await.unwrap_err();
            assert!(matches!(closed, Closed::NoKey { .. }), "{closed:?}");
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1, "the pause is kept");
        assert_eq!(keys.next.lock().await.pause, PAUSE_MIN * 2);
        shown
            .lock()
            .unwrap()
            .clone_from(&body(PUBLIC_KEY).lock().unwrap());
        keys.next.lock().await.at = Instant::now();
        for _ in 0..3 {
            assert_eq!(keys.verify(&good, NOW_S).await, Ok(()));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_key_that_was_changed_is_found_and_bad_tokens_do_not_hammer_the_server() {
        let shown = body(PUBLIC_KEY);
        let (keys, asked) = serve(Arc::clone(&shown)).await;
        let refused = Err(Closed::Refused(Refused::Signature));
        let (old, new) = (
            token(SIGNING_KEY, &claims(NOW_S)),
            token(OTHER_KEY, &claims(NOW_S)),
        );
        for _ in 0..3 {
            assert_eq!(keys.verify(&new, NOW_S).await, refused);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        let other = include_str!("testdata/other.pub.pem");
        shown
            .lock()
            .unwrap()
            .clone_from(&body(other).lock().unwrap());
        keys.next.lock().await.at = Instant::now();
        assert_eq!(keys.verify(&new, NOW_S).await, Ok(()));
        assert_eq!(keys.verify(&old, NOW_S).await, refused);
    }
}
