//! Nodes' subnets: given to clusters, and taken back when a node has left.

use super::{Caller, Grant, Refusal, Reply, Root, Work, refuse};
use crate::message::SubnetGrant;
use sluice_wire::Ip;

/// What is told of the giving with this number.
const fn id_of(number: u64) -> u64 {
    number + 1
}

impl Root {
    pub(super) fn subnet(
        &mut self,
        caller: &Caller,
        request_id: Option<&str>,
        now_s: u64,
        work: &mut Work,
    ) -> Result<Reply, Refusal> {
        let cluster = self.cluster_of(caller);
        let repeated = |grant: &&Grant| grant.request_id.as_deref() == request_id;
        if request_id.is_some()
            && let Some(grant) = self.grants.values().find(repeated)
        {
            if grant.rests_until_s.is_some() {
                return refuse(409, "the subnet of this request has been returned");
            }
            return Ok(Reply::json(&grant.subnet));
        }
        let networks = self
            .subnets
            .allocate(now_s)
            .or_else(|error| refuse(500, error.to_string()))?;
        let number = self.grants.last_key_value().map_or(0, |(last, _)| last + 1);
        self.grants.retain(|former, grant| {
            let given_again = grant.subnet.networks() == networks;
            if given_again {
                work.grants.insert(*former);
            }
            !given_again
        });
        let grant = Grant {
            subnet: SubnetGrant {
                subnet_addr: networks.v4,
                subnet_addr_v6: networks.v6,
                // Callers of Oakestra's kind, without a request id, get Oakestra's answer.
                grant_id: request_id.map_or(0, |_| id_of(number)),
            },
            cluster,
            request_id: request_id.map(str::to_owned),
            rests_until_s: None,
        };
        let reply = Reply::json(&grant.subnet);
        work.grants.insert(number);
        self.grants.insert(number, grant);
        Ok(reply)
    }

    /// A repeated return changes nothing, also when the subnet has been given again meanwhile.
    pub(super) fn subnet_return(
        &mut self,
        network: Ip,
        grant_id: Option<u64>,
        caller: &Caller,
        now_s: u64,
        work: &mut Work,
    ) -> Result<Reply, Refusal> {
        let cluster = self.cluster_of(caller);
        let found = self
            .grants
            .iter_mut()
            .find(|(_, grant)| grant.subnet.networks().iter().any(|it| it == network));
        let Some((number, grant)) = found else {
            return refuse(404, format!("no subnet that begins at {network} was given"));
        };
        let done = Ok(Reply::text(200, "returned"));
        if grant.rests_until_s.is_some() || grant_id.is_some_and(|id| id != id_of(*number)) {
            return done;
        }
        if let Some(owner) = &grant.cluster
            && cluster.as_ref() != Some(owner)
        {
            return refuse(
                409,
                format!("the subnet that begins at {network} was given to cluster {owner}"),
            );
        }
        let until_s = now_s.saturating_add(self.rests.subnets_s);
        grant.rests_until_s = Some(until_s);
        let networks = grant.subnet.networks();
        work.grants.insert(*number);
        self.subnets.release(&networks, until_s);
        done
    }
}
