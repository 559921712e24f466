//! Hosts on the LAN: attached by hand, absent while they do not answer, back when they do.
//!
//! A host has no process whose end could be seen. What is seen is that the kernel gets no answer from it any more. Then
//! it ends as an instance, so that callers choose others; it stays attached, and becomes an instance again, under its
//! number, as soon as it answers.

use super::Core;
use super::instances::{Attaching, Place, parse_name};
use crate::command::InstanceName;
use crate::gateway::state::LocalState;
use crate::node::attach::Wired;
use crate::node::lan::Host;
use sluice_wire::{Dual, Ip};
use std::collections::BTreeMap;
use std::time::Duration;

/// A host of which an address does not answer for so long is absent. The kernel has asked several times by then; a switch that
/// starts anew takes longer.
const SILENT: Duration = Duration::from_secs(10);
/// The managers are asked so often to take a host back: a request is answered or given up by then.
const RETURN_PAUSE: Duration = Duration::from_secs(12);

/// The hosts that are attached, and what was last seen of them.
#[derive(Debug, Default)]
pub(super) struct Hosts(BTreeMap<InstanceName, Seen>);

#[derive(Debug)]
struct Seen {
    host: Host,
    answered_at: Duration,
    /// When the managers were last asked to take it back.
    asked_at: Option<Duration>,
}

impl Hosts {
    pub(super) fn has(&self, instance: &InstanceName) -> bool {
        self.0.contains_key(instance)
    }

    fn addresses(&self) -> Vec<Ip> {
        self.0
            .values()
            .flat_map(|seen| {
                seen.host
                    .ns_ip()
                    .iter()
                    .map(|ip| ip.ip())
                    .collect::<Vec<_>>()
            })
            .collect()
    }
}

impl Core {
    /// A host was attached.
    pub(super) fn add_host(&mut self, host: Host, now: Duration) {
        let seen = Seen {
            answered_at: now,
            asked_at: None,
            host,
        };
        self.hosts.0.insert(seen.host.instance.clone(), seen);
        self.plane.set_hosts(self.hosts.addresses());
    }

    pub(super) fn remove_host(&mut self, instance: &InstanceName) {
        if self.hosts.0.remove(instance).is_some() {
            self.plane.set_hosts(self.hosts.addresses());
        }
    }

    /// A host that an earlier life of this gateway attached. One that was absent then is looked for.
    pub(super) fn adopt_host(&mut self, host: Host, remembered: &[LocalState], now: Duration) {
        if let Ok(service) = parse_name(&host.instance.service)
            && let Some(known) =
                LocalState::find(remembered, &service, host.instance.instance_number)
        {
            self.routes.settle(&service, host.instance.instance_number);
            self.list(
                &service,
                &Wired::from(&host),
                known.epoch,
                known.instance_ip(),
                now,
            );
        }
        self.add_host(host, now);
    }

    /// Looks which hosts are absent, and which are back. Called once a second.
    pub(super) fn look_at_hosts(&mut self, now: Duration) {
        let (mut silent, mut back) = (Vec::new(), Vec::new());
        for (instance, seen) in &mut self.hosts.0 {
            let Ok(service) = parse_name(&instance.service) else {
                continue;
            };
            let is_listed = self
                .routes
                .local(&service, instance.instance_number)
                .is_some();
            if seen
                .host
                .ns_ip()
                .iter()
                .all(|ip| self.plane.answers(ip.ip()))
            {
                seen.answered_at = now;
                let asked = seen.asked_at.is_some_and(|at| now < at + RETURN_PAUSE);
                if !is_listed && !asked {
                    seen.asked_at = Some(now);
                    back.push((service, seen.host.clone()));
                }
            } else if is_listed && seen.answered_at + SILENT <= now {
                seen.asked_at = None;
                silent.push((service, instance.clone()));
            }
        }
        for (service, instance) in silent {
            tracing::warn!(%instance, "a host does not answer: callers choose others until it does");
            self.unlist(&service, instance.instance_number, now);
        }
        for (service, host) in back {
            tracing::info!(instance = %host.instance, "a host answers again");
            let address = Dual {
                v4: host.address.map(Ip::from),
                v6: host.address_v6.map(Ip::from),
            };
            let attaching = Attaching {
                service,
                instance_number: Some(host.instance.instance_number),
                migrate: false,
                port_mappings: Vec::new(),
                place: Place::Host(address),
                reply: None,
            };
            self.begin_attaching(attaching, now);
        }
    }
}
