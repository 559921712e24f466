//! Instances that have a row and that answers do not list, because there are more than a node is shown: nobody says when they
//! move. Those that packets use are named, to be asked for.

use super::Routes;
use sluice_proto::ServiceName;
use sluice_tables::{Instance, Placement};

impl Routes {
    /// Those that packets used at or after `since_s` of the workers' clock.
    #[must_use]
    pub fn used_unlisted(&self, since_s: u32) -> Vec<(ServiceName, u32)> {
        let all = self.unlisted();
        all.filter(|(.., row)| row.used.last_s() >= since_s)
            .map(|(name, number, _)| (name.clone(), number))
            .collect()
    }

    fn unlisted(&self) -> impl Iterator<Item = (&ServiceName, u32, &Instance)> {
        let tables = self.writer.tables();
        // Every number that is listed has a slot.
        let pruned = self
            .jobs
            .iter()
            .filter(|(_, job)| job.instances.len() > job.listed.len());
        pruned.flat_map(move |(name, job)| {
            let unlisted = job.instances.iter();
            let unlisted = unlisted.filter(|(number, _)| !job.listed.contains(number));
            unlisted.filter_map(move |(number, slot)| {
                let row = tables.instance(*slot)?;
                (row.placement != Placement::Local).then_some((name, *number, row))
            })
        })
    }
}
