//! Frames, the buffers they live in, the pools those come from, and mappings that can outlive a process.
//!
//! With `link` this is the only crate of the fast path that contains `unsafe`.

pub mod account;
pub mod buffer;
pub mod frame;
mod lanes;
pub mod words;

pub use account::{Account, Accounts, Counter};
pub use buffer::{Buffer, FRAME_LEN_MAX, HEADROOM, Pages, Pool, PoolError, Region, TAILROOM};
pub use frame::{BATCH_MAX, Batch, Checksum, Endpoint, Frame, Gso, GsoKind, Train, append};
pub use lanes::equal_lanes;
pub use words::{Line, Words, prefetch};
