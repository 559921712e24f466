//! What a caller of the thesis's node API brings along, which otherwise the managers say: the subnet and InstanceIPs.

use super::Core;
use crate::command::Refusal;
use sluice_proto::message::SubnetResult;
use sluice_wire::{Dual, Family, InstanceIp, Ip, Subnet};
use std::time::Duration;

impl Core {
    /// Wires the node with this subnet.
    pub(super) async fn register_subnet(
        &mut self,
        subnet: &Dual<Subnet>,
        now: Duration,
    ) -> Result<(), Refusal> {
        self.is_node_subnet(subnet)?;
        let granted = SubnetResult {
            address: subnet.v4.map(|subnet| subnet.network()),
            addressv6: subnet.v6.map(|subnet| subnet.network()),
            held: Vec::new(),
        };
        let Some(registration) = &mut self.registration else {
            return Err(Refusal::BadRequest(
                "set gateway.cluster first: /api/register names a subnet, but no cluster"
                    .to_owned(),
            ));
        };
        if let Some(known) = &registration.subnet
            && *known != granted
        {
            return Err(Refusal::Conflict(format!(
                "this node has another subnet, {}; set gateway.subnet_by_caller, or run `sluice gateway --remove` first",
                shown(known)
            )));
        }
        registration.subnet = Some(granted.clone());
        if self.node.is_some() {
            return Ok(());
        }
        self.wire(&granted, now)
            .await
            .map_err(|error| Refusal::Wiring(error.to_string()))
    }

    fn is_node_subnet(&self, subnet: &Dual<Subnet>) -> Result<(), Refusal> {
        let plan = &self.config.plan;
        if subnet.iter().next().is_none() {
            return Err(Refusal::BadRequest("`subnetwork` is missing".to_owned()));
        }
        for subnet in subnet.iter() {
            let family = subnet.network().family();
            let length = match family {
                Family::V4 => plan.node_length_v4,
                Family::V6 => plan.node_length_v6,
            };
            let range = plan.nodes.of(family);
            let fits = range.is_some_and(|range| range.contains(subnet.network()))
                && subnet.length() == length
                && !plan.semantic.iter().any(|range| range.overlaps(&subnet));
            if !fits {
                let range = range.map_or_else(|| "no range".to_owned(), |range| range.to_string());
                return Err(Refusal::BadRequest(format!(
                    "{subnet} is no node subnet of this plan: a /{length} of {range} outside the semantic range"
                )));
            }
        }
        Ok(())
    }

    /// The addresses, if they are in the semantic range.
    pub(super) fn in_plan(&self, ips: Dual<InstanceIp>) -> Result<Dual<InstanceIp>, Refusal> {
        for ip in ips.iter().map(InstanceIp::ip) {
            let range = self.config.plan.semantic.of(ip.family());
            if !range.is_some_and(|range| range.contains(ip)) {
                return Err(Refusal::BadRequest(format!(
                    "{ip} is outside the semantic range of this plan"
                )));
            }
        }
        Ok(ips)
    }
}

fn shown(subnet: &SubnetResult) -> String {
    let networks: Vec<String> = [subnet.address, subnet.addressv6]
        .into_iter()
        .flatten()
        .map(|ip: Ip| ip.to_string())
        .collect();
    networks.join(" and ")
}
