//! What a rule opens is asked for before everything else when the broker can be reached again.

use super::*;
use crate::isolation::Rule;
use std::collections::BTreeSet;

#[test]
fn after_a_reconnect_what_a_rule_opens_is_asked_for_at_once_and_what_is_used_first() {
    let mut asker = asker();
    let rule = Rule {
        from: "shop.acme.*.prod".parse().unwrap(),
        to: "a.b.*.d".parse().unwrap(),
    };
    let is_opened = |number: usize| number.is_multiple_of(100);
    let snapshot: Vec<_> = (0..2000)
        .map(|number| TableQueryResult {
            app_name: format!("a.b.c{number}.d"),
            rules: Vec::from_iter(is_opened(number).then(|| rule.clone())),
            ..legacy("", vec![instance(0, 1, 1)])
        })
        .collect();
    asker.restore(&snapshot, s(0));
    while asker.poll_transmit().is_some() {}
    for (used, at) in [("a.b.c1700.d", 18), ("a.b.c300.d", 19), ("a.b.c7.d", 20)] {
        asker.handle_used(&used.parse().unwrap(), s(at));
    }
    asker.handle_connection(false, s(30));
    asker.handle_connection(true, s(30));
    // Twenty of them, at 2,500 a second. Of the others one in a hundred has its turn by chance.
    asker.handle_timeout(s(30) + Duration::from_millis(8));
    let asked = queries(&mut asker);
    assert!((20..60).contains(&asked.len()), "{}", asked.len());
    let number_of = |job: &String| -> usize {
        let digits = job
            .strip_prefix("a.b.c")
            .and_then(|it| it.strip_suffix(".d"));
        digits.unwrap().parse().unwrap()
    };
    let opened = asked.iter().map(number_of).filter(|it| is_opened(*it));
    let opened: Vec<usize> = opened.collect();
    assert_eq!(opened.len(), 20);
    assert_eq!(opened[..2], [300, 1700], "used");
    // The others have not been forgotten.
    asker.handle_timeout(s(40));
    let all = BTreeSet::from_iter(asked.into_iter().chain(queries(&mut asker)));
    assert_eq!(all.len(), 2000);
}
