//! Super-frames: one header standing for many segments, cut into packets and made from packets.
//!
//! [`Cutter`] writes the header of each segment of a super-frame; [`Run`] collects packets that follow one another
//! and makes the first one's header stand for all. What a `Run` joins, a `Cutter` cuts into the same bytes again.
//! Payload is never moved here: links send and receive it where it lies.

mod cut;
mod join;

pub use cut::{Cutter, HEADER_LEN_MAX};
pub use join::{Joined, Run};
