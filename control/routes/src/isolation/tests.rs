//! Compiled permissions are those of names and rules.

use super::*;
use sluice_wire::{AddressPlan, Dual};

fn name(text: &str) -> ServiceName {
    text.parse().unwrap()
}

fn rule(from: &str, to: &str) -> Rule {
    Rule {
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
    }
}

/// Services of two tenants and a half, as learnt, changed and forgotten in any order: workers see what the naive
/// evaluation says of every pair that has an end here.
#[test]
fn workers_see_what_names_and_rules_say() {
    const NAMES: [&str; 5] = [
        "a.x.one.p",
        "b.X.two.P",
        "a.y.one.p",
        "a.y.two.p",
        "a.x.one.q",
    ];
    let rules = [
        rule("a.x.*.p", "*.y.*.*"),
        rule("*.*.*.*", "a.y.two.p"),
        rule("*.y.*.*", "a.x.one.p"),
        rule("a.x.one.q", "*.*.one.*"),
    ];
    bolero::check!()
        .with_type::<Vec<(u8, u8, u8)>>()
        .for_each(|steps| {
            let mut writer = Writer::new(AddressPlan::oakestra(), Dual::default());
            let mut tenancy = Tenancy::default();
            let mut model: BTreeMap<ServiceName, (ServiceSlot, Vec<Rule>, bool)> = BTreeMap::new();
            for (verb, which, with) in steps {
                let name = name(NAMES[usize::from(*which) % NAMES.len()]);
                let before = allowed(&model);
                match verb % 4 {
                    0 | 1 => {
                        let rules: Vec<Rule> = (0..rules.len())
                            .filter(|at| with >> at & 1 == 1 && rules[*at].to.matches(&name))
                            .map(|at| rules[at].clone())
                            .collect();
                        let slot = writer.upsert_service(&name.to_string(), &[]);
                        tenancy.set(&name, slot, &rules, &mut writer);
                        let is_local = model.get(&name).is_some_and(|known| known.2);
                        model.insert(name, (slot, rules, is_local));
                    }
                    2 => {
                        if let Some(known) = model.get_mut(&name) {
                            known.2 = with & 1 == 1;
                            tenancy.set_local(&name, known.2, &mut writer);
                        }
                    }
                    _ => {
                        if let Some((slot, ..)) = model.remove(&name) {
                            tenancy.forget(&name, &mut writer);
                            writer.forget_service(slot);
                        }
                    }
                }
                let now = allowed(&model);
                for (caller, callee) in pairs(&model) {
                    assert_eq!(
                        writer.tables().may_call(model[caller].0, model[callee].0),
                        now.contains(&(caller.clone(), callee.clone())),
                        "{caller} -> {callee}"
                    );
                }
                // Who lost a permission, both services being there still.
                let lost = before.difference(&now).any(|(caller, callee)| {
                    let there = |name| model.contains_key(name);
                    let matters = model.get(caller).is_some_and(|it| it.2)
                        || model.get(callee).is_some_and(|it| it.2);
                    there(caller) && there(callee) && matters
                });
                let revoked = tenancy.take_revoked();
                assert!(revoked || !lost);
            }
        });
}

/// Pairs of which one end is on this node.
fn pairs<T>(
    model: &BTreeMap<ServiceName, (ServiceSlot, T, bool)>,
) -> impl Iterator<Item = (&ServiceName, &ServiceName)> {
    model.iter().flat_map(move |(caller, one)| {
        let others = model.iter().filter(move |(_, other)| one.2 || other.2);
        others.map(move |(callee, _)| (caller, callee))
    })
}

fn allowed(
    model: &BTreeMap<ServiceName, (ServiceSlot, Vec<Rule>, bool)>,
) -> BTreeSet<(ServiceName, ServiceName)> {
    pairs(model)
        .filter(|(caller, callee)| may_call(caller, callee, &model[*callee].1))
        .map(|(caller, callee)| (caller.clone(), callee.clone()))
        .collect()
}
