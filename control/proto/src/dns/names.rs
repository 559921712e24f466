//! A snapshot of what is known by name, and of who may ask: what answers are made from.

use super::zone::Choice;
use crate::isolation::{Isolation, Rule, may_call};
use crate::names::ServiceName;
use crate::table_query::ServiceAddress;
use crate::table_query::asker::Routes;
use sluice_wire::{Dual, InstanceIp, Ip, ServiceIp};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The addresses of one service.
#[derive(Debug)]
pub struct Service {
    service_ips: Vec<ServiceAddress>,
    instances: BTreeMap<u32, Dual<InstanceIp>>,
    /// Instances that live, and whose addresses are not known.
    unlisted: BTreeSet<u32>,
    rules: Vec<Rule>,
    /// Resolved since [`Service::take_used`] was called last.
    used: AtomicBool,
}

impl Service {
    /// What the table query told.
    #[must_use]
    pub fn of_routes(routes: &Routes) -> Self {
        Self {
            service_ips: routes.service_ips.clone(),
            instances: routes
                .instances
                .iter()
                .map(|row| (row.number, row.instance_ip))
                .collect(),
            unlisted: routes.unlisted.clone(),
            rules: routes.rules.clone(),
            used: AtomicBool::new(false),
        }
    }

    /// The address that a choice means; `None` when there is no such policy or instance.
    #[must_use]
    pub fn address(&self, choice: Choice) -> Option<Dual<Ip>> {
        match choice {
            Choice::Policy(policy) => {
                let mut known = self.service_ips.iter();
                let ip = known.find(|address| address.policy == policy)?.ip;
                Some(Dual {
                    v4: ip.v4.map(ServiceIp::ip),
                    v6: ip.v6.map(ServiceIp::ip),
                })
            }
            Choice::Instance(number) => self.instances.get(&number).map(|ip| Dual {
                v4: ip.v4.map(InstanceIp::ip),
                v6: ip.v6.map(InstanceIp::ip),
            }),
        }
    }

    /// The instance that a choice means, if it lives and its address is not known.
    #[must_use]
    pub fn unlisted(&self, choice: Choice) -> Option<u32> {
        match choice {
            Choice::Policy(_) => None,
            Choice::Instance(number) => self.unlisted.contains(&number).then_some(number),
        }
    }

    /// Notes that it is in use.
    pub(super) fn touch(&self) {
        // A load first: a name that is asked for by thousands need not bounce its cache line.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it was resolved since the last call.
    #[must_use]
    pub fn take_used(&self) -> bool {
        self.used.load(Ordering::Relaxed) && self.used.swap(false, Ordering::Relaxed)
    }

    fn says_the_same(&self, other: &Self) -> bool {
        self.service_ips == other.service_ips
            && self.instances == other.instances
            && self.unlisted == other.unlisted
            && self.rules == other.rules
    }
}

/// What is known about a service name.
#[derive(Clone, Debug)]
pub enum Known {
    Service(Arc<Service>),
    /// There is no such service.
    Absent,
    /// Nobody can say at the moment.
    Unresolved,
}

/// How many parts the names are in.
const PARTS: usize = 64;

/// Everything that answers are made from. A clone shares what it can: a change after it copies one part of the names.
#[derive(Clone, Debug)]
pub struct Names {
    isolation: Isolation,
    known: [Arc<BTreeMap<ServiceName, Known>>; PARTS],
    callers: Arc<BTreeMap<Ip, Arc<ServiceName>>>,
    /// Nobody can tell, nor register, what comes of it.
    decoys: RandomState,
}

impl Default for Names {
    fn default() -> Self {
        Self::new(Isolation::default())
    }
}

impl Names {
    /// Nothing is known yet. Unless isolation is enforced, everybody may know every name.
    #[must_use]
    pub fn new(isolation: Isolation) -> Self {
        Self {
            isolation,
            known: std::array::from_fn(|_| Arc::default()),
            callers: Arc::default(),
            decoys: RandomState::new(),
        }
    }

    /// A name that does not exist, always the same for a service; the managers are asked for it in its place by those who
    /// may not know that it exists.
    ///
    /// # Panics
    /// Never: what it makes is a name.
    #[must_use]
    pub fn decoy(&self, service: &ServiceName) -> ServiceName {
        let hash = self.decoys.hash_one(service);
        ServiceName::parse(&format!("x.x.{hash:016x}.x"))
            .unwrap_or_else(|_| unreachable!("four parts of at most 16 letters and digits"))
    }

