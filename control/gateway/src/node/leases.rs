//! Which addresses of the node's subnet are taken, which rest, and which is next.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluice_proto::alloc::{Calendar, Reading};
use sluice_wire::{Dual, Ip, Subnet};
use thiserror::Error;

/// The subnet + 1 is the gateway's.
pub const GATEWAY: u32 = 1;
const FIRST: u32 = 2;

/// The pool of one node. An address is named by its offset in the subnet, the same in both families.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Leases {
    taken: BTreeSet<u32>,
    /// Offset and when it was returned (seconds of the calendar), oldest first.
    resting: VecDeque<(u32, u64)>,
    #[serde(default)]
    calendar: Option<Calendar>,
    /// Every offset from here up has never been given out.
    fresh: u32,
}

/// No address can be given out now.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Exhausted {
    #[error(
        "no address left in {subnet}: all {count} are in use; detach an instance or give the node a larger subnet"
    )]
    AllTaken { subnet: String, count: u32 },
    #[error(
        "no address left in {subnet}: {taken} are in use and {resting} rest after use; the next is free in {wait_s} s"
    )]
    Resting {
        subnet: String,
        taken: usize,
        resting: usize,
        wait_s: u64,
    },
    #[error("this node has no subnet")]
    NoSubnet,
}

impl Leases {
    /// Those of a node that knows nothing of before, where these addresses were in use until now. They rest; of the others
    /// up to the highest of them nobody knows for how long they have not been in use, and they come after those above it.
    pub(crate) fn after(subnet: &Dual<Subnet>, held: &[Ip], now: &Reading) -> Self {
        let mut leases = Self::default();
        let held: BTreeSet<u32> = held
            .iter()
            .filter_map(|ip| offset_of(subnet, *ip))
            .collect();
        let Some(highest) = held.last() else {
            return leases;
        };
        let now_s = leases.now_s(now);
        let others = (FIRST..*highest).filter(|offset| !held.contains(offset));
        leases.resting = others.map(|offset| (offset, 0)).collect();
        leases.resting.extend(held.iter().map(|it| (*it, now_s)));
        leases.fresh = highest + 1;
        leases
    }

    /// Takes the next address: one never used, else the one that rested longest, if for as long as `rest`. `now` is what
    /// the clocks show.
    pub(crate) fn take(
        &mut self,
        subnet: &Dual<Subnet>,
        rest: Duration,
        now: &Reading,
    ) -> Result<u32, Exhausted> {
        let last = last_offset(subnet).ok_or(Exhausted::NoSubnet)?;
        self.fresh = self.fresh.max(FIRST);
        while self.fresh <= last {
            let offset = self.fresh;
            self.fresh += 1;
            if self.taken.insert(offset) {
                return Ok(offset);
            }
        }
        let name = || show(subnet);
        let Some(&(offset, since)) = self.resting.front() else {
            return Err(Exhausted::AllTaken {
                subnet: name(),
                count: last - GATEWAY,
            });
        };
        let free_at = since.saturating_add(rest.as_secs());
        let wait_s = free_at.saturating_sub(self.now_s(now));
        if wait_s > 0 {
            return Err(Exhausted::Resting {
                subnet: name(),
                taken: self.taken.len(),
                resting: self.resting.len(),
                wait_s,
            });
        }
        self.resting.pop_front();
        self.taken.insert(offset);
        Ok(offset)
    }

    /// Returns an address; it rests from `now` on.
    pub(crate) fn give_back(&mut self, offset: u32, now: &Reading) {
        if self.taken.remove(&offset) {
            let now_s = self.now_s(now);
            self.resting.push_back((offset, now_s));
        }
    }

    /// Returns an address that nobody ever saw: it needs no rest.
    pub(crate) fn undo(&mut self, offset: u32) {
        if self.taken.remove(&offset) {
            self.resting.push_front((offset, 0));
        }
    }

    fn now_s(&mut self, now: &Reading) -> u64 {
        let calendar = self
            .calendar
            .get_or_insert_with(|| Calendar::new(now.clone()));
        calendar.now(now.clone()).as_secs()
    }
}

/// The addresses at `offset`; only families the node has.
pub(crate) fn addresses(subnet: &Dual<Subnet>, offset: u32) -> Dual<Ip> {
    let nth = |subnet: Option<Subnet>| subnet.and_then(|subnet| subnet.nth(u128::from(offset)));
    Dual {
        v4: nth(subnet.v4),
        v6: nth(subnet.v6),
    }
}

/// At which offset of the subnet an address that is given out is.
fn offset_of(subnet: &Dual<Subnet>, ip: Ip) -> Option<u32> {
    let range = subnet.of(ip.family()).filter(|it| it.contains(ip))?;
    let offset = u32::try_from(ip.to_bits() - range.network().to_bits()).ok()?;
    (FIRST..=last_offset(subnet)?)
        .contains(&offset)
        .then_some(offset)
}

/// The highest offset that both families have; IPv4 keeps its broadcast address.
fn last_offset(subnet: &Dual<Subnet>) -> Option<u32> {
    let offset = |size: u128, reserved: u128| u32::try_from(size - reserved).unwrap_or(u32::MAX);
    let v4 = subnet.v4.map(|subnet| offset(subnet.size(), 2));
    let v6 = subnet.v6.map(|subnet| offset(subnet.size(), 1));
    match (v4, v6) {
        (Some(v4), Some(v6)) => Some(v4.min(v6)),
        (v4, v6) => v4.or(v6),
    }
}

