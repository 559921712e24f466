//! Other people's FORWARD chains with policy drop (Docker makes one): accept rules for our devices, found and removed
//! again by their comment.

use super::Wiring;
use super::netlink::NetlinkError;
use super::nft::{Batch, HOOK_FORWARD, ListedChain, Rule, list_chains, list_rules};

const COMMENT: &str = "sluice";
const RULES: usize = 3;

/// Makes every filter chain that drops forwarded packets by policy accept ours. Called again and again: whoever owns
/// the chain may flush it. Returns how many chains were changed.
///
/// An accept ends only the chain it is in, so what our own table drops stays dropped. A chain made by the legacy
/// iptables backend is not visible here.
pub(crate) fn accept(wiring: &Wiring) -> Result<usize, NetlinkError> {
    let mut changed = 0;
    for (chain, ours) in dropping_chains(&list_chains()?)? {
        if ours.len() == RULES {
            continue;
        }
        let mut batch = Batch::new();
        for handle in ours {
            batch.delete_rule(chain.family, &chain.table, &chain.name, handle);
        }
        for rule in [
            Rule::new().in_device(&wiring.uplink),
            Rule::new().out_device(&wiring.uplink),
            // Bridged frames pass here when br_netfilter is on.
            Rule::new().in_device(&wiring.bridge),
        ] {
            batch.insert(
                chain.family,
                &chain.table,
                &chain.name,
                &rule.count().accept().comment(COMMENT),
            );
        }
        batch.commit("accepting our devices in a FORWARD chain with policy drop")?;
        changed += 1;
    }
    Ok(changed)
}

/// A chain that drops forwarded packets by policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct DroppingChain {
    /// `ip filter FORWARD`
    pub(crate) name: String,
    /// Whether our rules are in it, so that it is no obstacle.
    pub(crate) accepts_ours: bool,
}

/// The chains that [`accept`] would look at; changes nothing.
pub(crate) fn dropping() -> Result<Vec<DroppingChain>, NetlinkError> {
    let chains = dropping_chains(&list_chains()?)?;
    Ok(chains
        .into_iter()
        .map(|(chain, ours)| DroppingChain {
            name: chain.to_string(),
            accepts_ours: ours.len() == RULES,
        })
        .collect())
}

/// Removes our rules wherever they are.
pub(crate) fn remove() -> Result<(), NetlinkError> {
    for chain in list_chains()? {
        if chain.table == COMMENT || (chain.hook != Some(HOOK_FORWARD) && chain.name != DOCKER_USER)
        {
            continue;
        }
        let mut batch = Batch::new();
        for handle in our_rules(&chain)? {
            batch.delete_rule(chain.family, &chain.table, &chain.name, handle);
        }
        batch.commit("removing our rules from a FORWARD chain")?;
    }
    Ok(())
}

/// Docker's chain for its users' rules: it runs first in FORWARD and survives Docker's restarts.
const DOCKER_USER: &str = "DOCKER-USER";

fn dropping_chains(chains: &[ListedChain]) -> Result<Vec<(ListedChain, Vec<u64>)>, NetlinkError> {
    let mut found = Vec::new();
    for base in chains {
        if base.hook != Some(HOOK_FORWARD) || !base.policy_drop {
            continue;
        }
        let place = chains
            .iter()
            .find(|other| {
                other.family == base.family
                    && other.table == base.table
                    && other.name == DOCKER_USER
            })
            .unwrap_or(base);
        found.push((place.clone(), our_rules(place)?));
    }
    Ok(found)
}

fn our_rules(chain: &ListedChain) -> Result<Vec<u64>, NetlinkError> {
    Ok(list_rules(chain.family, &chain.table, &chain.name)?
        .into_iter()
        .filter(|rule| rule.comment.as_deref() == Some(COMMENT))
        .map(|rule| rule.handle)
        .collect())
}
