//! Who stands where on a link: rows by IP address, written by control, read by workers without a lock.

use super::Mac;
use arc_swap::{ArcSwap, Cache};
use sluice_wire::Ip;
use std::fmt;
use std::sync::Arc;

/// The way to another node over an Ethernet underlay.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hop {
    /// Of the next hop: the node itself or a router.
    pub mac: Mac,
    /// Our address as the kernel would choose it; of the node's family.
    pub source: Ip,
    /// The longest IP packet that way takes, bytes.
    pub mtu: u16,
}

/// The way to a local instance over an Ethernet link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Neighbour {
    pub mac: Mac,
    /// The longest IP packet that way takes, bytes.
    pub mtu: u16,
}

/// An immutable set of rows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Directory<R>(Vec<(Ip, R)>);

impl<R> FromIterator<(Ip, R)> for Directory<R> {
    /// Of several rows with one address the last counts.
    fn from_iter<I: IntoIterator<Item = (Ip, R)>>(rows: I) -> Self {
        let mut rows: Vec<(Ip, R)> = rows.into_iter().collect();
        rows.reverse();
        rows.sort_by_key(|(ip, _)| ip.to_bits());
        rows.dedup_by_key(|(ip, _)| *ip);
        Self(rows)
    }
}

impl<R> Directory<R> {
    #[must_use]
    #[inline]
    pub fn get(&self, ip: Ip) -> Option<&R> {
        let index = self
            .0
            .binary_search_by_key(&ip.to_bits(), |(ip, _)| ip.to_bits());
        Some(&self.0.get(index.ok()?)?.1)
    }

    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Control's side.
#[derive(Debug)]
pub struct DirectoryWriter<R> {
    published: Arc<ArcSwap<Directory<R>>>,
    retired: Vec<Arc<Directory<R>>>,
}

impl<R> Default for DirectoryWriter<R> {
    fn default() -> Self {
        Self {
            published: Arc::new(ArcSwap::from_pointee(Directory(Vec::new()))),
            retired: Vec::new(),
        }
    }
}

impl<R> DirectoryWriter<R> {
    /// Replaces all rows, and frees the sets no worker reads any more: a worker frees nothing.
    pub fn publish(&mut self, rows: Directory<R>) {
        self.retired.push(self.published.swap(Arc::new(rows)));
        self.retired.retain(|old| Arc::strong_count(old) > 1);
    }

    /// What workers read now.
    #[must_use]
    pub fn current(&self) -> Arc<Directory<R>> {
        self.published.load_full()
    }

    #[must_use]
    pub fn reader(&self) -> DirectoryReader<R> {
        DirectoryReader(Cache::new(Arc::clone(&self.published)))
    }
}

/// A worker's side: one relaxed check per load while nothing was published.
pub struct DirectoryReader<R>(Cache<Arc<ArcSwap<Directory<R>>>, Arc<Directory<R>>>);

impl<R> fmt::Debug for DirectoryReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DirectoryReader")
    }
}

impl<R> DirectoryReader<R> {
    #[inline]
    pub(super) fn load(&mut self) -> &Directory<R> {
        self.0.load()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_see_the_last_published_rows() {
        let ip = |text: &str| text.parse::<Ip>().unwrap();
        let mut writer = DirectoryWriter::<u8>::default();
        let mut reader = writer.reader();
        assert!(reader.load().is_empty());
        let rows = [
            ("10.0.0.2", 2),
            ("fc00::1", 3),
            ("10.0.0.1", 1),
            ("10.0.0.2", 4),
        ];
        writer.publish(rows.iter().map(|&(text, row)| (ip(text), row)).collect());
        let found = ["10.0.0.1", "10.0.0.2", "fc00::1", "10.0.0.3"]
            .map(|text| reader.load().get(ip(text)).copied());
        assert_eq!(found, [Some(1), Some(4), Some(3), None]);
        for _ in 0..3 {
            writer.publish(Directory(Vec::new()));
            assert_eq!(reader.load().len(), 0);
        }
        assert!(writer.retired.len() <= 1, "{:?}", writer.retired);
    }
}
