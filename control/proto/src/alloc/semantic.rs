//! ServiceIPs and InstanceIPs: given, chosen by a descriptor, freed, and rested before they are given again.

use super::Rests;
use serde::{Deserialize, Serialize};
use sluice_wire::{AddressPlan, Dual, Family, Ip, Subnet};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use thiserror::Error;

/// What an address is for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Use {
    RoundRobin,
    Closest,
    Instance,
}

/// Who has an address.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Owner {
    /// The service's name, in lower case.
    pub service: String,
    pub usage: Use,
    /// The instance number; `None` for ServiceIPs.
    pub number: Option<u32>,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.usage, self.number) {
            (Use::RoundRobin, _) => write!(f, "the round robin address of {}", self.service),
            (Use::Closest, _) => write!(f, "the closest address of {}", self.service),
            (Use::Instance, Some(number)) => write!(f, "instance {number} of {}", self.service),
            (Use::Instance, None) => write!(f, "an instance of {}", self.service),
        }
    }
}

/// Why an address cannot be had.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum AllocError {
    #[error("range {range} is used up: no address is left for {wanted}")]
    Exhausted { range: Subnet, wanted: Owner },
    #[error("the address plan has no {0} range for ServiceIPs and InstanceIPs")]
    NoFamily(&'static str),
    #[error("{ip} is outside {range}, the range of ServiceIPs and InstanceIPs")]
    Outside { ip: Ip, range: Subnet },
    #[error("{ip} is taken: it is {owner}")]
    Taken { ip: Ip, owner: Owner },
    #[error("{ip} was {owner} a short time ago and rests for another {rest_s} s")]
    Resting { ip: Ip, owner: Owner, rest_s: u64 },
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Rest {
    pub(crate) until_s: u64,
    pub(crate) owner: Owner,
}

/// A part of the semantic range that is handed out in order.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: Ip,
    size: u128,
}

/// All semantic addresses of an installation.
///
/// In IPv4 services and instances share one range; in IPv6 instances come from the first two of 32 equal blocks,
/// closest addresses from the third and round robin ones from the fifth, as in Oakestra (OAKESTRA-WIRE section 4.1).
/// Addresses that end in .0, .254 or .255, or in 00, are never handed out, though a descriptor may choose them: they look
/// like network or broadcast addresses, and tools along the way treat them so.
#[derive(Clone, Debug, PartialEq)]
pub struct Semantic {
    ranges: Dual<Subnet>,
    /// How long a freed address rests, in seconds.
    rest_s: u64,
    taken: BTreeMap<Ip, Owner>,
    resting: BTreeMap<Ip, Rest>,
    /// Where the search goes on, by the span's first address. Moving on instead of taking the lowest free address keeps
    /// an address unused for as long as possible.
    cursors: BTreeMap<Ip, Ip>,
    /// Resting addresses that changed since [`Semantic::changed`] was last asked.
    changed: BTreeSet<Ip>,
    /// What [`Semantic::all_or_nothing`] has taken so far, with its rest before.
    attempt: Option<Vec<(Ip, Option<Rest>)>>,
}

impl Semantic {
    /// All of the plan's addresses; freed ones rest as by default (see [`Rests`]).
    #[must_use]
    pub fn new(plan: &AddressPlan) -> Self {
        Self {
            ranges: plan.semantic,
            rest_s: Rests::default().addresses_s,
            taken: BTreeMap::new(),
            resting: BTreeMap::new(),
            cursors: BTreeMap::new(),
            changed: BTreeSet::new(),
            attempt: None,
        }
    }

    /// Lets addresses that are freed from now on rest for so long.
    pub(crate) const fn set_rest(&mut self, seconds: u64) {
        self.rest_s = seconds;
    }

