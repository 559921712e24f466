//! Records on disk: a write is durable before its ticket is, and one thread commits whatever came in meanwhile at once.

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use ring::rand::{Random, SystemRandom};
use sluice_proto::record::Change;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use thiserror::Error;
use tokio::sync::watch;

const RECORDS: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("records");

/// One entry: what tells this file from every other one.
const IDENTITY: TableDefinition<'static, (), u128> = TableDefinition::new("identity");

/// Pages redb may keep; all records are in memory once anyway.
const CACHE_BYTES: usize = 1 << 20;

#[derive(Clone, Debug, Error)]
pub enum StoreError {
    #[error("cannot create {path}: {message}")]
    Create { path: PathBuf, message: String },
    #[error("cannot open {path}: {message}")]
    Open { path: PathBuf, message: String },
    #[error("cannot write to {path}: {message}")]
    Write { path: PathBuf, message: String },
}

/// Changes that become durable together or not at all.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Batch {
    /// Key and new value; `None` deletes.
    pub(crate) changes: Vec<(String, Option<Vec<u8>>)>,
}

impl Batch {
    pub(crate) fn push(&mut self, change: Change) {
        match change {
            Change::Put { key, value } => self.put(key, value),
            Change::Delete { key } => self.delete(key),
        }
    }

    pub(crate) fn put(&mut self, key: impl Into<String>, value: Vec<u8>) {
        self.changes.push((key.into(), Some(value)));
    }

    pub(crate) fn delete(&mut self, key: impl Into<String>) {
        self.changes.push((key.into(), None));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// A place in the order of writes.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Ticket(u64);

#[derive(Clone, Debug, Default)]
struct Progress {
    committed: Ticket,
    failed: Option<StoreError>,
}

/// An open store. Dropping it commits what was written and closes the file.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    identity: u128,
    writes: Option<mpsc::Sender<(Ticket, Batch)>>,
    written: Ticket,
    progress: watch::Receiver<Progress>,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens or creates the file and reads every record.
    pub(crate) fn open(path: &Path) -> Result<(Self, BTreeMap<String, Vec<u8>>), StoreError> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| StoreError::Create {
                path: parent.to_owned(),
                message: error.to_string(),
            })?;
        }
        let open = |message: String| StoreError::Open {
            path: path.to_owned(),
            message,
        };
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(path)
            .map_err(|error| open(error.to_string()))?;
        let (identity, records) = load(&database).map_err(|error| open(error.to_string()))?;
        let (writes, queue) = mpsc::channel();
        let (progress, watched) = watch::channel(Progress::default());
        let thread = {
            let path = path.to_owned();
            std::thread::Builder::new()
                .name("store".to_owned())
                .spawn(move || commit_all(&database, &path, &queue, &progress))
                .map_err(|error| open(error.to_string()))?
        };
        let store = Self {
            path: path.to_owned(),
            identity,
            writes: Some(writes),
            written: Ticket(0),
            progress: watched,
            thread: Some(thread),
        };
        Ok((store, records))
    }

    /// Queues a batch behind all earlier ones. It is durable when [`Waiter::durable`] says so.
    pub(crate) fn write(&mut self, batch: Batch) -> Ticket {
        if batch.is_empty() {
            return self.written;
        }
        self.written.0 += 1;
        if let Some(writes) = &self.writes {
            // A failed writer is reported by its progress, to everyone who waits.
            let _ = writes.send((self.written, batch));
        }
        self.written
    }

    /// Random, made with the file and kept as long as it: two stores never have the same.
    pub(crate) const fn identity(&self) -> u128 {
        self.identity
    }

    /// The ticket of the last write.
    pub(crate) const fn written(&self) -> Ticket {
        self.written
    }

    /// Waits without holding the store.
    pub(crate) fn waiter(&self) -> Waiter {
        Waiter {
            path: self.path.clone(),
            progress: self.progress.clone(),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.writes = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the writer was reported where it happened.
            let _ = thread.join();
        }
    }
}

/// Waits for writes to be durable.
#[derive(Clone, Debug)]
pub(crate) struct Waiter {
    path: PathBuf,
    progress: watch::Receiver<Progress>,
}

impl Waiter {
    /// Returns when everything up to `ticket` is on disk.
    pub(crate) async fn durable(&self, ticket: Ticket) -> Result<(), StoreError> {
        let mut progress = self.progress.clone();
        let reached = progress
            .wait_for(|progress| progress.failed.is_some() || progress.committed >= ticket)
            .await;
        match reached {
            Ok(progress) if progress.committed >= ticket => Ok(()),
            Ok(progress) => Err(progress
                .failed
                .clone()
                .unwrap_or_else(|| self.writer_gone())),
            Err(_) => Err(self.writer_gone()),
        }
    }

    /// Whether everything up to `ticket` is on disk already.
    pub(crate) fn is_durable(&self, ticket: Ticket) -> bool {
        self.progress.borrow().committed >= ticket
    }

