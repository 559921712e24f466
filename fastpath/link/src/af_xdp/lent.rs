//! Buffers that are in the kernel's hands: who they are is kept here, so that each comes back once and to its owner.

use sluice_memory::{Buffer, Region};

/// One place per buffer of the pool. The kernel knows a buffer by its bytes from the start of the memory.
#[derive(Debug)]
pub(super) struct Lent {
    region: Region,
    out: Box<[Option<Buffer>]>,
}

impl Lent {
    pub(super) fn new(region: Region) -> Self {
        let buffers = region.len() / region.capacity().max(1);
        Self {
            region,
            out: (0..buffers).map(|_| None).collect(),
        }
    }

    /// Gives `buffer` away and returns where it begins.
    ///
    /// # Errors
    /// Returns a buffer of another pool: the kernel does not see its memory.
    #[inline]
    pub(super) fn lend(&mut self, buffer: Buffer) -> Result<u64, Buffer> {
        if buffer.pool() != self.region.pool() {
            return Err(buffer);
        }
        let offset = buffer.address() - self.region.address();
        match self.out.get_mut(offset / self.region.capacity()) {
            Some(place) => {
                debug_assert!(place.is_none(), "a buffer has one owner");
                *place = Some(buffer);
                Ok(offset as u64)
            }
            None => Err(buffer),
        }
    }

    /// Takes the buffer around `address` back, and says how far inside of it the address is. `None` for what is not out.
    #[inline]
    pub(super) fn take_back(&mut self, address: u64) -> Option<(Buffer, usize)> {
        let address = usize::try_from(address).ok()?;
        let (index, inside) = (
            address / self.region.capacity(),
            address % self.region.capacity(),
        );
        Some((self.out.get_mut(index)?.take()?, inside))
    }

    /// Buffers that are out.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.out.iter().flatten().count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_memory::{Pages, Pool};

    #[test]
    fn a_buffer_comes_back_once_and_only_if_it_was_lent() {
        let mut pool = Pool::of_chunks(4, 2048, Pages::Small).unwrap();
        let mut lent = Lent::new(pool.region());
        let (_first, second) = (pool.take().unwrap(), pool.take().unwrap());
        let address = lent.lend(second).unwrap();
        assert_eq!((address, lent.count()), (2048, 1));
        assert!(lent.take_back(0).is_none(), "never lent");
        assert!(lent.take_back(u64::MAX).is_none());
        let (buffer, inside) = lent.take_back(address + 256).unwrap();
        assert_eq!(
            (buffer.address() - pool.region().address(), inside),
            (2048, 256)
        );
        assert!(lent.take_back(address).is_none(), "came back already");
        let mut other = Pool::of_chunks(1, 2048, Pages::Small).unwrap();
        assert!(lent.lend(other.take().unwrap()).is_err(), "another pool's");
    }
}
