//! The instances of this node: deployed by a node engine, attached by hand, adopted after a restart, ended.

use super::Core;
use crate::command::{
    Attach, AttachTarget, Attached, Deploy, DeployKind, Deployed, Detach, InstanceName, Refusal,
    Reply,
};
use crate::container;
use crate::gateway::state::LocalState;
use crate::node::attach::{Attachment, Request, Wired, v4, v6};
use crate::node::lan::Host;
use crate::node::namespace::Workload;
use crate::node::port_mapping::PortMapping;
use crate::node::thread::Node;
use sluice_proto::ServiceName;
use sluice_proto::message::{InstanceRequest, InstanceResult, Verb};
use sluice_proto::table_query::Row;
use sluice_routes::LocalInstance;
use sluice_wire::{Dual, InstanceIp, Ip};
use std::time::Duration;

/// How long an attachment waits for the managers: longer than the cluster waits for the root (8 s), so that an instance
/// that is given late is not given to nobody.
const ATTACH_WAIT: Duration = Duration::from_secs(10);
/// How long a deployment waits for its InstanceIP before it answers all the same.
const DEPLOY_WAIT: Duration = Duration::from_secs(2);

/// What an instance is made of.
#[derive(Debug)]
pub(crate) enum Place {
    Workload(Workload),
    /// A host on the LAN with these addresses.
    Host(Dual<Ip>),
}

/// An attachment that waits for the managers' instance.
#[derive(Debug)]
pub(super) struct Attaching {
    pub(super) service: ServiceName,
    pub(super) instance_number: Option<u32>,
    pub(super) migrate: bool,
    pub(super) port_mappings: Vec<PortMapping>,
    pub(super) place: Place,
    /// `None`: a host that came back by itself.
    pub(super) reply: Option<Reply<Attached>>,
}

/// Tells whoever asked, who may have left.
fn refuse(service: &ServiceName, reply: Option<Reply<Attached>>, refusal: Refusal) {
    match reply {
        Some(reply) => drop(reply.send(Err(refusal))),
        None => {
            tracing::warn!(%service, %refusal, "a host that answers again is not taken back yet");
        }
    }
}

/// An instance that is wired, but whose InstanceIP is not known yet.
#[derive(Debug)]
pub(super) struct Nameless {
    pub(super) attachment: Attachment,
    reply: Option<(Reply<Deployed>, Duration)>,
}

impl Core {
    pub(super) async fn deploy(&mut self, deploy: Deploy, reply: Reply<Deployed>, now: Duration) {
        let prepared = parse_name(&deploy.instance.service).and_then(|service| {
            Ok((
                service,
                PortMapping::list(&deploy.port_mappings).map_err(bad_mapping)?,
                self.node()?,
                self.in_plan(deploy.instance_ip)?,
            ))
        });
        let (service, port_mappings, node, instance_ip) = match prepared {
            Ok(prepared) => prepared,
            Err(refusal) => {
                let _ = reply.send(Err(refusal));
                return;
            }
        };
        let number = deploy.instance.instance_number;
        let request = Request {
            instance: deploy.instance,
            port_mappings,
            kept: Dual::default(),
            note: String::new(),
        };
        let attached = match deploy.kind {
            DeployKind::Container { pid } => match Workload::of_process(pid) {
                Ok(workload) => node.attach(request, workload).await,
                Err(error) => Err(error.into()),
            },
            DeployKind::Unikernel => node.attach_unikernel(request).await,
        };
        match attached {
            Ok(attachment) if instance_ip.iter().next().is_some() => {
                self.watch.add(&attachment);
                self.list(&service, &Wired::from(&attachment), 0, instance_ip, now);
                // Workers see it before the caller does.
                self.publish();
                let _ = reply.send(Ok(deployed(&attachment)));
            }
            Ok(attachment) => {
                self.watch.add(&attachment);
                self.announce(&Wired::from(&attachment), 0);
                let nameless = Nameless {
                    attachment,
                    reply: Some((reply, now + DEPLOY_WAIT)),
                };
                self.nameless.insert((service.clone(), number), nameless);
                self.asker.handle_local(&service, number, true, now);
                self.name_known(&service, number);
            }
            Err(error) => {
                let _ = reply.send(Err(error.into()));
            }
        }
    }

