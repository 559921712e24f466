//! What the name server answers from: the table query's answers by name, and the local instances that may ask.

use super::Core;
use sluice_proto::dns::{Known, Question};
use sluice_proto::table_query::Key;
use sluice_proto::table_query::asker::Event;
use sluice_wire::{Dual, Ip};
use std::sync::Arc;
use std::time::Duration;

impl Core {
    /// Where instances of this node find the name server; nowhere while names are off.
    pub(super) fn name_server(&self) -> Dual<Ip> {
        if self.dns.is_enabled() {
            self.routes.tables().gateway
        } else {
            Dual::default()
        }
    }

    /// An instance wants to know the addresses of a service, or of one of its instances, that has no name here yet.
    pub(crate) fn handle_name_question(&mut self, question: &Question, now: Duration) {
        let service = &question.service;
        match question.instance {
            Some(number) => self.asker.handle_instance_question(service, number, now),
            None => self.asker.handle_question(&Key::Name(service.clone()), now),
        }
    }

    /// Takes over what an event says about a name.
    pub(super) fn name(&mut self, event: &Event) {
        self.names_changed |= match event {
            Event::Routes(routes) | Event::Unavailable(routes) => self.names.set_service(routes),
            Event::Absent {
                key: Key::Name(name),
            } => self.names.set_negative(name, Known::Absent),
            Event::Unresolved {
                key: Key::Name(name),
            } => self.names.set_negative(name, Known::Unresolved),
            Event::Unknown {
                key: Key::Name(name),
            } => self.names.clear_negative(name),
            Event::Forgotten { job } => self.names.forget(job),
            Event::Absent { .. }
            | Event::Unresolved { .. }
            | Event::Unknown { .. }
            | Event::Unanswered { .. }
            | Event::Node(_)
            | Event::Withdrawn { .. } => false,
        };
    }

    /// The local instances are others than before.
    pub(super) fn name_callers(&mut self) {
        let callers = self.routes.locals().flat_map(|local| {
            let service = Arc::new(local.job.clone());
            local
                .ns_ip
                .iter()
                .map(move |ip| (ip.ip(), Arc::clone(&service)))
        });
        self.names_changed |= self.names.set_callers(callers.collect());
    }

    /// Makes the names visible to the name server.
    pub(super) fn publish_names(&mut self) {
        if std::mem::take(&mut self.names_changed) {
            self.dns.publish(self.names.clone());
        }
    }

    /// The services that were resolved by name since the last call are in use.
    pub(super) fn use_named(&mut self, now: Duration) {
        for service in self.names.take_used() {
            self.asker.handle_used(service, now);
        }
    }
}
