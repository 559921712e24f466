//! What an answer changes: rows, withdrawals, and what is believed to be absent.

use super::absences::kind;
use super::belief::Believed;
use super::{Asker, Event, Held, Query, SETTLE, Timer};
use crate::message::{Revision, TableQueryResult};
use crate::names::ServiceName;
use crate::table_query::backoff::Backoff;
use crate::table_query::{Key, Row, ServiceAddress};
use sluice_wire::Ip;
use std::collections::BTreeMap;
use std::time::Duration;

impl Asker {
    pub(super) fn absent(&mut self, key: Option<Key>, result: &TableQueryResult, now: Duration) {
        let Some(key) = key else {
            return;
        };
        let asked = self.answered(&key);
        if let Key::Name(name) = &key
            && let Some(job) = self.jobs.get(name)
        {
            let (name, local) = (job.name.clone(), !job.local.is_empty());
            if local && asked.as_ref().is_some_and(|query| query.again) {
                // An instance began here, or the job changed, after the question had left: the next answer counts.
                self.ask(key, asked.is_some_and(|query| query.wanted), now);
                return;
            }
            if result.live.is_some() {
                self.withdraw_all(&name);
            }
            if local {
                // The orchestrator may be slower than we are: the interest of a local instance stays.
                let wait = self.settings.retry_max;
                self.timers.set(Timer::Refresh(name), now + wait);
            } else {
                self.forget(&name, false);
            }
        }
        if asked.is_some_and(|query| query.wanted) {
            self.remember_absent(key, now);
        }
    }

    /// Whoever asked need not wait any longer; the query stays, so that the answer is believed when it comes.
    pub(super) fn unresolved(&mut self, key: Key, now: Duration) {
        if self
            .queries
            .get_mut(&key)
            .is_some_and(|query| std::mem::take(&mut query.wanted))
        {
            self.remember(key, true, now);
        }
    }

    /// Takes the query with this key off the list.
    pub(super) fn answered(&mut self, key: &Key) -> Option<Query> {
        self.timers.cancel(&Timer::Query(key.clone()));
        let query = self.queries.remove(key)?;
        self.open[kind(key)] -= 1;
        Some(query)
    }

    fn remember_absent(&mut self, key: Key, now: Duration) {
        self.remember(key, false, now);
    }

    /// Believes an answer that names nothing for a while: longer each time when it was that nothing exists.
    fn remember(&mut self, key: Key, unresolved: bool, now: Duration) {
        let max = self.settings.absent_keys_max;
        if let Some((oldest, absent)) = self.absent.renew(&key, max) {
            self.timers.cancel(&Timer::Absent(oldest.clone()));
            if !absent.expired {
                self.events.push_back(Event::Unknown { key: oldest });
            }
        }
        let Some(absent) = self.absent.get_mut(&key) else {
            return;
        };
        absent.unresolved = unresolved;
        absent.strikes = if unresolved {
            1
        } else {
            absent.strikes.saturating_add(1)
        };
        absent.expired = false;
        let event = absent.event(key.clone());
        let backoff = Backoff {
            first: self.settings.absent_first,
            max: self.settings.absent_max,
        };
        let wait = backoff.wait(absent.strikes, &mut self.random);
        self.timers.set(Timer::Absent(key), now + wait);
        self.events.push_back(event);
    }

    /// Believes no earlier answer that names nothing.
    pub(super) fn forget_absent(&mut self) {
        for (key, absent) in std::mem::take(&mut self.absent).into_keys() {
            self.timers.cancel(&Timer::Absent(key.clone()));
            if !absent.expired {
                self.events.push_back(Event::Unknown { key });
            }
        }
    }

    pub(super) fn absent_due(&mut self, key: Key, now: Duration) {
        let Some(absent) = self.absent.get_mut(&key) else {
            return;
        };
        if absent.expired {
            self.absent.remove(&key);
            return;
        }
        absent.expired = true;
        self.events.push_back(Event::Unknown { key: key.clone() });
        self.timers
            .set(Timer::Absent(key), now + 2 * self.settings.absent_max);
    }

