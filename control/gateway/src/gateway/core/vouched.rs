//! An attachment is answered when its cluster has said back where it runs: then the rules of its service are in force
//! here, and every node of the cluster can call it.

use super::Core;
use crate::command::{Attached, Reply};
use sluice_proto::ServiceName;
use sluice_proto::table_query::asker::Asker;
use sluice_wire::{Dual, NsIp};
use std::time::Duration;

/// It runs all the same; so it is said then.
const VOUCH_WAIT: Duration = Duration::from_secs(1);

/// Attachments that run, and whoever made them does not know it yet.
#[derive(Debug, Default)]
pub(super) struct Unvouched(Vec<Attachment>);

#[derive(Debug)]
struct Attachment {
    service: ServiceName,
    ns_ip: Dual<NsIp>,
    attached: Attached,
    reply: Reply<Attached>,
    until: Duration,
}

impl Unvouched {
    pub(super) fn add(
        &mut self,
        service: ServiceName,
        ns_ip: Dual<NsIp>,
        attached: Attached,
        reply: Reply<Attached>,
        now: Duration,
    ) {
        self.0.push(Attachment {
            service,
            ns_ip,
            attached,
            reply,
            until: now + VOUCH_WAIT,
        });
    }

    /// When [`Core::answer_vouched`] is due whatever was heard.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        self.0.iter().map(|it| it.until).min()
    }
}

/// Whether the managers place the instance here, under the addresses that it has here.
pub(super) fn is_vouched(
    asker: &Asker,
    service: &ServiceName,
    number: u32,
    ns_ip: Dual<NsIp>,
) -> bool {
    let routes = asker.routes(service);
    let mut rows = routes.iter().flat_map(|routes| &routes.instances);
    rows.any(|row| row.number == number && row.place.as_ref().is_some_and(|at| at.ns_ip == ns_ip))
}

impl Core {
    /// After tables were published: answers the attachments that the managers place here, and those that waited long enough.
    pub(super) fn answer_vouched(&mut self, now: Duration) {
        let is_over = |it: &mut Attachment| {
            let number = it.attached.instance.instance_number;
            now >= it.until || is_vouched(&self.asker, &it.service, number, it.ns_ip)
        };
        for it in self.unvouched.0.extract_if(.., is_over) {
            let _ = it.reply.send(Ok(it.attached));
        }
    }
}
