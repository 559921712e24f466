//! An instance that flows use is asked for when answers do not list it.

use super::*;

/// An answer that lists the first instance, and says that both live.
fn pruned(key: &str, number: u64) -> TableQueryResult {
    let mut answer = ours(key, number, vec![instance(0, 1, 1)]);
    answer.live = Some(vec![(0, 1), (1, 1)]);
    answer
}

#[test]
fn what_is_used_and_not_listed_is_asked_for_by_its_address() {
    let mut asker = knowing(vec![instance(0, 1, 1), instance(1, 1, 2)]);
    let use_all = |asker: &mut Asker, now| {
        for number in 0..3 {
            asker.handle_used_instance(&job(), number, now);
        }
        queries(asker)
    };
    assert_eq!(use_all(&mut asker, s(1)), [""; 0], "listed");
    asker.handle_result(&pruned("", 2), s(1)).unwrap();
    asker.handle_connection(false, s(1));
    assert_eq!(use_all(&mut asker, s(1)), [""; 0], "nobody hears it");
    asker.handle_connection(true, s(1));
    assert_eq!(use_all(&mut asker, s(2)), ["10.30.0.2"]);
    assert_eq!(use_all(&mut asker, s(3)), [""; 0], "asked a moment ago");
    // A manager that does not list it is not asked all the time.
    asker.handle_result(&pruned("10.30.0.2", 2), s(3)).unwrap();
    assert_eq!(use_all(&mut asker, s(11)), [""; 0]);
    assert_eq!(use_all(&mut asker, s(12)), ["10.30.0.2"]);
    let mut moved = instance(1, 1, 2);
    moved.host_ip = Some(ip("192.0.2.7"));
    events(&mut asker);
    let both = ours("10.30.0.2", 3, vec![instance(0, 1, 1), moved]);
    asker.handle_result(&both, s(13)).unwrap();
    assert_eq!(listed(&mut asker), [0, 1]);
    assert_eq!(use_all(&mut asker, s(60)), [""; 0], "listed");
    // The manager has forgotten what was asked for.
    asker.handle_result(&pruned("", 4), s(60)).unwrap();
    assert_eq!(use_all(&mut asker, s(60)), ["10.30.0.2"]);
}

#[test]
fn what_is_asked_for_by_number_and_not_listed_is_named_in_every_question() {
    let mut asker = knowing(vec![instance(0, 1, 1)]);
    let named = |asker: &mut Asker| -> Vec<Vec<u32>> {
        std::iter::from_fn(|| asker.poll_transmit())
            .filter_map(|transmit| match transmit {
                Transmit::Query(request) => Some(request.instances.into_iter().collect()),
                Transmit::InterestRemove(_) | Transmit::Subscribe(_) | Transmit::Unsubscribe(_) => {
                    None
                }
            })
            .collect()
    };
    let none: [Vec<u32>; 0] = [];
    asker.handle_result(&pruned("", 2), s(1)).unwrap();
    for listed_or_ended in [0, 2] {
        asker.handle_instance_question(&job(), listed_or_ended, s(1));
    }
    assert_eq!(named(&mut asker), none);
    events(&mut asker);
    for _ in 0..3 {
        asker.handle_instance_question(&job(), 1, s(2));
    }
    assert_eq!(named(&mut asker), [[1]], "one question");
    let both = vec![instance(0, 1, 1), instance(1, 1, 2)];
    asker.handle_result(&ours(JOB, 2, both), s(2)).unwrap();
    assert_eq!(listed(&mut asker), [0, 1], "of the same revision");
    // A session that ended, or a manager that began anew.
    asker.handle_connection(false, s(4));
    asker.handle_connection(true, s(4));
    asker.handle_timeout(s(9));
    assert_eq!(named(&mut asker), [[1]]);
    let ended = ours(JOB, 3, vec![instance(0, 1, 1)]);
    asker.handle_result(&ended, s(9)).unwrap();
    asker.handle_connection(false, s(10));
    asker.handle_connection(true, s(10));
    asker.handle_timeout(s(15));
    assert_eq!(named(&mut asker), [[0_u32; 0]], "it ended");
}
