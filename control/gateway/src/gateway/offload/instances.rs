//! What entries take from the rows of instances: under which version it is believed.

use super::{Refused, for_good};
use sluice_link::offload::Offload;
use sluice_link::offload::abi::{INSTANCES_MAX, Versioned};
use sluice_routes::Veth;
use sluice_tables::slots::Slot;
use sluice_tables::{Instance, InstanceSlot, InstanceState, Placement, Tables};
use sluice_wire::{Dual, InstanceIp, Ip, NsIp};
use std::collections::BTreeMap;

/// The instances of offloaded flows, and of those before.
#[derive(Debug, Default)]
pub(super) struct Instances {
    rows: BTreeMap<InstanceSlot, (u32, Option<Row>)>,
    /// Local instances that packets are delivered to without the bridge.
    veths: BTreeMap<Ip, Veth>,
}

/// All that an entry takes from an instance's row.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Row {
    epoch: u32,
    placement: Placement,
    instance_ip: Dual<InstanceIp>,
    ns_ip: Dual<NsIp>,
    veth: Option<Veth>,
}

impl Instances {
    /// The version under which what `tables` say of the instance is believed.
    pub(super) fn version(
        &mut self,
        slot: InstanceSlot,
        tables: &Tables,
        programs: &mut Offload,
    ) -> Result<Versioned, Refused> {
        if slot.index() >= INSTANCES_MAX {
            return Err(for_good("its instance's slot is too high"));
        }
        let row = tables
            .instance(slot)
            .and_then(|row| Row::of(row, &self.veths));
        let (version, known) = self.rows.entry(slot).or_insert((0, row));
        if *known != row {
            *version += 1;
            *known = row;
            let written = programs.set_instance_version(slot.index(), *version);
            written.map_err(|_| for_good("the kernel refused it"))?;
        }
        Ok(Versioned {
            slot: slot.index(),
            version: *version,
        })
    }

    /// Has entries not believed any more of which `next` or `veths` say something new.
    pub(super) fn revoke(
        &mut self,
        next: &Tables,
        veths: BTreeMap<Ip, Veth>,
        programs: &mut Offload,
    ) {
        self.veths = veths;
        for (slot, (version, known)) in &mut self.rows {
            let row = next
                .instance(*slot)
                .and_then(|row| Row::of(row, &self.veths));
            if *known != row {
                *known = row;
                *version += 1;
                if let Err(error) = programs.set_instance_version(slot.index(), *version) {
                    tracing::error!(%error, "revoking offloaded flows");
                }
            }
        }
    }

    /// The veth pair that leads to a local instance.
    pub(super) fn veth(&self, instance: Ip) -> Option<&Veth> {
        self.veths.get(&instance)
    }

    /// Whether something new was said since.
    pub(super) fn is_stale(&self, pin: Versioned) -> bool {
        let current = self.rows.get(&InstanceSlot::from_index(pin.slot));
        current.is_none_or(|(version, _)| *version != pin.version)
    }
}

impl Row {
    fn of(row: &Instance, veths: &BTreeMap<Ip, Veth>) -> Option<Self> {
        let is_local = row.placement == Placement::Local;
        (row.state != InstanceState::Withdrawn).then_some(Self {
            epoch: row.epoch,
            placement: row.placement,
            instance_ip: row.instance_ip,
            ns_ip: row.ns_ip,
            veth: row
                .ns_ip
                .iter()
                .filter(|_| is_local)
                .find_map(|ip| veths.get(&ip.ip()).copied()),
        })
    }
}