    pub(super) fn attach(
        &mut self,
        attach: Attach,
        reply: Reply<Attached>,
        place: Result<Place, Refusal>,
        now: Duration,
    ) {
        let prepared = parse_name(&attach.service).and_then(|service| {
            self.node()?;
            let (mappings, place) = (
                PortMapping::list(&attach.port_mappings).map_err(bad_mapping)?,
                place?,
            );
            if matches!(place, Place::Host(_)) && !mappings.is_empty() {
                return Err(Refusal::BadRequest(
                    "a host has its own ports: `port_mappings` is for workloads of this machine"
                        .to_owned(),
                ));
            }
            Ok((service, mappings, place))
        });
        let (service, port_mappings, place) = match prepared {
            Ok(prepared) => prepared,
            Err(refusal) => {
                let _ = reply.send(Err(refusal));
                return;
            }
        };
        if let Some(number) = attach.instance_number
            && self.lives_here(&service, number)
        {
            let instance = InstanceName {
                service: attach.service,
                instance_number: number,
            };
            let _ = reply.send(Err(Refusal::AlreadyAttached(instance)));
            return;
        }
        let attaching = Attaching {
            service,
            instance_number: attach.instance_number,
            migrate: attach.migrate,
            port_mappings,
            place,
            reply: Some(reply),
        };
        self.begin_attaching(attaching, now);
    }

    /// Asks the managers for an instance.
    pub(super) fn begin_attaching(&mut self, attaching: Attaching, now: Duration) {
        self.requests += 1;
        // Unique across restarts: a repeated request must not be taken for an earlier one.
        let request = format!("{:x}-{}", now.as_nanos(), self.requests);
        self.attaching
            .insert(request.clone(), (attaching, now + ATTACH_WAIT));
        self.ask_instance(&request);
    }

    fn ask_instance(&self, request: &str) {
        if let Some((attaching, _)) = self.attaching.get(request) {
            let body = InstanceRequest {
                request_id: request.to_owned(),
                service: attaching.service.clone(),
                instance_number: attaching.instance_number,
                migrate: attaching.migrate,
            };
            self.say(Verb::InstanceRequest, &body);
        }
    }

    /// The managers gave an instance: wire it.
    pub(super) async fn handle_instance(&mut self, result: InstanceResult, now: Duration) {
        let Some((attaching, _)) = self.attaching.remove(&result.request_id) else {
            return;
        };
        if let Some(error) = result.error {
            let refusal = if result.retry {
                Refusal::ManagersAway(error)
            } else {
                Refusal::ManagersRefused(error)
            };
            refuse(&attaching.service, attaching.reply, refusal);
            return;
        }
        let number = result.instance_number;
        let instance = InstanceName {
            service: attaching.service.to_string(),
            instance_number: number,
        };
        let Attaching {
            service,
            port_mappings,
            place,
            reply,
            migrate,
            ..
        } = attaching;
        if reply.is_none() && !self.hosts.has(&instance) {
            // A host on its way back was detached meanwhile.
            self.end_of(instance.service, number, result.epoch);
            self.tell_ended(now);
            return;
        }
        let kept = Dual {
            v4: result.kept_ip,
            v6: result.kept_ip_v6,
        };
        let request = Request {
            instance: instance.clone(),
            port_mappings,
            kept,
            note: String::new(),
        };
        match self.place(request, place, now).await {
            Ok(wired) => {
                let instance_ip = Dual {
                    v4: result.instance_ip,
                    v6: result.instance_ip_v6,
                };
                let known = map(instance_ip, InstanceIp::new);
                self.list(&service, &wired, result.epoch, known, now);
                let name_server = self.name_server();
                let kept = wired.veth.map_or_else(Dual::default, |veth| veth.kept);
                let attached = Attached {
                    instance,
                    instance_ip: instance_ip.v4.and_then(v4),
                    instance_ip_v6: instance_ip.v6.and_then(v6),
                    ns_address: wired.ns_ip.v4.and_then(|ip| v4(ip.ip())),
                    ns_address_v6: wired.ns_ip.v6.and_then(|ip| v6(ip.ip())),
                    kept_address: kept.v4.and_then(v4),
                    kept_address_v6: kept.v6.and_then(v6),
                    name_server: name_server.v4.and_then(v4),
                    name_server_v6: name_server.v6.and_then(v6),
                };
                if let Some(reply) = reply {
                    self.unvouched
                        .add(service, wired.ns_ip, attached, reply, now);
                }
            }
            Err(refusal) => {
                // The managers believe that it exists: take it back. One that moves still runs where it was.
                if !migrate {
                    self.end_of(instance.service, number, result.epoch);
                    self.tell_ended(now);
                }
                refuse(&service, reply, refusal);
            }
        }
    }