    pub(super) fn present(
        &mut self,
        name: ServiceName,
        key: Option<Key>,
        result: &TableQueryResult,
        now: Duration,
    ) {
        let is_asked = key
            .as_ref()
            .is_some_and(|key| self.queries.contains_key(key));
        if !is_asked && !self.jobs.contains_key(&name) {
            // Nobody asked, nobody holds it: a late push for a job that was forgotten, or the key of an absence, which is
            // over then, so that whoever needs it asks again.
            if let Some(key) = key.filter(|key| self.absent.get(key).is_some_and(|it| !it.expired))
            {
                self.no_longer_absent(&key);
                self.events.push_back(Event::Unknown { key });
            }
            return;
        }
        let Some(believed) = self.believe(&name, result) else {
            // The question stays open: the cluster's own answer may come still.
            return;
        };
        let asked = key.as_ref().and_then(|key| self.answered(key));
        let is_new = !self.jobs.contains_key(&name);
        let name = self.hold(&name, now);
        let Some(job) = self.jobs.get(&name) else {
            return;
        };
        let before = job.confirmed.then(|| job.event());
        let overtaken = match (result.revision, job.revision) {
            (Some(this), Some(have)) => {
                this.incarnation == have.incarnation && this.number < have.number
            }
            _ => false,
        };
        let up_to_date = match (result.revision, job.told) {
            (Some(this), Some(told)) => {
                this.incarnation == told.incarnation && this.number >= told.number
            }
            _ => false,
        };
        let again = asked.as_ref().is_some_and(|query| query.again) && !up_to_date;
        if !overtaken {
            if again && result.revision.is_none() {
                // The answer may be older than the update; only the next one may withdraw.
                let withdraw_missing = job.withdraw_missing;
                self.set_withdraw_missing(&name, false);
                self.replace_rows(&name, result, believed, now);
                self.set_withdraw_missing(&name, withdraw_missing);
            } else {
                self.replace_rows(&name, result, believed, now);
                self.set_withdraw_missing(&name, false);
            }
        }
        let Some(job) = self.jobs.get(&name) else {
            return;
        };
        let owes_suspects = job.owes_suspects();
        let after = job.event();
        let mut wanted = asked.is_some_and(|query| query.wanted);
        for key in self.keys_waiting_for(&name) {
            wanted |= self.answered(&key).is_some_and(|query| query.wanted);
        }
        if wanted || before.as_ref() != Some(&after) {
            self.events.push_back(after);
        }
        if let Some(key @ Key::Address(ip)) = key
            && wanted
            && !self.addresses.contains_key(&ip)
        {
            self.remember_absent(key, now);
        }
        if again || owes_suspects {
            self.refresh(name, now);
        } else if is_new && result.revision.is_none() {
            self.timers.set(Timer::Refresh(name), now + SETTLE);
        }
    }

    fn set_withdraw_missing(&mut self, name: &ServiceName, value: bool) {
        if let Some(job) = self.jobs.get_mut(name) {
            job.withdraw_missing = value;
        }
    }

