//! The two gateways that a comparison restarts again and again with another configuration, wherever they run.

mod hosts;

pub(super) use hosts::HostNodes;

use crate::lab::sites::Sites;
use crate::lab::wire::{Carried, carried};
use crate::lab::{Host, LabError};
use crate::peers::vxlan::{Node, VxlanBetweenHosts, VxlanDnat};
use serde_json::Value;
use std::net::IpAddr;

/// The kernel's own path between the same two nodes: its DNAT and VXLAN. Goes with the value.
pub(super) struct KernelPath {
    pub(super) client: Host,
    pub(super) server: Host,
    /// What the client dials.
    pub(super) service: IpAddr,
    _between_hosts: Option<VxlanBetweenHosts>,
}

/// Two nodes: the first is the caller's.
pub(super) trait Nodes {
    /// Restarts both gateways with these lines in their `[fastpath]` section, in place of what the last ones said.
    fn restart(&mut self, fastpath: &str) -> Result<(), LabError>;

    /// What `/v1/status` of a gateway (counted from 0) says.
    fn status(&self, gateway: usize) -> Result<Value, LabError>;

    /// The machines whose CPU time all of this takes.
    fn machines(&self) -> &[Host];

    /// What the second node's end of the underlay has carried so far.
    fn carried(&self) -> Result<Carried, LabError>;

    /// Sets up the kernel's path beside the gateways'.
    fn kernel(&self) -> Result<KernelPath, LabError>;

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

    fn status(&self, gateway: usize) -> Result<Value, LabError> {
        self.gateways[gateway].role.ask("/v1/status")
    }

    fn machines(&self) -> &[Host] {
        &[Host::Here]
    }

    fn carried(&self) -> Result<Carried, LabError> {
        carried(&self.gateways[1].namespace().into(), "eth0")
    }

    fn kernel(&self) -> Result<KernelPath, LabError> {
        let path = VxlanDnat::new(vxlan_node(self, 0), vxlan_node(self, 1))?;
        Ok(KernelPath {
            client: (&path.client).into(),
            server: (&path.server).into(),
            service: path.service[0],
            _between_hosts: None,
        })
    }
}

/// A gateway's node (counted from 0), for the kernel's path.
pub(super) fn vxlan_node(sites: &Sites, gateway: usize) -> Node<'_> {
    let gateway = &sites.gateways[gateway];
    Node {
        namespace: gateway.namespace(),
        address: gateway.address[0],
    }
}
