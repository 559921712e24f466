//! The gateways of two hosts that others set up.

use super::{KernelPath, Nodes};
use crate::lab::wire::{Carried, carried};
use crate::lab::{Host, LabError};
use crate::peers::vxlan::{self, VxlanBetweenHosts};
use crate::suites::gateway::GatewayAt;
use crate::suites::places::Places;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;

const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// The device under test and the sink, with a gateway each.
#[derive(Debug)]
pub(in crate::suites) struct HostNodes {
    gateways: [GatewayAt; 2],
    /// Their hosts' addresses on the underlay.
    addresses: [Ipv4Addr; 2],
    machines: Vec<Host>,
    /// At the sink.
    underlay: String,
}

impl HostNodes {
    /// `sluice` is where that program is on both hosts.
    pub(in crate::suites) fn new(places: &Places, sluice: &Path) -> Result<Self, LabError> {
        let [dut, sink] = [&places.dut, &places.sink].map(|place| place.machine(&places.shell));
        let last = |interfaces: &[String]| interfaces.last().cloned().unwrap_or_default();
        let underlays = [last(&places.dut.interfaces), last(&places.sink.interfaces)];
        let addresses = [dut.address(&underlays[0])?, sink.address(&underlays[1])?];
        let gateways = [
            GatewayAt::new(dut, &places.gateway, sluice)?,
            GatewayAt::new(sink, &places.gateway, sluice)?,
        ];
        let mut machines = Vec::new();
        let mut boots = BTreeSet::new();
        for gateway in &gateways {
            if boots.insert(gateway.host().read(BOOT)?) {
                machines.push(gateway.host().clone());
            }
        }
        let [_, underlay] = underlays;
        Ok(Self {
            gateways,
            addresses,
            machines,
            underlay,
        })
    }
}

impl Nodes for HostNodes {
    fn restart(&mut self, fastpath: &str) -> Result<(), LabError> {
        for gateway in &self.gateways {
            gateway.restart(fastpath)?;
        }
        self.gateways.iter().try_for_each(GatewayAt::ready)
    }

    fn ask(&self, gateway: usize, about: &str) -> Result<Value, LabError> {
        self.gateways[gateway].ask(about)
    }

    fn hosts(&self) -> [(Host, Ipv4Addr); 2] {
        [0, 1].map(|node: usize| (self.gateways[node].host().clone(), self.addresses[node]))
    }

    fn machines(&self) -> &[Host] {
        &self.machines
    }

    fn carried(&self) -> Result<Carried, LabError> {
        carried(self.gateways[1].host(), &self.underlay)
    }

    fn kernel(&self) -> Result<KernelPath, LabError> {
        let path = VxlanBetweenHosts::new(self.hosts())?;
        Ok(KernelPath {
            client: path.client.clone(),
            server: path.server.clone(),
            other_client: path.other_client.clone(),
            other_address: vxlan::OTHER_CLIENT,
            service: vxlan::SERVICE,
            server_address: vxlan::SERVER,
            headers: path.headers()?,
            _between_hosts: Some(path),
        })
    }
}
