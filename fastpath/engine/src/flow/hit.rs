//! A live entry in place: read word by word, so that a packet whose flow goes on copies nothing.

use super::entry::{Entry, Pin, State};
use super::lookup::Probe;
use super::table::Table;
use sluice_tables::ServiceSlot;
use sluice_wire::Family;
use sluice_wire::tcp_flag::{FIN, RST, SYN};
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::fence;

/// An entry that matched, of a flow that [`Hit::goes_on`] or not. What is read from it counts only if [`Hit::is_intact`] says so afterwards.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hit<'a> {
    entry: Entry<'a>,
    state: State,
}

impl Table {
    /// The entry of a key of that family that [`Lookups`](super::Lookups) were asked about; `None` also when
    /// the index must be searched for it.
    #[inline(always)]
    pub(crate) fn hit(
        &self,
        probe: &Probe,
        key: &[u64; 5],
        family: Family,
        outbound: bool,
    ) -> Option<Hit<'_>> {
        let entry = self.entry(probe.entry)?;
        let state = State::read(entry.state());
        let matches = if outbound {
            entry.matches_forward(key, family)
        } else {
            entry.matches_reverse(key, family)
        };
        matches.then_some(Hit { entry, state })
    }
}

impl Hit<'_> {
    /// Whether the flow lives and a packet with these flags changes nothing but when it was last seen. A dead one is not
    /// established.
    #[inline(always)]
    pub(crate) const fn goes_on(&self, tcp_flags: u8) -> bool {
        self.state.is_undisturbed() && tcp_flags & (SYN | FIN | RST) == 0
    }

    #[inline(always)]
    pub(crate) fn local(&self) -> Pin {
        self.entry.local()
    }

    #[inline(always)]
    pub(crate) fn remote(&self) -> Pin {
        self.entry.remote()
    }

    pub(crate) fn service(&self) -> Option<ServiceSlot> {
        self.entry.wire().0
    }

    /// The ports on the wire as in the last of [`FlowKey::words`], outbound.
    ///
    /// [`FlowKey::words`]: sluice_wire::FlowKey::words
    #[inline(always)]
    pub(crate) fn wire_ports(&self) -> u32 {
        self.entry.wire().1.rotate_left(16)
    }

    /// The [`FlowKey::words`] of outbound packets.
    ///
    /// [`FlowKey::words`]: sluice_wire::FlowKey::words
    #[inline(always)]
    pub(crate) fn forward(&self, family: Family) -> [u64; 5] {
        self.entry.forward(family)
    }

    /// Whether all that was read until now is of one flow that lives, if it lived at first.
    #[inline(always)]
    pub(crate) fn is_intact(&self) -> bool {
        fence(Acquire);
        // Also not when only its use was noted meanwhile, which is seldom and then leaves the packet to the stages.
        State::read(self.entry.state()) == self.state
    }

    /// Whether this second is already noted as the last in which the flow was used.
    #[inline(always)]
    pub(crate) const fn is_seen(&self, now_s: u32) -> bool {
        now_s <= self.state.last_s()
    }

    /// Nobody has asked for its offload yet.
    #[inline(always)]
    pub(crate) const fn may_be_offloaded(&self) -> bool {
        self.state.may_be_offloaded()
    }

    /// Notes a use in this second; false when the flow changed meanwhile.
    pub(crate) fn see(self, now_s: u32) -> bool {
        self.state
            .swap(self.entry.state(), self.state.seen(now_s))
            .is_ok()
    }
}