fn show(subnet: &Dual<Subnet>) -> String {
    let shown: Vec<String> = subnet.iter().map(|subnet| subnet.to_string()).collect();
    shown.join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Duration = Duration::from_secs(600);

    fn subnet() -> Dual<Subnet> {
        Dual::both(
            "10.18.0.0/29".parse().unwrap(),
            "fc00::/120".parse().unwrap(),
        )
    }

    fn at(seconds: u64) -> Reading {
        Reading {
            boot: Some("a".to_owned()),
            uptime: Duration::from_secs(seconds),
            wall: Duration::from_secs(1_700_000_000 + seconds),
        }
    }

    #[test]
    fn addresses_come_in_order_and_never_the_broadcast() {
        let mut leases = Leases::default();
        let taken: Vec<u32> = (0..5)
            .map(|_| leases.take(&subnet(), REST, &at(0)).unwrap())
            .collect();
        assert_eq!(taken, [2, 3, 4, 5, 6]);
        assert_eq!(
            leases
                .take(&subnet(), REST, &at(0))
                .unwrap_err()
                .to_string(),
            "no address left in 10.18.0.0/29 and fc00::/120: all 5 are in use; detach an instance or give the node a larger subnet"
        );
        assert_eq!(addresses(&subnet(), 6).v4, "10.18.0.6".parse().ok());
        assert_eq!(addresses(&subnet(), 2).v6, "fc00::2".parse().ok());
    }

    #[test]
    fn a_returned_address_rests_and_then_the_oldest_comes_first() {
        let mut leases = Leases::default();
        for _ in 0..5 {
            leases.take(&subnet(), REST, &at(0)).unwrap();
        }
        leases.give_back(4, &at(10));
        leases.give_back(2, &at(20));
        assert_eq!(
            leases.take(&subnet(), REST, &at(30)),
            Err(Exhausted::Resting {
                subnet: "10.18.0.0/29 and fc00::/120".to_owned(),
                taken: 3,
                resting: 2,
                wait_s: 580
            })
        );
        assert_eq!(leases.take(&subnet(), REST, &at(610)), Ok(4));
        assert!(leases.take(&subnet(), REST, &at(610)).is_err());
        assert_eq!(leases.take(&subnet(), REST, &at(620)), Ok(2));
    }

    #[test]
    fn fresh_addresses_come_before_rested_ones() {
        let mut leases = Leases::default();
        assert_eq!(leases.take(&subnet(), REST, &at(0)), Ok(2));
        leases.give_back(2, &at(0));
        assert_eq!(leases.take(&subnet(), REST, &at(10_000)), Ok(3));
    }

    #[test]
    fn a_subnet_of_26_has_61_addresses() {
        let subnet = Dual {
            v4: "10.18.0.0/26".parse().ok(),
            v6: None,
        };
        let mut leases = Leases::default();
        let count = std::iter::from_fn(|| leases.take(&subnet, REST, &at(0)).ok()).count();
        assert_eq!(count, 61);
    }

    #[test]
    fn a_clock_that_was_set_back_holds_no_address_longer() {
        let subnet = Dual {
            v4: "10.18.0.0/30".parse().ok(),
            v6: None,
        };
        let mut leases = Leases::default();
        let only = leases.take(&subnet, REST, &at(0)).unwrap();
        leases.give_back(only, &at(10));
        let set_back = |seconds| Reading {
            wall: Duration::from_secs(seconds),
            ..at(seconds)
        };
        assert!(leases.take(&subnet, REST, &set_back(609)).is_err());
        assert_eq!(leases.take(&subnet, REST, &set_back(610)), Ok(only));
    }

    /// Of five addresses, 2, 4 and 5 were in use; others were not, or are no addresses of instances.
    #[test]
    fn what_was_in_use_before_a_fresh_start_rests() {
        let held = ["10.18.0.4", "fc00::2", "fc00::4", "10.18.0.5", "10.18.0.1"];
        let held = held.map(|ip| ip.parse().unwrap());
        let mut leases = Leases::after(&subnet(), &held, &at(0));
        assert_eq!(leases.take(&subnet(), REST, &at(1)), Ok(6), "never used");
        assert_eq!(leases.take(&subnet(), REST, &at(1)), Ok(3));
        let full = leases.take(&subnet(), REST, &at(599)).unwrap_err();
        assert!(full.to_string().contains("3 rest after use"), "{full}");
        for offset in [2, 4, 5] {
            assert_eq!(leases.take(&subnet(), REST, &at(600)), Ok(offset));
        }
        let mut unknown = Leases::after(&subnet(), &[], &at(0));
        assert_eq!(unknown.take(&subnet(), REST, &at(0)), Ok(2));
    }

    #[test]
    fn an_address_that_nobody_saw_comes_again_at_once() {
        let mut leases = Leases::default();
        for _ in 0..5 {
            leases.take(&subnet(), REST, &at(0)).unwrap();
        }
        leases.give_back(3, &at(0));
        leases.undo(4);
        assert_eq!(leases.take(&subnet(), REST, &at(1)), Ok(4));
    }
}
