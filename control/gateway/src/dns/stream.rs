//! DNS over TCP (RFC 7766): one query after the other, each behind its length.

use super::serve::StreamQuery;
use sluice_wire::Ip;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// A connection without a query is closed after so long (RFC 7766 section 6.2.3: a few seconds).
const IDLE: Duration = Duration::from_secs(10);
/// How long a reply may take to be taken.
const WRITE: Duration = Duration::from_secs(5);
/// Connections at once, in all and of one instance.
const CONNECTIONS_MAX: usize = 256;
const CONNECTIONS_PER_SOURCE_MAX: usize = 16;

/// How many connections there are, by source.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Arc<Mutex<BTreeMap<Ip, usize>>>);

/// The right to have a connection.
#[derive(Debug)]
pub(super) struct Place {
    from: Ip,
    places: Places,
}

impl Places {
    /// `None` when there are too many.
    pub(super) fn take(&self, from: Ip) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.values().sum::<usize>() >= CONNECTIONS_MAX {
            return None;
        }
        let mine = taken.entry(from).or_default();
        if *mine >= CONNECTIONS_PER_SOURCE_MAX {
            return None;
        }
        *mine += 1;
        Some(Place {
            from,
            places: self.clone(),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mine) = taken.get_mut(&self.from) {
            *mine -= 1;
            if *mine == 0 {
                taken.remove(&self.from);
            }
        }
    }
}

/// Serves a connection until its end.
pub(super) async fn converse(
    mut stream: TcpStream,
    from: Ip,
    place: Place,
    queries: mpsc::Sender<StreamQuery>,
) {
    while let Ok(Ok(bytes)) = timeout(IDLE, read_message(&mut stream)).await {
        let (reply, answer) = oneshot::channel();
        let query = StreamQuery { bytes, from, reply };
        if queries.send(query).await.is_err() {
            break;
        }
        // Without an answer: it was no query, and nothing that comes now can be trusted to be one.
        let Ok(answer) = answer.await else { break };
        let written = timeout(WRITE, write_message(&mut stream, &answer)).await;
        if !matches!(written, Ok(Ok(()))) {
            break;
        }
    }
    drop(place);
}

/// Reads a message behind its length.
pub(super) async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let len = stream.read_u16().await?;
    let mut bytes = vec![0; len.into()];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// Writes a message behind its length, in one segment where it fits.
pub(super) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let len = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut bytes = len.to_be_bytes().to_vec();
    bytes.extend_from_slice(message);
    stream.write_all(&bytes).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_cannot_have_every_connection() {
        let places = Places::default();
        let [one, other] = ["10.18.0.2", "10.18.0.3"].map(|ip| ip.parse().unwrap());
        let held: Vec<Place> = (0..CONNECTIONS_PER_SOURCE_MAX)
            .map(|_| places.take(one).unwrap())
            .collect();
        assert!(places.take(one).is_none());
        assert!(places.take(other).is_some());
        drop(held);
        assert!(places.take(one).is_some());
        assert!(places.0.lock().unwrap().is_empty());
    }

    #[test]
    fn connections_are_bounded_in_all() {
        let places = Places::default();
        let first: Ip = "10.18.0.2".parse().unwrap();
        let held: Vec<Place> = (0..CONNECTIONS_MAX)
            .map(|index| places.take(first.offset((index / 8) as u128)).unwrap())
            .collect();
        assert!(places.take(first.offset(1000)).is_none());
        drop(held);
    }
}