    /// Unanswered questions that what is known about the job answers. Refreshes of its name are left alone: their
    /// answer may be newer.
    fn keys_waiting_for(&self, name: &ServiceName) -> Vec<Key> {
        self.queries
            .iter()
            .filter(|(key, query)| match key {
                Key::Address(ip) => self.addresses.get(ip) == Some(name),
                Key::Name(asked) => asked == name && query.wanted && !query.again,
                Key::Node(_) => false,
            })
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Replaces all that is known about a job by an answer, at once. Only an explicit statement withdraws.
    pub(super) fn replace_rows(
        &mut self,
        name: &ServiceName,
        result: &TableQueryResult,
        listed: Believed,
        now: Duration,
    ) {
        let Some(job) = self.jobs.get_mut(name) else {
            return;
        };
        let addresses_before = job.addresses();
        let live: Option<BTreeMap<u32, u64>> = result
            .live
            .as_ref()
            .map(|live| live.iter().copied().collect());
        let withdraw_missing = job.withdraw_missing;
        let withdrawn = |held: &Held| match (listed.get(&held.row.number), &live) {
            (Some((row, _)), _) => is_another(&held.row, row.epoch, Some(row)),
            (None, Some(live)) => live
                .get(&held.row.number)
                .is_none_or(|epoch| is_another(&held.row, *epoch, None)),
            (None, None) => withdraw_missing,
        };
        let events = &mut self.events;
        job.rows.retain(|number, held| {
            let gone = withdrawn(held);
            if gone {
                events.push_back(Event::Withdrawn {
                    job: name.clone(),
                    number: *number,
                    epoch: held.row.epoch,
                });
            }
            held.listed = false;
            !gone
        });
        // With each row the cluster signs by which addresses its service is called.
        let is_signed = listed.values().any(|(_, verified)| verified.is_some());
        for (number, (row, verified)) in listed {
            let held = Held {
                row,
                listed: true,
                asked_at: None,
                verified,
            };
            job.rows.insert(number, held);
        }
        job.note_epochs();
        let mut service_ips: Vec<ServiceAddress> = Vec::new();
        let unsigned = result.service_ip_list.iter().flatten();
        let of_rows = result
            .instance_list
            .iter()
            .flat_map(|entry| &entry.service_ip);
        let entries = unsigned.filter(|_| !is_signed).chain(of_rows);
        for address in entries.filter_map(ServiceAddress::of_entry) {
            if !service_ips.contains(&address) {
                service_ips.push(address);
            }
        }
        if !service_ips.is_empty() || result.service_ip_list.is_some() {
            job.service_ips = service_ips;
        }
        let left_out = live.into_iter().flatten().map(|(number, _)| number);
        job.unlisted = left_out
            .filter(|number| job.rows.get(number).is_none_or(|held| !held.listed))
            .collect();
        let (rows, unlisted) = (&job.rows, &job.unlisted);
        let lives = |number: &u32| rows.contains_key(number) || unlisted.contains(number);
        job.named.retain(lives);
        job.rules.clone_from(&result.rules);
        job.confirmed = true;
        let incarnation = |revision: Option<Revision>| revision.map(|it| it.incarnation);
        if incarnation(job.revision) != incarnation(result.revision) {
            // A manager that began anew was told nothing yet.
            job.has_told_suspects = false;
        }
        job.revision = result.revision;
        let addresses = job.addresses();
        self.release_addresses(name, addresses_before.difference(&addresses));
        for ip in addresses {
            self.addresses.insert(ip, name.clone());
            self.no_longer_absent(&Key::Address(ip));
        }
        self.no_longer_absent(&Key::Name(name.clone()));
        if let Some(job) = self.jobs.get_mut(name) {
            job.renewed_at = now;
        }
    }

    pub(super) fn no_longer_absent(&mut self, key: &Key) {
        if self.absent.remove(key).is_some() {
            self.timers.cancel(&Timer::Absent(key.clone()));
        }
    }

    fn withdraw_all(&mut self, name: &ServiceName) {
        let Some(job) = self.jobs.get_mut(name) else {
            return;
        };
        let addresses = job.addresses();
        for (number, held) in std::mem::take(&mut job.rows) {
            self.events.push_back(Event::Withdrawn {
                job: name.clone(),
                number,
                epoch: held.row.epoch,
            });
        }
        job.service_ips.clear();
        job.rules.clear();
        job.revision = None;
        if std::mem::take(&mut job.confirmed) {
            self.events
                .push_back(Event::Forgotten { job: name.clone() });
        }
        self.release_addresses(name, &addresses);
    }

    pub(super) fn release_addresses<'a>(
        &mut self,
        name: &ServiceName,
        addresses: impl IntoIterator<Item = &'a Ip>,
    ) {
        for ip in addresses {
            if self.addresses.get(ip) == Some(name) {
                self.addresses.remove(ip);
            }
        }
    }
}

/// True when `held` is not the instance that an answer speaks of under the same number.
fn is_another(held: &Row, epoch: u64, row: Option<&Row>) -> bool {
    if held.epoch != 0 && epoch != 0 {
        held.epoch != epoch
    } else {
        row.is_some_and(|row| row.instance_ip != held.instance_ip)
    }
}
