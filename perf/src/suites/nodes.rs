//! The two gateways that a comparison restarts again and again with another configuration, wherever they run.

mod hosts;

pub(super) use hosts::HostNodes;

use super::footprint::resident_mib_at;
use crate::lab::account::Accounts;
use crate::lab::sites::Sites;
use crate::lab::wire::{Carried, carried};
use crate::lab::{Host, LabError};
use crate::peers::vxlan::{self, Node, VxlanBetweenHosts, VxlanDnat};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr};

/// The kernel's own path between the same two nodes: its DNAT and VXLAN. Goes with the value.
pub(super) struct KernelPath {
    pub(super) client: Host,
    pub(super) server: Host,
    /// A second client, and its address.
    pub(super) other_client: Host,
    pub(super) other_address: Ipv4Addr,
    /// What the clients dial, and the server's own address.
    pub(super) service: Ipv4Addr,
    pub(super) server_address: Ipv4Addr,
    /// What precedes a packet from the first node to the second in the tunnel's datagram.
    pub(super) headers: Vec<u8>,
    _between_hosts: Option<VxlanBetweenHosts>,
}

/// Two nodes: the first is the caller's.
pub(super) trait Nodes {
    /// Restarts both gateways with these lines in their `[fastpath]` section, in place of what the last ones said.
    fn restart(&mut self, fastpath: &str) -> Result<(), LabError>;

    /// What a gateway (counted from 0) says about `status`, `drops` or `instances`: the rows of its admin socket.
    fn ask(&self, gateway: usize, about: &str) -> Result<Value, LabError>;

    fn status(&self, gateway: usize) -> Result<Value, LabError> {
        self.ask(gateway, "status")
    }

    /// The nodes themselves, and their addresses on the underlay.
    fn hosts(&self) -> [(Host, Ipv4Addr); 2];

    /// The machines whose CPU time all of this takes.
    fn machines(&self) -> &[Host];

    /// What the second node's end of the underlay has carried so far.
    fn carried(&self) -> Result<Carried, LabError>;

    /// Sets up the kernel's path beside the gateways'.
    fn kernel(&self) -> Result<KernelPath, LabError>;

    /// The account of a gateway's frames.
    fn account(&self, gateway: usize) -> Result<Accounts, LabError> {
        let (status, drops) = (self.status(gateway)?, self.ask(gateway, "drops")?);
        Accounts::parse(&status, &drops).ok_or_else(|| LabError::Reply {
            what: format!("status and drops of gateway {}", gateway + 1),
            text: status.to_string(),
        })
    }

    /// Resident memory of both gateways.
    fn resident_mib(&self) -> Result<f64, LabError> {
        let of = |gateway: usize, (host, _): &(Host, Ipv4Addr)| {
            let pid = self.status(gateway)?["pid"].as_u64().unwrap_or_default();
            resident_mib_at(host, u32::try_from(pid).unwrap_or_default())
        };
        let hosts = self.hosts();
        (0..)
            .zip(&hosts)
            .map(|(gateway, host)| of(gateway, host))
            .sum()
    }

    /// Restarts both gateways with links of one kind, `tun` or `af_xdp`, and checks that they have them.
    fn restart_with(&mut self, link: &str, lines: &str) -> Result<(), LabError> {
        self.restart(&format!("link = \"{link}\"\n{lines}"))?;
        for gateway in 0..2 {
            let workers = self.status(gateway)?["workers"].clone();
            let links = workers[0]["links"].as_array().cloned().unwrap_or_default();
            let service = links.first().and_then(|line| line.as_str()).unwrap_or("");
            if !service.starts_with(link) {
                return Err(LabError::Reply {
                    what: format!("the links of gateway {} with {link}", gateway + 1),
                    text: workers.to_string(),
                });
            }
        }
        Ok(())
    }
}

/// Gateways in namespaces of this machine.
impl Nodes for Sites {
    fn restart(&mut self, fastpath: &str) -> Result<(), LabError> {
        self.restart_gateways(fastpath)
    }

    fn ask(&self, gateway: usize, about: &str) -> Result<Value, LabError> {
        self.gateways[gateway].role.ask(&format!("/v1/{about}"))
    }

    fn hosts(&self) -> [(Host, Ipv4Addr); 2] {
        [0, 1].map(|gateway: usize| {
            let gateway = &self.gateways[gateway];
            let IpAddr::V4(address) = gateway.address[0] else {
                unreachable!("the first address is IPv4 by plan");
            };
            (gateway.namespace().into(), address)
        })
    }

    fn machines(&self) -> &[Host] {
        &[Host::Here]
    }

    fn carried(&self) -> Result<Carried, LabError> {
        carried(&self.gateways[1].namespace().into(), "eth0")
    }

    fn kernel(&self) -> Result<KernelPath, LabError> {
        let path = VxlanDnat::new(vxlan_node(self, 0), vxlan_node(self, 1))?;
        let (other, other_address) = VxlanDnat::another_client(vxlan_node(self, 0))?;
        Ok(KernelPath {
            client: (&path.client).into(),
            server: (&path.server).into(),
            other_client: (&other).into(),
            other_address,
            service: vxlan::SERVICE,
            server_address: vxlan::SERVER,
            headers: VxlanDnat::headers(vxlan_node(self, 0), vxlan_node(self, 1))?,
            _between_hosts: None,
        })
    }
}

/// A gateway's node (counted from 0), for the kernel's path.
fn vxlan_node(sites: &Sites, gateway: usize) -> Node<'_> {
    let gateway = &sites.gateways[gateway];
    Node {
        namespace: gateway.namespace(),
        address: gateway.address[0],
    }
}