    /// Wires a workload, or takes note of a host.
    async fn place(
        &mut self,
        request: Request,
        place: Place,
        now: Duration,
    ) -> Result<Wired, Refusal> {
        let node = self.node()?;
        match place {
            Place::Workload(workload) => {
                let attachment = node.attach(request, workload).await?;
                self.watch.add(&attachment);
                Ok(Wired::from(&attachment))
            }
            Place::Host(address) => {
                let host = node
                    .run(move |net| net.attach_host(request.instance, address))
                    .await??;
                let wired = Wired::from(&host);
                self.add_host(host, now);
                Ok(wired)
            }
        }
    }

    pub(super) async fn detach(
        &mut self,
        detach: Detach,
        place: Option<Place>,
        now: Duration,
    ) -> Result<(), Refusal> {
        let service = parse_name(&detach.service)?;
        let node = self.node()?;
        let (attachments, hosts) = node
            .run(|net| (net.attachments().to_vec(), net.hosts().to_vec()))
            .await?;
        let here = |it: &Attachment| match &place {
            None => true,
            Some(Place::Workload(workload)) => it.namespace == workload.namespace.id(),
            Some(Place::Host(_)) => false,
        };
        let has = |host: &Host| match &place {
            None => true,
            Some(Place::Workload(_)) => false,
            Some(Place::Host(address)) => address
                .iter()
                .all(|ip| host.ns_ip().iter().any(|known| known.ip() == ip)),
        };
        let attachments = attachments.iter().filter(|it| here(it));
        let hosts = hosts.iter().filter(|it| has(it));
        let meant: Vec<u32> = attachments
            .map(|attachment| &attachment.instance)
            .chain(hosts.map(|host| &host.instance))
            .filter(|instance| {
                ServiceName::parse(&instance.service).is_ok_and(|name| name == service)
            })
            .map(|instance| instance.instance_number)
            .filter(|number| detach.instance_number.is_none_or(|n| n == *number))
            .collect();
        if meant.is_empty() {
            return Err(Refusal::UnknownInstance(format!(
                "an instance of {service}{}",
                detach
                    .target
                    .map(|target| format!(" in {target}"))
                    .unwrap_or_default()
            )));
        }
        for number in meant {
            self.end(&service, number, now).await?;
        }
        Ok(())
    }

    /// Ends a local instance on purpose.
    pub(super) async fn end(
        &mut self,
        service: &ServiceName,
        number: u32,
        now: Duration,
    ) -> Result<(), Refusal> {
        self.node()?;
        let instance = InstanceName {
            service: service.to_string(),
            instance_number: number,
        };
        self.watch.remove(&instance);
        self.remove_host(&instance);
        let was_listed = self.unlist(service, number, now);
        self.settle(now);
        let was_wired = self.unwire(instance.clone()).await?;
        if was_listed || was_wired {
            Ok(())
        } else {
            Err(Refusal::UnknownInstance(instance.to_string()))
        }
    }

