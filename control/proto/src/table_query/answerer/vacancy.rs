//! "No instance left": a service that ran in this cluster runs nowhere any more. Told to an orchestrator at least once,
//! and not again while it stays so.

use super::{Answerer, Event, Known, Settings};
use crate::message::{InstanceEntry, NoInstanceLeft, Revision, write};
use crate::names::ServiceName;
use serde::{Deserialize, Serialize};
use std::ops::Bound::{Excluded, Unbounded};

/// One event.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Vacancy {
    pub service: ServiceName,
    /// Tells it apart from earlier and later ones of the service.
    pub revision: Revision,
}

impl Vacancy {
    /// The MQTT topic of the event.
    #[must_use]
    pub fn topic(&self) -> String {
        format!("jobs/{}/no_instance_left", self.service)
    }
}

/// What a job remembers about it.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(super) struct Tenancy {
    /// It runs, and an instance of it has run in this cluster since it began to.
    hosted: bool,
    /// The last event, while there is none to run or nobody has taken it.
    left: Option<Left>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
struct Left {
    revision: Revision,
    told: bool,
}

impl Tenancy {
    /// Somebody has to be told yet.
    pub(super) fn owes(&self) -> bool {
        self.left.is_some_and(|left| !left.told)
    }
}

impl Known {
    /// Looks whether it runs, and where. True when the last instance is gone.
    pub(super) fn look_for_tenants(&mut self, settings: &Settings) -> bool {
        let entries = self.entries();
        let runs = || entries.iter().filter(|entry| entry.is_placed());
        let here = |entry: &InstanceEntry| {
            entry.cluster_id.as_deref() == Some(&*settings.cluster_id)
                || self.placements.contains_key(&entry.instance_number)
        };
        let tenancy = self.tenancy;
        if runs().next().is_some() {
            self.tenancy.hosted = tenancy.hosted || runs().any(here);
            self.tenancy.left = tenancy.left.filter(|left| !left.told);
            return false;
        }
        let is_over = std::mem::take(&mut self.tenancy.hosted);
        if is_over {
            let revision = self.revision_on_wire(settings);
            let told = false;
            self.tenancy.left = Some(Left { revision, told });
        }
        is_over
    }
}

impl Answerer {
    /// After every change of a job.
    pub(super) fn note_vacancy(&mut self, name: &ServiceName) {
        let settings = &self.settings;
        let Some(known) = self.jobs.get_mut(name) else {
            return;
        };
        if !known.look_for_tenants(settings) {
            return;
        }
        let vacancy = Vacancy {
            service: name.clone(),
            revision: known.revision_on_wire(settings),
        };
        self.owing.insert(name.clone());
        self.events.push_back(Event::NoInstanceLeft(vacancy));
    }

    /// The event as it is told by MQTT and to webhooks.
    #[must_use]
    pub fn vacancy_body(&self, vacancy: &Vacancy) -> Vec<u8> {
        let service_ips = self
            .jobs
            .get(&vacancy.service)
            .map(|known| known.job.service_ip_list.clone())
            .unwrap_or_default();
        write(&NoInstanceLeft {
            version: 1,
            event: "no_instance_left".to_owned(),
            id: vacancy.revision,
            service: vacancy.service.to_string(),
            cluster_id: self.settings.cluster_id.clone(),
            service_ip_list: service_ips,
        })
    }

    /// The next event after that of service `after`, in turn, that nobody has taken yet, for a webhook; also those of
    /// earlier lives.
    #[must_use]
    pub fn untold(&self, after: Option<&ServiceName>) -> Option<Vacancy> {
        let later = after.map_or(Unbounded, Excluded);
        let turn = self.owing.range((later, Unbounded)).chain(&self.owing);
        turn.into_iter().find_map(|service| {
            let left = self.jobs.get(service)?.tenancy.left?;
            Some(Vacancy {
                service: service.clone(),
                revision: left.revision,
            })
        })
    }

    /// Somebody has taken the event, or nobody is there to take any.
    pub fn handle_told(&mut self, vacancy: &Vacancy) {
        let name = &vacancy.service;
        let Some(known) = self.jobs.get_mut(name) else {
            return;
        };
        let Some(left) = &mut known.tenancy.left else {
            return;
        };
        if left.revision == vacancy.revision {
            left.told = true;
            self.owing.remove(name);
            if known.tenancy.hosted {
                known.tenancy.left = None;
            }
            self.dirty.job(name);
            self.drop_unused(name);
        }
    }
}
