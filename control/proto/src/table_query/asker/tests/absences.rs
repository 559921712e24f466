//! What ends the belief that nothing exists before its time is over.

use super::*;

/// The manager answers once more, unasked, when the key means something by now. Whoever needs it asks again.
#[test]
fn an_answer_nobody_asked_for_ends_an_absence_and_nothing_else() {
    let mut asker = asker();
    let key = Key::Address(ip("10.30.50.2"));
    asker.handle_question(&key, s(0));
    queries(&mut asker);
    asker.handle_result(&nothing("10.30.50.2"), s(0)).unwrap();
    assert_eq!(events(&mut asker), [Event::Absent { key: key.clone() }]);
    let late = ours("fdff:2000::1", 1, vec![instance(0, 1, 1)]);
    asker.handle_result(&late, s(0)).unwrap();
    assert_eq!(events(&mut asker), [], "of another key");
    let now = ours("10.30.50.2", 1, vec![instance(0, 1, 1)]);
    asker.handle_result(&now, s(0)).unwrap();
    assert_eq!(events(&mut asker), [Event::Unknown { key: key.clone() }]);
    assert_eq!(asker.jobs().count(), 0, "no interest comes of it");
    asker.handle_question(&key, s(0));
    assert_eq!(queries(&mut asker), ["10.30.50.2"]);
}

/// The job began to exist here while the question was on its way: its answer speaks of before.
#[test]
fn an_absence_from_before_an_instance_began_here_withdraws_nothing() {
    let mut asker = knowing(vec![instance(0, 1, 1)]);
    let update = UpdatesAvailable::default();
    asker.handle_update_available(&job(), &update, s(1));
    assert_eq!(queries(&mut asker), [JOB]);
    asker.handle_local(&job(), 0, true, s(1));
    asker.handle_result(&nothing(JOB), s(1)).unwrap();
    assert_eq!(events(&mut asker), []);
    assert_eq!(queries(&mut asker), [JOB], "it is asked once more");
    asker.handle_result(&nothing(JOB), s(1)).unwrap();
    assert!(matches!(
        events(&mut asker)[..],
        [Event::Withdrawn { number: 0, .. }, Event::Forgotten { .. }]
    ));
}
