//! A service that begins to run here may have its InstanceIP before its rules are known. Until its cluster has said back where it
//! runs, and the rules with that, calls that nothing allows yet wait instead of being refused.

use super::Core;
use super::vouched::is_vouched;
use sluice_proto::ServiceName;
use sluice_routes::LocalInstance;
use sluice_wire::{Dual, NsIp};
use std::time::Duration;

/// Afterwards what is known decides.
const RULES_WAIT: Duration = Duration::from_secs(1);

/// Services of this node whose rules are on their way.
#[derive(Debug, Default)]
pub(super) struct Newcomers(Vec<Newcomer>);

/// The first instance of such a service.
#[derive(Debug)]
struct Newcomer {
    service: ServiceName,
    number: u32,
    ns_ip: Dual<NsIp>,
    until: Duration,
}

impl Newcomers {
    /// When [`Core::end_awaiting`] is due whatever was heard.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        self.0.iter().map(|it| it.until).min()
    }
}

impl Core {
    /// After an instance was added to the routes, before they are published.
    pub(super) fn await_rules(
        &mut self,
        service: &ServiceName,
        number: u32,
        ns_ip: Dual<NsIp>,
        now: Duration,
    ) {
        let is_other = |it: &LocalInstance| it.job == *service && it.number != number;
        if self.routes.locals().any(is_other) || is_vouched(&self.asker, service, number, ns_ip) {
            return;
        }
        self.routes.set_awaits_rules(service, true);
        self.newcomers.0.retain(|it| it.service != *service);
        self.newcomers.0.push(Newcomer {
            service: service.clone(),
            number,
            ns_ip,
            until: now + RULES_WAIT,
        });
    }

    /// Before tables are published: lets the calls go that waited for what has been heard, or for long enough.
    pub(super) fn end_awaiting(&mut self, now: Duration) {
        let is_over = |it: &mut Newcomer| {
            now >= it.until || is_vouched(&self.asker, &it.service, it.number, it.ns_ip)
        };
        for it in self.newcomers.0.extract_if(.., is_over) {
            self.routes.set_awaits_rules(&it.service, false);
            self.routes_changed = true;
        }
    }
}