    /// Detaches what the managers withdrew although it runs here: its service or its number was deleted, so that nobody
    /// can call it any more and its addresses will be another's.
    pub(crate) async fn detach_withdrawn(&mut self, now: Duration) {
        while let Some((service, number)) = self.withdrawn.pop_front() {
            tracing::warn!(%service, number, "the managers withdrew an instance that runs here: it is detached");
            if let Err(refusal) = self.end(&service, number, now).await {
                tracing::warn!(%refusal, "detaching a withdrawn instance");
            }
            // The number may be another's by now, elsewhere; its row was hidden by the instance here.
            if let Some(routes) = self.asker.routes(&service) {
                self.routes.set_job(&routes);
                self.routes_changed = true;
                self.settle(now);
            }
        }
    }

    /// Takes an instance out of routes, interests and the cluster's knowledge.
    pub(super) fn unlist(&mut self, service: &ServiceName, number: u32, now: Duration) -> bool {
        // Where it moved to takes over its flows before it is gone from here.
        let moved = self.asker.routes(service).and_then(|routes| {
            let row = routes.instances.iter().find(|row| row.number == number);
            row.cloned()
        });
        let known = match moved {
            Some(row) => self.routes.move_local(service, &row),
            None => self.routes.remove_local(service, number),
        };
        let listed = known.is_some();
        let nameless = self.nameless.remove(&(service.clone(), number)).is_some();
        if listed || nameless {
            self.asker.handle_local(service, number, false, now);
            self.end_of(
                service.to_string(),
                number,
                known.map_or(0, |local| local.epoch),
            );
            self.tell_ended(now);
            self.routes_changed = true;
            self.state_changed = true;
        }
        listed || nameless
    }

    pub(super) async fn unwire(&mut self, instance: InstanceName) -> Result<bool, Refusal> {
        let node = self.node()?;
        let host = instance.clone();
        let was_host = node.run(move |net| net.detach_host(&host)).await??;
        Ok(node.detach(instance).await?.is_some() || was_host)
    }

    /// A wired instance has its InstanceIP: it takes part from now on.
    pub(super) fn list(
        &mut self,
        service: &ServiceName,
        wired: &Wired,
        epoch: u64,
        instance_ip: Dual<InstanceIp>,
        now: Duration,
    ) {
        let number = wired.instance.instance_number;
        self.ended.remove(&(service.to_string(), number));
        self.routes.add_local(LocalInstance {
            job: service.clone(),
            number,
            epoch,
            instance_ip,
            ns_ip: wired.ns_ip,
            veth: wired.veth,
        });
        self.await_rules(service, number, wired.ns_ip, now);
        self.announce(wired, epoch);
        self.asker.handle_local(service, number, true, now);
        self.routes_changed = true;
        self.state_changed = true;
    }

    /// An instance that an earlier life of this gateway attached.
    pub(super) fn adopt(
        &mut self,
        attachment: Attachment,
        remembered: &[LocalState],
        now: Duration,
    ) {
        let Ok(service) = ServiceName::parse(&attachment.instance.service) else {
            return;
        };
        let number = attachment.instance.instance_number;
        self.watch.add(&attachment);
        self.routes.settle(&service, number);
        let wired = Wired::from(&attachment);
        if let Some(known) = LocalState::find(remembered, &service, number) {
            self.list(&service, &wired, known.epoch, known.instance_ip(), now);
        } else {
            self.announce(&wired, 0);
            self.nameless.insert(
                (service.clone(), number),
                Nameless {
                    attachment,
                    reply: None,
                },
            );
            self.asker.handle_local(&service, number, true, now);
            self.name_known(&service, number);
        }
    }

    /// Looks whether the managers have told the InstanceIP before.
    fn name_known(&mut self, service: &ServiceName, number: u32) {
        let row = self.asker.routes(service).and_then(|routes| {
            routes
                .instances
                .iter()
                .find(|row| row.number == number)
                .cloned()
        });
        if let Some(row) = row {
            self.name_instance(service, &row);
        }
    }