    /// Returns when a write has failed. Nothing after it will be durable; the process must start again from the disk.
    pub(crate) async fn failed(&self) -> StoreError {
        let mut progress = self.progress.clone();
        match progress
            .wait_for(|progress| progress.failed.is_some())
            .await
        {
            Ok(progress) => progress
                .failed
                .clone()
                .unwrap_or_else(|| self.writer_gone()),
            Err(_) => self.writer_gone(),
        }
    }

    fn writer_gone(&self) -> StoreError {
        StoreError::Write {
            path: self.path.clone(),
            message: "the writing thread has ended".to_owned(),
        }
    }
}

fn load(database: &Database) -> Result<(u128, BTreeMap<String, Vec<u8>>), redb::Error> {
    // The tables must exist before they can be read.
    let transaction = database.begin_write()?;
    transaction.open_table(RECORDS)?;
    let identity = {
        let mut table = transaction.open_table(IDENTITY)?;
        let known = table.get(())?.map(|entry| entry.value());
        match known {
            Some(identity) => identity,
            None => {
                let identity = random_identity()?;
                table.insert((), identity)?;
                identity
            }
        }
    };
    transaction.commit()?;
    let transaction = database.begin_read()?;
    let table = transaction.open_table(RECORDS)?;
    let mut records = BTreeMap::new();
    for entry in table.iter()? {
        let (key, value) = entry?;
        records.insert(key.value().to_owned(), value.value().to_vec());
    }
    Ok((identity, records))
}

fn random_identity() -> Result<u128, redb::Error> {
    ring::rand::generate(&SystemRandom::new())
        .map(|bytes: Random<[u8; 16]>| u128::from_be_bytes(bytes.expose()))
        .map_err(|_| std::io::Error::other("the kernel gives no random numbers").into())
}

fn commit_all(
    database: &Database,
    path: &Path,
    queue: &mpsc::Receiver<(Ticket, Batch)>,
    progress: &watch::Sender<Progress>,
) {
    while let Ok(first) = queue.recv() {
        let batches: Vec<_> = std::iter::once(first).chain(queue.try_iter()).collect();
        match commit(database, &batches) {
            Ok(()) => {
                let last = batches.last().map(|(ticket, _)| *ticket);
                progress.send_modify(|progress| {
                    progress.committed = last.unwrap_or(progress.committed);
                });
            }
            Err(error) => {
                let failed = StoreError::Write {
                    path: path.to_owned(),
                    message: error.to_string(),
                };
                tracing::error!(%failed, "the store is lost");
                progress.send_modify(|progress| progress.failed = Some(failed));
                return;
            }
        }
    }
}

/// One transaction, on disk when it returns (redb's default durability is `Immediate`).
fn commit(database: &Database, batches: &[(Ticket, Batch)]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(RECORDS)?;
        for (key, value) in batches.iter().flat_map(|(_, batch)| &batch.changes) {
            match value {
                Some(value) => table.insert(key.as_str(), value.as_slice())?,
                None => table.remove(key.as_str())?,
            };
        }
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(changes: &[(&str, Option<&str>)]) -> Batch {
        let mut batch = Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.put(*key, value.as_bytes().to_vec()),
                None => batch.delete(*key),
            }
        }
        batch
    }

    /// A copy of the file taken right after the ticket is what a crash would leave behind.
    #[tokio::test]
    async fn what_was_acknowledged_survives_a_crash() {
        let directory = crate::testing::Directory::new();
        let path = directory.path().join("a.redb");
        let (mut store, records) = Store::open(&path).unwrap();
        assert!(records.is_empty());
        store.write(batch(&[("a", Some("1")), ("b", Some("2"))]));
        let ticket = store.write(batch(&[("a", None), ("c", Some("3"))]));
        store.waiter().durable(ticket).await.unwrap();
        let copy = directory.path().join("b.redb");
        std::fs::copy(&path, &copy).unwrap();
        let (reopened, records) = Store::open(&copy).unwrap();
        assert_eq!(
            reopened.identity(),
            store.identity(),
            "it is the same store"
        );
        let (new, _) = Store::open(&directory.path().join("c.redb")).unwrap();
        assert_ne!(new.identity(), store.identity());
        let expected = [("b", "2"), ("c", "3")].map(|(k, v)| (k.to_owned(), v.as_bytes().to_vec()));
        assert_eq!(records.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_second_process_is_refused() {
        let directory = crate::testing::Directory::new();
        let path = directory.path().join("a.redb");
        let first = Store::open(&path).unwrap();
        let error = Store::open(&path).unwrap_err();
        assert!(error.to_string().contains("a.redb"), "{error}");
        drop(first);
        Store::open(&path).unwrap();
    }

    #[test]
    fn a_file_that_is_no_store_is_refused_and_kept() {
        let directory = crate::testing::Directory::new();
        let path = directory.path().join("a.redb");
        std::fs::write(&path, b"something of somebody else").unwrap();
        assert!(Store::open(&path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"something of somebody else");
    }
}