    /// Takes addresses by several steps; after an error in one of them, all is as it was before the first.
    ///
    /// # Errors
    /// That of `steps`.
    pub fn all_or_nothing<T>(
        &mut self,
        steps: impl FnOnce(&mut Self) -> Result<T, AllocError>,
    ) -> Result<T, AllocError> {
        self.attempt = Some(Vec::new());
        let (cursors, changed) = (self.cursors.clone(), self.changed.clone());
        let outcome = steps(self);
        let taken = self.attempt.take().unwrap_or_default();
        if outcome.is_err() {
            for (ip, rest) in taken {
                self.taken.remove(&ip);
                self.resting.extend(rest.map(|rest| (ip, rest)));
            }
            (self.cursors, self.changed) = (cursors, changed);
        }
        outcome
    }

    /// Gives the next free address of every family that the plan has.
    ///
    /// # Errors
    /// Names the range that is used up; then nothing is taken.
    pub fn allocate(&mut self, owner: &Owner, now_s: u64) -> Result<Dual<Ip>, AllocError> {
        self.complete(&Dual::default(), owner, now_s)
    }

    /// Gives the wanted addresses, and a free one of every family for which none is wanted.
    ///
    /// # Errors
    /// When a wanted address is outside, taken or resting (resting after the same service is no hindrance: an old
    /// route to it leads to the right service), or a range is used up. Then nothing is taken.
    pub fn claim(
        &mut self,
        wanted: &Dual<Ip>,
        owner: &Owner,
        now_s: u64,
    ) -> Result<Dual<Ip>, AllocError> {
        for ip in wanted.iter() {
            self.check(ip, owner, now_s)?;
        }
        let ips = self.complete(wanted, owner, now_s)?;
        for ip in wanted.iter() {
            self.take(ip, owner.clone());
        }
        Ok(ips)
    }

    /// Completes addresses that the owner has already (a reserved range) with free ones for the other families.
    ///
    /// # Errors
    /// Names the range that is used up; then nothing is taken.
    pub fn complete(
        &mut self,
        reserved: &Dual<Ip>,
        owner: &Owner,
        now_s: u64,
    ) -> Result<Dual<Ip>, AllocError> {
        let mut ips = *reserved;
        let mut allocated = Dual::default();
        let ranges = self.ranges;
        for range in ranges
            .iter()
            .filter(|range| reserved.of(range.family()).is_none())
        {
            match self.allocate_in(range, owner, now_s) {
                Ok(ip) => {
                    set(&mut ips, ip);
                    set(&mut allocated, ip);
                }
                Err(error) => {
                    self.undo(&allocated);
                    return Err(error);
                }
            }
        }
        Ok(ips)
    }

    /// Takes exactly the addresses of a reserved range, or none of them.
    ///
    /// # Errors
    /// As [`Semantic::claim`], for the first address that cannot be had.
    pub fn claim_all(&mut self, ips: &[(Ip, Owner)], now_s: u64) -> Result<(), AllocError> {
        let mut seen: BTreeMap<Ip, &Owner> = BTreeMap::new();
        for (ip, owner) in ips {
            self.check(*ip, owner, now_s)?;
            if let Some(other) = seen.insert(*ip, owner) {
                // Two ranges of one descriptor overlap.
                return Err(AllocError::Taken {
                    ip: *ip,
                    owner: other.clone(),
                });
            }
        }
        for (ip, owner) in ips {
            self.take(*ip, owner.clone());
        }
        Ok(())
    }

    fn check(&self, ip: Ip, owner: &Owner, now_s: u64) -> Result<(), AllocError> {
        let family = ip.family();
        let Some(range) = self.ranges.of(family) else {
            return Err(AllocError::NoFamily(match family {
                Family::V4 => "IPv4",
                Family::V6 => "IPv6",
            }));
        };
        if !range.contains(ip) {
            return Err(AllocError::Outside { ip, range });
        }
        if let Some(owner) = self.taken.get(&ip) {
            return Err(AllocError::Taken {
                ip,
                owner: owner.clone(),
            });
        }
        match self.resting.get(&ip) {
            Some(rest) if rest.until_s > now_s && rest.owner.service != owner.service => {
                Err(AllocError::Resting {
                    ip,
                    owner: rest.owner.clone(),
                    rest_s: rest.until_s - now_s,
                })
            }
            _ => Ok(()),
        }
    }

