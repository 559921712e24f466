//! Which profile fits a machine best, and why.

use crate::catalog::Catalog;
use crate::facts::Facts;
use crate::profile::{Match, Profile};

/// A profile that fits.
#[derive(Clone, Debug)]
pub struct Detected<'a> {
    pub profile: &'a Profile,
    /// What of the machine decided, in words.
    pub why: String,
}

impl Catalog {
    /// The profile that says the most about this machine. There is always one: `generic` fits all.
    #[must_use]
    pub fn detect(&self, facts: &Facts) -> Detected<'_> {
        let best = self
            .profiles()
            .filter_map(|profile| Some((fit(&profile.rules, facts)?, profile)))
            // Of equals the first by name, so that two machines alike choose alike.
            .reduce(|best, next| {
                if next.0.score > best.0.score {
                    next
                } else {
                    best
                }
            });
        let Some((fit, profile)) = best else {
            unreachable!("the shipped profile `generic` fits every machine")
        };
        Detected {
            profile,
            why: fit.why(facts),
        }
    }
}

/// How well rules fit.
struct Fit {
    score: u32,
    reasons: Vec<String>,
}

impl Fit {
    fn why(self, facts: &Facts) -> String {
        if self.reasons.is_empty() {
            let driver = facts.driver.as_deref().unwrap_or("none that sysfs names");
            return format!("no profile knows driver {driver}; the safe values");
        }
        self.reasons.join(", ")
    }
}

/// A board says more than a NIC on it, an exact PCI id more than a driver, and a kind of machine the least.
const MODEL: u32 = 32;
const PCI_DEVICE: u32 = 16;
const PCI_VENDOR: u32 = 8;
const DRIVER: u32 = 4;
const MACHINE: u32 = 1;

fn fit(rules: &Match, facts: &Facts) -> Option<Fit> {
    let mut fit = Fit {
        score: 0,
        reasons: Vec::new(),
    };
    if !rules.drivers.is_empty() {
        let driver = facts.driver.as_ref()?;
        rules.drivers.contains(driver).then_some(())?;
        fit.add(DRIVER, format!("driver {driver}"));
    }
    let pattern = facts.pci.and_then(|id| {
        let exact = |it: &&crate::PciPattern| it.device.is_some() && it.matches(id);
        let patterns = &rules.pci;
        let found = patterns
            .iter()
            .find(exact)
            .or_else(|| patterns.iter().find(|it| it.matches(id)))?;
        Some((id, found.device.is_some()))
    });
    match pattern {
        Some((id, true)) => fit.add(PCI_DEVICE, format!("PCI id {id}")),
        Some((id, false)) => fit.add(PCI_VENDOR, format!("PCI vendor of {id}")),
        // Without a driver to go by, the PCI id is the rule.
        None if rules.drivers.is_empty() && !rules.pci.is_empty() => return None,
        None => {
            if let (Some(id), false) = (facts.pci, rules.pci.is_empty()) {
                fit.reasons.push(format!(
                    "PCI id {id} is not in its list: perhaps a newer one of the family"
                ));
            }
        }
    }
    if !rules.models.is_empty() {
        let model = facts.model.as_ref()?;
        let found = rules
            .models
            .iter()
            .any(|start| model.starts_with(start.as_str()));
        found.then_some(())?;
        fit.add(MODEL, format!("model {model}"));
    }
    if !rules.machines.is_empty() {
        rules.machines.contains(&facts.machine).then_some(())?;
        fit.add(MACHINE, format!("machine {}", facts.machine));
    }
    if let Some(max) = rules.memory_mib_max {
        let memory = facts.memory_mib.filter(|&memory| memory <= max)?;
        fit.add(MACHINE, format!("{memory} MiB of memory, at most {max}"));
    }
    Some(fit)
}

impl Fit {
    fn add(&mut self, score: u32, reason: String) {
        self.score += score;
        self.reasons.push(reason);
    }
}
