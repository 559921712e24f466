//! A snapshot of what is known by name, and of who may ask: what answers are made from.

use super::zone::Choice;
use crate::isolation::{Isolation, Rule, may_call};
use crate::names::ServiceName;
use crate::table_query::ServiceAddress;
use crate::table_query::asker::Routes;
use sluice_wire::{Dual, InstanceIp, Ip, ServiceIp};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The addresses of one service.
#[derive(Debug)]
pub struct Service {
    service_ips: Vec<ServiceAddress>,
    instances: BTreeMap<u32, Dual<InstanceIp>>,
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

/// Everything that answers are made from. Cloning shares the services.
#[derive(Clone, Debug, Default)]
pub struct Names {
    isolation: Isolation,
    known: BTreeMap<ServiceName, Known>,
    callers: BTreeMap<Ip, Arc<ServiceName>>,
}

impl Names {
    /// Nothing is known yet. Unless isolation is enforced, everybody may know every name.
    #[must_use]
    pub fn new(isolation: Isolation) -> Self {
        Self {
            isolation,
            ..Self::default()
        }
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
        self.known.get(name)
    }

    /// The services that were resolved since the last call.
    pub fn take_used(&self) -> impl Iterator<Item = &ServiceName> {
        self.known.iter().filter_map(|(name, known)| match known {
            Known::Service(service) => service.take_used().then_some(name),
            Known::Absent | Known::Unresolved => None,
        })
    }

    /// Replaces what is known about a service; true when that changed anything.
    pub fn set_service(&mut self, routes: &Routes) -> bool {
        let service = Service::of_routes(routes);
        if let Some(Known::Service(old)) = self.known.get(&routes.job) {
            if old.says_the_same(&service) {
                return false;
            }
            service.used.store(old.take_used(), Ordering::Relaxed);
        }
        let known = Known::Service(Arc::new(service));
        self.known.insert(routes.job.clone(), known);
        true
    }

    /// Notes that nothing has this name, or that nobody can say; false when it is known to be a service.
    pub fn set_negative(&mut self, name: &ServiceName, known: Known) -> bool {
        let is_service = self.is_service(name);
        if !is_service {
            self.known.insert(name.clone(), known);
        }
        !is_service
    }

    /// Ends a negative answer; false when there was none.
    pub fn clear_negative(&mut self, name: &ServiceName) -> bool {
        !self.is_service(name) && self.forget(name)
    }

    /// Nothing is known about the name any more; false when nothing was.
    pub fn forget(&mut self, name: &ServiceName) -> bool {
        self.known.remove(name).is_some()
    }

    fn is_service(&self, name: &ServiceName) -> bool {
        matches!(self.known.get(name), Some(Known::Service(_)))
    }

    /// The instances of this node by their own addresses; true when they are others than before.
    pub fn set_callers(&mut self, callers: BTreeMap<Ip, Arc<ServiceName>>) -> bool {
        let changed = self.callers != callers;
        self.callers = callers;
        changed
    }
}