    /// Frees an address; it rests before somebody else can have it. An address that nobody has stays as it is.
    pub fn release(&mut self, ip: Ip, now_s: u64) {
        if let Some(owner) = self.taken.remove(&ip) {
            let until_s = now_s.saturating_add(self.rest_s);
            self.resting.insert(ip, Rest { until_s, owner });
            self.changed.insert(ip);
        }
    }

    #[must_use]
    pub fn owner(&self, ip: Ip) -> Option<&Owner> {
        self.taken.get(&ip)
    }

    /// Addresses that are in use.
    #[must_use]
    pub fn taken_len(&self) -> usize {
        self.taken.len()
    }

    /// Resting addresses that changed since the last call, with what they are now.
    pub(crate) fn changed(&mut self) -> Vec<(Ip, Option<Rest>)> {
        std::mem::take(&mut self.changed)
            .into_iter()
            .map(|ip| (ip, self.resting.get(&ip).cloned()))
            .collect()
    }

    pub(crate) fn cursors(&self) -> Vec<(String, String)> {
        self.cursors
            .iter()
            .map(|(first, next)| (first.to_string(), next.to_string()))
            .collect()
    }

    pub(crate) fn restore_cursor(&mut self, first: Ip, next: Ip) {
        self.cursors.insert(first, next);
    }

    pub(crate) fn restore_rest(&mut self, ip: Ip, rest: Rest) {
        self.resting.insert(ip, rest);
    }

    /// Takes an address that a stored state says is in use.
    pub(crate) fn restore_taken(&mut self, ip: Ip, owner: Owner) -> Result<(), Owner> {
        match self.taken.insert(ip, owner) {
            None => Ok(()),
            Some(other) => Err(other),
        }
    }

    fn take(&mut self, ip: Ip, owner: Owner) {
        let rest = self.resting.remove(&ip);
        if rest.is_some() {
            self.changed.insert(ip);
        }
        if let Some(attempt) = &mut self.attempt {
            attempt.push((ip, rest));
        }
        self.taken.insert(ip, owner);
    }

    /// Gives back what a failed request took a moment ago. Nobody has seen it, so it need not rest.
    fn undo(&mut self, ips: &Dual<Ip>) {
        for ip in ips.iter() {
            self.taken.remove(&ip);
        }
    }

    /// The free addresses of a family for a use, in the order in which they will be given, among the next `steps`.
    /// Nothing is taken.
    pub fn free(
        &self,
        usage: Use,
        family: Family,
        steps: u128,
        now_s: u64,
    ) -> impl Iterator<Item = Ip> + '_ {
        let span = self.ranges.of(family).map(|range| span(range, usage));
        span.into_iter().flat_map(move |span| {
            let start = self.cursors.get(&span.first).copied().unwrap_or(span.first);
            let start = start.to_bits().wrapping_sub(span.first.to_bits()) % span.size;
            (0..span.size.min(steps))
                .map(move |step| span.first.offset((start + step) % span.size))
                .filter(move |ip| self.is_free(*ip, now_s))
        })
    }

    fn is_free(&self, ip: Ip, now_s: u64) -> bool {
        let rests = self
            .resting
            .get(&ip)
            .is_some_and(|rest| rest.until_s > now_s);
        is_plain(ip) && !rests && !self.taken.contains_key(&ip)
    }

    fn allocate_in(&mut self, range: Subnet, owner: &Owner, now_s: u64) -> Result<Ip, AllocError> {
        let ip = self
            .free(owner.usage, range.family(), u128::MAX, now_s)
            .next();
        let ip = ip.ok_or_else(|| AllocError::Exhausted {
            range,
            wanted: owner.clone(),
        })?;
        self.take(ip, owner.clone());
        let span = span(range, owner.usage);
        let next = (ip.to_bits() - span.first.to_bits() + 1) % span.size;
        self.cursors.insert(span.first, span.first.offset(next));
        Ok(ip)
    }
}

