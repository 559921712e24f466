//! Two gateways on one cable of this machine, clients at the first and a service at the second.

use super::Settings;
use crate::lab::scratch::Scratch;
use crate::lab::sites::{Attached, Cable, Layout, Microservice, Sites, Target, descriptor};
use crate::lab::{LabError, NetNs};
use std::net::{IpAddr, Ipv4Addr};

const APP: &str = "bench.sluice";
const SERVICE_IP: [&str; 2] = ["10.30.91.1", "fdff:2000::91"];

/// An instance.
pub(super) struct Member {
    pub(super) namespace: NetNs,
    pub(super) attached: Attached,
}

/// The cable: one veth pair, frames of MTU size, GRO at the receiver; or what [`Pair::joined`] was told.
pub(super) struct Pair {
    pub(super) sites: Sites,
    /// Instances of services of their own, at the first gateway.
    pub(super) clients: Vec<Member>,
    /// Instances of the service, at the second gateway.
    pub(super) servers: Vec<Member>,
    /// The round-robin ServiceIP.
    pub(super) service: IpAddr,
}

impl Pair {
    pub(super) fn new(
        settings: &Settings,
        clients: &[&str],
        servers: &[&str],
    ) -> Result<Self, LabError> {
        Self::joined(settings, Cable::Pair, clients, servers)
    }

    /// The same over another cable.
    pub(super) fn joined(
        settings: &Settings,
        cable: Cable,
        clients: &[&str],
        servers: &[&str],
    ) -> Result<Self, LabError> {
        let layout = Layout::measured(2, cable);
        let scratch = Scratch::new("sluice-perf-pair")?;
        let sites = Sites::new(&settings.sluice, scratch, &layout)?;
        let microservice = |name, rr_ip| Microservice {
            rr_ip,
            ..Microservice::measured(name)
        };
        let services: Vec<Microservice<'_>> =
            std::iter::once(microservice("sink", Some(SERVICE_IP)))
                .chain(clients.iter().map(|name| microservice(name, None)))
                .collect();
        sites.apply(&descriptor("bench", "sluice", &services))?;
        let attached = |gateway, service: &str, name: &str| {
            let namespace = NetNs::new(name)?;
            let service = format!("{APP}.{service}.perf");
            let attached = sites.attach(gateway, &service, Target::Namespace(&namespace))?;
            Ok(Member {
                namespace,
                attached,
            })
        };
        let clients = clients
            .iter()
            .map(|name| attached(0, name, name))
            .collect::<Result<_, LabError>>()?;
        let servers = servers
            .iter()
            .map(|name| attached(1, "sink", name))
            .collect::<Result<_, LabError>>()?;
        Ok(Self {
            sites,
            clients,
            servers,
            service: SERVICE_IP[0]
                .parse()
                .unwrap_or_else(|_| unreachable!("the address above is well-formed")),
        })
    }
}

/// An address of the laboratory that is IPv4 by its plan.
pub(super) fn v4(address: IpAddr) -> Result<Ipv4Addr, LabError> {
    match address {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(_) => Err(LabError::Reply {
            what: "an IPv4 address".to_owned(),
            text: address.to_string(),
        }),
    }
}