    /// Whether an instance of `caller` may know that the service exists.
    #[must_use]
    pub fn may_know(&self, caller: &ServiceName, name: &ServiceName, service: &Service) -> bool {
        self.isolation != Isolation::Enforce || may_call(caller, name, &service.rules)
    }

    /// Of which service the instance with this address is one; `None`: nobody's.
    #[must_use]
    pub fn caller(&self, from: Ip) -> Option<&ServiceName> {
        self.callers.get(&from).map(Arc::as_ref)
    }

    /// What is known about a name, if anything.
    #[must_use]
    pub fn look_up(&self, name: &ServiceName) -> Option<&Known> {
        self.known[part_of(name)].get(name)
    }

    /// The services that were resolved since the last call.
    pub fn take_used(&self) -> impl Iterator<Item = &ServiceName> {
        let known = self.known.iter().flat_map(|part| part.iter());
        known.filter_map(|(name, known)| match known {
            Known::Service(service) => service.take_used().then_some(name),
            Known::Absent | Known::Unresolved => None,
        })
    }

    /// Replaces what is known about a service; true when that changed anything.
    pub fn set_service(&mut self, routes: &Routes) -> bool {
        let service = Service::of_routes(routes);
        if let Some(Known::Service(old)) = self.look_up(&routes.job) {
            if old.says_the_same(&service) {
                return false;
            }
            service.used.store(old.take_used(), Ordering::Relaxed);
        }
        let known = Known::Service(Arc::new(service));
        self.part(&routes.job).insert(routes.job.clone(), known);
        true
    }

    /// Notes that nothing has this name, or that nobody can say; false when it is known to be a service.
    pub fn set_negative(&mut self, name: &ServiceName, known: Known) -> bool {
        let is_service = self.is_service(name);
        if !is_service {
            self.part(name).insert(name.clone(), known);
        }
        !is_service
    }

    /// Ends a negative answer; false when there was none.
    pub fn clear_negative(&mut self, name: &ServiceName) -> bool {
        !self.is_service(name) && self.forget(name)
    }

    /// Nothing is known about the name any more; false when nothing was.
    pub fn forget(&mut self, name: &ServiceName) -> bool {
        self.look_up(name).is_some() && self.part(name).remove(name).is_some()
    }

    /// The part with the name, to be changed: a copy while a clone has it, too.
    fn part(&mut self, name: &ServiceName) -> &mut BTreeMap<ServiceName, Known> {
        Arc::make_mut(&mut self.known[part_of(name)])
    }

    fn is_service(&self, name: &ServiceName) -> bool {
        matches!(self.look_up(name), Some(Known::Service(_)))
    }

    /// The instances of this node by their own addresses; true when they are others than before.
    pub fn set_callers(&mut self, callers: BTreeMap<Ip, Arc<ServiceName>>) -> bool {
        let changed = *self.callers != callers;
        if changed {
            self.callers = Arc::new(callers);
        }
        changed
    }
}

fn part_of(name: &ServiceName) -> usize {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    usize::try_from(hasher.finish() % PARTS as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_after_a_clone_copies_one_part_and_shows_in_one_of_them() {
        let mut names = Names::default();
        let name = |number: u32| format!("a{number}.b.c.d").parse().unwrap();
        for number in 0..1000 {
            assert!(names.set_negative(&name(number), Known::Absent));
        }
        let before = names.clone();
        assert!(names.clear_negative(&name(7)));
        assert!(!names.clear_negative(&name(7)));
        let shared = names.known.iter().zip(&before.known);
        let shared = shared.filter(|(now, before)| Arc::ptr_eq(now, before));
        assert_eq!(shared.count(), PARTS - 1);
        assert!(names.look_up(&name(7)).is_none());
        for number in 0..1000 {
            assert!(before.look_up(&name(number)).is_some());
            assert_eq!(names.look_up(&name(number)).is_some(), number != 7);
        }
        let sizes = names.known.each_ref().map(|part| part.len());
        assert!(sizes.iter().all(|size| *size < 100), "{sizes:?}");
    }
}