fn set(ips: &mut Dual<Ip>, ip: Ip) {
    match ip.family() {
        Family::V4 => ips.v4 = Some(ip),
        Family::V6 => ips.v6 = Some(ip),
    }
}

/// False for addresses that look like those of a network or a broadcast.
fn is_plain(ip: Ip) -> bool {
    let [.., last] = ip.octets_v6();
    match ip.family() {
        Family::V4 => (1..=253).contains(&last),
        Family::V6 => last != 0,
    }
}

/// The part of `range` for a use.
fn span(range: Subnet, usage: Use) -> Span {
    // Blocks only where each still has room; a small range of a free plan is shared like the IPv4 one.
    const BLOCKS: u128 = 32;
    const BLOCK_SIZE_MIN: u128 = 1 << 16;
    let block = range.size() / BLOCKS;
    if range.family() == Family::V4 || block < BLOCK_SIZE_MIN {
        return Span {
            first: range.network(),
            size: range.size(),
        };
    }
    let (index, blocks) = match usage {
        Use::Instance => (0, 2),
        Use::Closest => (2, 1),
        Use::RoundRobin => (4, 1),
    };
    Span {
        first: range.network().offset(block * index),
        size: block * blocks,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST_S: u64 = 24 * 3600;

    fn owner(service: &str, usage: Use, number: Option<u32>) -> Owner {
        Owner {
            service: service.to_owned(),
            usage,
            number,
        }
    }

    fn ip(text: &str) -> Ip {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_come_from_oakestras_blocks_without_their_first() {
        let mut semantic = Semantic::new(&AddressPlan::oakestra());
        let mut next = |usage| {
            let ips = semantic
                .allocate(&owner("a.b.c.d", usage, None), 0)
                .unwrap();
            (ips.v4.unwrap().to_string(), ips.v6.unwrap().to_string())
        };
        let text = |v4: &str, v6: &str| (v4.to_owned(), v6.to_owned());
        assert_eq!(next(Use::Instance), text("10.30.0.1", "fdff::1"));
        assert_eq!(next(Use::RoundRobin), text("10.30.0.2", "fdff:2000::1"));
        assert_eq!(next(Use::Closest), text("10.30.0.3", "fdff:1000::1"));
        assert_eq!(next(Use::Instance), text("10.30.0.4", "fdff::2"));
        for _ in 0..249 {
            next(Use::Instance);
        }
        assert_eq!(next(Use::Instance).0, "10.30.1.1");
    }

    #[test]
    fn a_wanted_address_is_checked_and_the_error_names_the_collision() {
        let mut semantic = Semantic::new(&AddressPlan::oakestra());
        let rr = owner("a.b.c.d", Use::RoundRobin, None);
        let wanted = Dual {
            v4: Some(ip("10.30.50.2")),
            v6: None,
        };
        let ips = semantic.claim(&wanted, &rr, 0).unwrap();
        assert_eq!(ips.v4, wanted.v4);
        assert_eq!(ips.v6, Some(ip("fdff:2000::1")));
        let other = owner("x.b.c.d", Use::RoundRobin, None);
        let error = |semantic: &mut Semantic, text: &str, now_s| {
            let wanted = Dual {
                v4: Some(ip(text)),
                v6: None,
            };
            semantic
                .claim(&wanted, &other, now_s)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            error(&mut semantic, "10.30.50.2", 0),
            "10.30.50.2 is taken: it is the round robin address of a.b.c.d"
        );
        assert_eq!(
            error(&mut semantic, "10.31.0.1", 0),
            "10.31.0.1 is outside 10.30.0.0/16, the range of ServiceIPs and InstanceIPs"
        );
        semantic.release(ip("10.30.50.2"), 100);
        assert!(error(&mut semantic, "10.30.50.2", 200).contains("rests for another 86300 s"));
        semantic.claim(&wanted, &rr, 200).unwrap();
    }

    #[test]
    fn what_failed_half_way_leaves_everything_as_it_was() {
        let mut semantic = Semantic::new(&AddressPlan::oakestra());
        let own = owner("a.b.c.d", Use::RoundRobin, None);
        let first = semantic.allocate(&own, 0).unwrap();
        let rested = semantic.allocate(&own, 0).unwrap();
        semantic.release(rested.v4.unwrap(), 0);
        semantic.changed();
        let before = semantic.clone();
        let error = semantic.all_or_nothing(|semantic| {
            semantic.claim_all(&[(rested.v4.unwrap(), own.clone())], 1)?;
            semantic.allocate(&own, 1)?;
            semantic.claim(&first, &own, 1)
        });
        assert!(matches!(error, Err(AllocError::Taken { .. })), "{error:?}");
        assert_eq!(semantic, before);
        let taken = semantic.all_or_nothing(|semantic| semantic.allocate(&own, 1));
        assert!(
            taken
                .unwrap()
                .iter()
                .all(|ip| semantic.owner(ip) == Some(&own))
        );
        assert_ne!(semantic, before);
    }

    #[test]
    fn a_used_up_range_is_named() {
        let plan = AddressPlan {
            semantic: Dual {
                v4: Some("10.30.0.0/29".parse().unwrap()),
                v6: None,
            },
            ..AddressPlan::oakestra()
        };
        let mut semantic = Semantic::new(&plan);
        let who = owner("a.b.c.d", Use::Instance, Some(9));
        let first = semantic.allocate(&who, 0).unwrap().v4.unwrap();
        for _ in 0..6 {
            semantic.allocate(&who, 0).unwrap();
        }
        assert_eq!(
            semantic.allocate(&who, 0).unwrap_err().to_string(),
            "range 10.30.0.0/29 is used up: no address is left for instance 9 of a.b.c.d"
        );
        semantic.release(first, 5);
        assert!(semantic.allocate(&who, 4 + REST_S).is_err());
        let again = semantic.allocate(&who, 5 + REST_S).unwrap();
        assert_eq!(again.v4, Some(first));
    }

    /// Against sets: an address has one owner, none is given while it rests, and what is said to be taken is.
    #[test]
    fn no_address_has_two_owners_and_none_is_given_while_it_rests() {
        let plan = AddressPlan {
            semantic: Dual::both(
                "10.30.0.0/27".parse().unwrap(),
                "fdff::/123".parse().unwrap(),
            ),
            ..AddressPlan::oakestra()
        };
        bolero::check!()
            .with_type::<Vec<(u8, u8, u16)>>()
            .for_each(|steps| {
                let mut semantic = Semantic::new(&plan);
                let mut living: BTreeMap<Ip, Owner> = BTreeMap::new();
                let mut freed: BTreeMap<Ip, (u64, Owner)> = BTreeMap::new();
                let mut now_s = 0;
                for (verb, which, pause) in steps {
                    now_s += u64::from(*pause) * 4;
                    let who = owner(&format!("s{}.b.c.d", which % 3), Use::Instance, Some(0));
                    let given = match verb % 4 {
                        0 | 1 => semantic.allocate(&who, now_s).ok(),
                        2 => {
                            let wanted = Dual {
                                v4: plan.semantic.v4.unwrap().nth(u128::from(which % 32)),
                                v6: None,
                            };
                            semantic.claim(&wanted, &who, now_s).ok()
                        }
                        _ => {
                            if let Some(ip) =
                                living.keys().nth(usize::from(*which) % living.len().max(1))
                            {
                                let ip = *ip;
                                let owner = living.remove(&ip).unwrap();
                                semantic.release(ip, now_s);
                                freed.insert(ip, (now_s, owner));
                            }
                            None
                        }
                    };
                    for ip in given.iter().flat_map(Dual::iter) {
                        assert!(living.insert(ip, who.clone()).is_none(), "{ip} twice");
                        if let Some((at, before)) = freed.remove(&ip) {
                            assert!(
                                now_s >= at + REST_S || before.service == who.service,
                                "{ip} did not rest"
                            );
                        }
                    }
                    assert_eq!(semantic.taken, living);
                }
            });
    }
}
