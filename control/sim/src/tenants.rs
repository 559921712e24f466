//! Tenants, and the rules by which one may call another: what operators do, and who may reach whom by it.

use crate::world::World;
use sluice_proto::ServiceName;
use sluice_proto::isolation::{Pattern, Rule, may_call};
use sluice_proto::table_query::root::Command;
use std::collections::BTreeSet;
use std::time::Duration;

/// Application namespace and service namespace of the service applied as the `applied`th. Most are one tenant, so that
/// much is said within it.
#[must_use]
pub const fn namespaces(applied: u64) -> (&'static str, &'static str) {
    match applied % 8 {
        3 | 5 => ("far", "test"),
        7 => ("ns", "prod"),
        _ => ("ns", "test"),
    }
}

/// The rules as operators made them.
#[derive(Debug, Default)]
pub struct Rules {
    in_force: BTreeSet<Rule>,
    /// Revoked so lately that not every gateway may know.
    lingering: BTreeSet<Rule>,
    /// Ever revoked: what they allowed may have been cut, though another rule allows it.
    revoked: BTreeSet<Rule>,
}

impl Rules {
    fn add(&mut self, rule: Rule) {
        self.lingering.remove(&rule);
        self.in_force.insert(rule);
    }

    fn revoke(&mut self, rule: &Rule) {
        self.in_force.remove(rule);
        self.lingering.insert(rule.clone());
        self.revoked.insert(rule.clone());
    }

    /// Every gateway has had the time to hear of all revocations.
    pub fn have_reached_all(&mut self) {
        self.lingering.clear();
    }

    /// Whether the call is allowed now.
    #[must_use]
    pub fn allow(&self, caller: &ServiceName, callee: &ServiceName) -> bool {
        may_call(caller, callee, &self.in_force)
    }

    /// Whether a packet of the call may reach the callee: the call is allowed, or was a moment ago.
    #[must_use]
    pub fn let_through(&self, caller: &ServiceName, callee: &ServiceName) -> bool {
        may_call(caller, callee, self.in_force.union(&self.lingering))
    }

    /// Whether a conversation of the two may have been cut.
    #[must_use]
    pub fn cut(&self, caller: &ServiceName, callee: &ServiceName) -> bool {
        !may_call(caller, callee, []) && may_call(caller, callee, &self.revoked)
    }
}

impl World {
    /// An operator lets a service call another, or everybody of its application namespace.
    pub fn add_rule(&mut self, from: usize, to: usize, is_wide: bool) {
        let services = &self.services;
        let name = |which: usize| services.get(which % services.len().max(1));
        let (Some(from), Some(to)) = (name(from), name(to)) else {
            return;
        };
        let [_, app_ns, _, _] = from.parts();
        let from = if is_wide {
            format!("*.{app_ns}.*.*")
        } else {
            from.to_string()
        };
        let to = to.to_string();
        self.rule(&from, &to);
    }

    /// An operator lets everybody call everybody.
    pub fn add_rule_for_all(&mut self) {
        self.rule("*.*.*.*", "*.*.*.*");
    }

    fn rule(&mut self, from: &str, to: &str) {
        let pattern = |text: &str| -> Pattern { text.parse().expect("a pattern") };
        let rule = Rule {
            from: pattern(from),
            to: pattern(to),
        };
        if self.root.up && self.tell_root(&Command::RuleAdd(rule.clone())) {
            self.note(format!("rule {rule}"));
            self.truth.rules.add(rule);
            self.wait_for_the_roots_disk();
        }
    }

    /// An operator revokes a rule.
    pub fn revoke_rule(&mut self, which: usize) {
        let rules = &self.truth.rules.in_force;
        let Some(rule) = rules.iter().nth(which % rules.len().max(1)).cloned() else {
            return;
        };
        if self.root.up && self.tell_root(&Command::RuleDelete(rule.clone())) {
            self.note(format!("revoke {rule}"));
            self.truth.rules.revoke(&rule);
            self.wait_for_the_roots_disk();
        }
    }

    /// An operator revokes all rules.
    pub fn revoke_all_rules(&mut self) {
        for _ in 0..self.truth.rules.in_force.len() {
            self.revoke_rule(0);
        }
    }

    /// Whether the root does it.
    fn tell_root(&mut self, command: &Command) -> bool {
        let applied = self.root.apply(command, self.now, Duration::ZERO);
        applied.reply.status == 200
    }
}