    /// The managers told an InstanceIP; if that instance waits for it here, it takes part from now on.
    pub(super) fn name_instance(&mut self, service: &ServiceName, row: &Row) {
        let Some(nameless) = self.nameless.remove(&(service.clone(), row.number)) else {
            return;
        };
        self.routes.add_local(LocalInstance {
            job: service.clone(),
            number: row.number,
            epoch: row.epoch,
            instance_ip: row.instance_ip,
            ns_ip: nameless.attachment.ns_ip(),
            veth: Some(nameless.attachment.veth()),
        });
        self.routes_changed = true;
        self.state_changed = true;
        // Workers see it before the caller does.
        self.publish();
        if let Some((reply, _)) = nameless.reply {
            let _ = reply.send(Ok(deployed(&nameless.attachment)));
        }
    }

    pub(super) fn lives_here(&self, service: &ServiceName, number: u32) -> bool {
        self.routes.local(service, number).is_some()
            || self.nameless.contains_key(&(service.clone(), number))
    }

    pub(super) fn node(&self) -> Result<Node, Refusal> {
        self.node.clone().ok_or(Refusal::NotRegistered)
    }

    /// When the next attachment or deployment has waited long enough.
    pub(super) fn waits_until(&self) -> Option<Duration> {
        let attaching = self.attaching.values().map(|(_, until)| *until);
        let deploying = self
            .nameless
            .values()
            .filter_map(|nameless| nameless.reply.as_ref().map(|(_, until)| *until));
        attaching.chain(deploying).min()
    }

    /// Attachments and deployments that waited too long are answered.
    pub(super) fn end_waits(&mut self, now: Duration) {
        let late: Vec<String> = self
            .attaching
            .iter()
            .filter(|(_, (_, until))| *until <= now)
            .map(|(request, _)| request.clone())
            .collect();
        for request in late {
            if let Some((attaching, _)) = self.attaching.remove(&request) {
                let away = format!(
                    "no instance of {} within {} s",
                    attaching.service,
                    ATTACH_WAIT.as_secs()
                );
                refuse(
                    &attaching.service,
                    attaching.reply,
                    Refusal::ManagersAway(away),
                );
            }
        }
        for nameless in self.nameless.values_mut() {
            if let Some((reply, _)) = nameless.reply.take_if(|(_, until)| *until <= now) {
                let instance = &nameless.attachment.instance;
                tracing::warn!(%instance, "deployed, but the managers have not said its InstanceIP yet");
                let _ = reply.send(Ok(deployed(&nameless.attachment)));
            }
        }
    }

    /// Asks again for what was not answered.
    pub(super) fn ask_instances(&self) {
        for request in self.attaching.keys() {
            self.ask_instance(request);
        }
    }
}

pub(super) fn parse_name(text: &str) -> Result<ServiceName, Refusal> {
    ServiceName::parse(text).map_err(|_| Refusal::ServiceName(text.to_owned()))
}

fn bad_mapping(error: crate::node::port_mapping::PortMappingError) -> Refusal {
    Refusal::BadRequest(error.to_string())
}

pub(super) async fn find(target: &AttachTarget) -> Result<Place, Refusal> {
    let pid = match target {
        AttachTarget::Pid(pid) => *pid,
        AttachTarget::Netns(path) => {
            return Workload::of_namespace(path)
                .map(Place::Workload)
                .map_err(|error| Refusal::NoTarget(error.to_string()));
        }
        AttachTarget::Container(id) => container::pid(id)
            .await
            .map_err(|error| Refusal::NoTarget(error.to_string()))?,
        AttachTarget::Host(address) => return Ok(Place::Host(*address)),
    };
    Workload::of_process(pid)
        .map(Place::Workload)
        .map_err(|error| Refusal::NoTarget(error.to_string()))
}

fn deployed(attachment: &Attachment) -> Deployed {
    Deployed {
        service: attachment.instance.service.clone(),
        ns_address: attachment.ns_address,
        ns_address_v6: attachment.ns_address_v6,
    }
}

fn map<T: Copy, U>(pair: Dual<T>, make: impl Fn(T) -> U) -> Dual<U> {
    Dual {
        v4: pair.v4.map(&make),
        v6: pair.v6.map(&make),
    }
}
