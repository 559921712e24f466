//! Names and rules compiled into what workers look at: a number per tenant, and the pairs of services that a rule allows.
//!
//! A *tenant* is an application namespace with a service namespace. Of pairs only those matter of which one service has an
//! instance on this node: nobody else begins or takes a conversation here.

use sluice_proto::ServiceName;
use sluice_proto::isolation::{Rule, may_call};
use sluice_tables::{ServiceSlot, Writer};
use std::collections::{BTreeMap, BTreeSet};

/// Application namespace and service namespace, in lower case.
type Tenant = (String, String);

#[derive(Debug)]
struct Service {
    slot: ServiceSlot,
    rules: Vec<Rule>,
    is_local: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Tenancy {
    services: BTreeMap<ServiceName, Service>,
    locals: BTreeSet<ServiceName>,
    /// The number of each tenant, and how many services it has.
    tenants: BTreeMap<Tenant, (u32, usize)>,
    last_tenant: u32,
    pairs: BTreeSet<(ServiceSlot, ServiceSlot)>,
    revoked: bool,
}

impl Tenancy {
    /// What is known of a service; `rules` are those that allow calls to it.
    pub(crate) fn set(
        &mut self,
        name: &ServiceName,
        slot: ServiceSlot,
        rules: &[Rule],
        writer: &mut Writer,
    ) {
        if let Some(known) = self.services.get_mut(name) {
            if known.rules == rules {
                return;
            }
            known.rules = rules.to_vec();
            let fewer = self.compile(name, writer);
            self.revoked |= fewer;
        } else {
            let service = Service {
                slot,
                rules: rules.to_vec(),
                is_local: false,
            };
            self.services.insert(name.clone(), service);
            let (number, services) = self.tenants.entry(tenant(name)).or_insert_with(|| {
                self.last_tenant += 1;
                (self.last_tenant, 0)
            });
            *services += 1;
            writer.set_tenant(slot, *number);
            self.compile(name, writer);
        }
    }

    /// Whether an instance of the service runs on this node.
    pub(crate) fn set_local(&mut self, name: &ServiceName, is_local: bool, writer: &mut Writer) {
        let Some(service) = self.services.get_mut(name) else {
            return;
        };
        if service.is_local != is_local {
            service.is_local = is_local;
            if is_local {
                self.locals.insert(name.clone());
            } else {
                self.locals.remove(name);
            }
            // Pairs come and go with what concerns this node; nobody loses a permission by that.
            self.compile(name, writer);
        }
    }

    /// The service is not known any more; its instances have been withdrawn.
    pub(crate) fn forget(&mut self, name: &ServiceName, writer: &mut Writer) {
        let Some(service) = self.services.remove(name) else {
            return;
        };
        self.locals.remove(name);
        let tenant = tenant(name);
        if let Some((_, services)) = self.tenants.get_mut(&tenant) {
            *services -= 1;
            if *services == 0 {
                self.tenants.remove(&tenant);
            }
        }
        let before = self.pairs.len();
        self.pairs
            .retain(|(caller, callee)| ![caller, callee].contains(&&service.slot));
        if self.pairs.len() != before {
            writer.set_permits(self.pairs.iter().copied());
        }
    }

    /// Notes that somebody may not call any more who might.
    pub(crate) const fn revoke(&mut self) {
        self.revoked = true;
    }

    /// Whether anybody lost a permission since the last call.
    pub(crate) const fn take_revoked(&mut self) -> bool {
        std::mem::replace(&mut self.revoked, false)
    }

    /// Writes the pairs with this service anew. True when there are fewer.
    fn compile(&mut self, name: &ServiceName, writer: &mut Writer) -> bool {
        let Some(service) = self.services.get(name) else {
            return false;
        };
        let mut pairs = BTreeSet::new();
        let mut judge = |other_name: &ServiceName, other: &Service| {
            if tenant(name) == tenant(other_name) {
                return;
            }
            if may_call(name, other_name, &other.rules) {
                pairs.insert((service.slot, other.slot));
            }
            if may_call(other_name, name, &service.rules) {
                pairs.insert((other.slot, service.slot));
            }
        };
        if service.is_local {
            self.services.iter().for_each(|(name, it)| judge(name, it));
        } else {
            let locals = self.locals.iter();
            let locals = locals.filter_map(|name| self.services.get_key_value(name));
            locals.for_each(|(name, it)| judge(name, it));
        }
        let own = service.slot;
        let old: BTreeSet<_> = self
            .pairs
            .iter()
            .filter(|(caller, callee)| *caller == own || *callee == own)
            .copied()
            .collect();
        if old == pairs {
            return false;
        }
        let fewer = !old.is_subset(&pairs);
        self.pairs.retain(|pair| !old.contains(pair));
        self.pairs.extend(pairs);
        writer.set_permits(self.pairs.iter().copied());
        fewer
    }
}

fn tenant(name: &ServiceName) -> Tenant {
    let [_, app_ns, _, service_ns] = name.parts();
    (app_ns.to_ascii_lowercase(), service_ns.to_ascii_lowercase())
}

#[cfg(test)]
mod tests;
