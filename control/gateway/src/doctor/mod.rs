//! `sluice doctor`: what on this machine stands in the gateway's way, what it costs, and the fix.
//!
//! [`facts`] gathers, in one place, everything that is looked at; [`checks`] is a list of pure rules over these facts;
//! [`fix`] makes the safe changes and takes them back; [`report`] prints.

pub(crate) mod facts;
pub(crate) mod finding;
pub(crate) mod checks;
pub(crate) mod fix;
pub(crate) mod report;

use facts::Facts;
use finding::Finding;

/// Applies every rule, worst findings first, otherwise in the order of the list.
pub(crate) fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = checks::ALL
        .iter()
        .flat_map(|check| {
            (check.rule)(facts).into_iter().map(|verdict| Finding {
                check: check.id,
                verdict,
            })
        })
        .collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.verdict.severity));
    findings
}

#[cfg(test)]
mod tests;
