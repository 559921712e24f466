//! Instances to which delivery fails, while answers list all instances, and while they list some.

use super::*;

/// An answer that lists some of three instances.
fn pruned(number: u64, listed: Vec<InstanceEntry>) -> TableQueryResult {
    let mut answer = ours(JOB, number, listed);
    answer.live = Some(vec![(0, 1), (1, 1), (2, 1)]);
    answer
}

fn asker_with(answer: &TableQueryResult) -> Asker {
    let mut asker = knowing(vec![instance(0, 1, 1), instance(1, 1, 2)]);
    asker.handle_result(answer, s(1)).unwrap();
    queries(&mut asker);
    asker
}

/// What each question that leaves says of instances that cannot be reached.
fn said(asker: &mut Asker) -> Vec<Option<Vec<u32>>> {
    std::iter::from_fn(|| asker.poll_transmit())
        .filter_map(|transmit| match transmit {
            Transmit::Query(request) => {
                Some(request.unreachable.map(|all| all.into_iter().collect()))
            }
            Transmit::InterestRemove(_) | Transmit::Subscribe(_) | Transmit::Unsubscribe(_) => None,
        })
        .collect()
}

#[test]
fn one_question_is_asked_and_says_nothing_more_while_all_instances_are_listed() {
    let all = ours(JOB, 2, vec![instance(0, 1, 1), instance(1, 1, 2)]);
    let mut asker = asker_with(&all);
    asker.handle_failure(&job(), [0].into(), s(2));
    asker.handle_suspects(&job(), [0].into(), s(2));
    asker.handle_suspects(&job(), [].into(), s(2));
    assert_eq!(said(&mut asker), [None]);
}

#[test]
fn where_instances_are_left_out_others_are_asked_for_until_those_are_there_again() {
    let mut asker = asker_with(&pruned(2, vec![instance(0, 1, 1)]));
    asker.handle_failure(&job(), [0].into(), s(2));
    asker.handle_suspects(&job(), [0].into(), s(2));
    assert_eq!(said(&mut asker), [Some(vec![0])], "one question");
    let others = pruned(3, vec![instance(1, 1, 2)]);
    asker.handle_result(&others, s(2)).unwrap();
    asker.handle_suspects(&job(), [0].into(), s(3));
    assert_eq!(said(&mut asker), [], "the manager knows");
    asker.handle_suspects(&job(), [0, 1].into(), s(3));
    assert_eq!(
        said(&mut asker),
        [Some(vec![0, 1])],
        "listed, and not reached either"
    );
    asker
        .handle_result(&pruned(4, vec![instance(2, 1, 3)]), s(3))
        .unwrap();
    // A session that ended, or a manager that began anew.
    asker.handle_connection(false, s(4));
    asker.handle_connection(true, s(4));
    asker.handle_timeout(s(9));
    assert_eq!(said(&mut asker), [Some(vec![0, 1])]);
    asker
        .handle_result(&pruned(5, vec![instance(2, 1, 3)]), s(9))
        .unwrap();
    asker.handle_suspects(&job(), [].into(), s(10));
    assert_eq!(
        said(&mut asker),
        [Some(vec![])],
        "also the end of it is told"
    );
}

/// The answer to a question that left before the failure lists those that failed, however new it is.
#[test]
fn a_failure_while_a_question_is_on_its_way_is_told_by_the_next() {
    let mut asker = asker_with(&pruned(2, vec![instance(0, 1, 1)]));
    let update = UpdatesAvailable {
        revision: Some(Revision {
            incarnation: 1,
            number: 3,
        }),
        ..UpdatesAvailable::default()
    };
    asker.handle_update_available(&job(), &update, s(2));
    assert_eq!(said(&mut asker), [Some(vec![])]);
    asker.handle_failure(&job(), [0].into(), s(2));
    assert_eq!(said(&mut asker), []);
    asker
        .handle_result(&pruned(3, vec![instance(0, 1, 1)]), s(2))
        .unwrap();
    assert_eq!(said(&mut asker), [Some(vec![0])]);
}

/// Some are suspect already when an answer lists no longer all.
#[test]
fn suspects_are_told_as_soon_as_instances_are_left_out() {
    let all = ours(JOB, 2, vec![instance(0, 1, 1), instance(1, 1, 2)]);
    let mut asker = asker_with(&all);
    asker.handle_suspects(&job(), [0].into(), s(2));
    assert_eq!(said(&mut asker), []);
    let mut push = pruned(3, vec![instance(0, 1, 1)]);
    push.query_key = String::new();
    asker.handle_result(&push, s(3)).unwrap();
    assert_eq!(said(&mut asker), [Some(vec![0])]);
}

/// What one life of the manager was told the next one does not know.
#[test]
fn a_manager_that_began_anew_is_told_again() {
    let mut asker = asker_with(&pruned(2, vec![instance(0, 1, 1)]));
    asker.handle_failure(&job(), [0].into(), s(2));
    assert_eq!(said(&mut asker), [Some(vec![0])]);
    let mut anew = pruned(1, vec![instance(0, 1, 1)]);
    anew.revision = Some(Revision {
        incarnation: 2,
        number: 1,
    });
    asker.handle_result(&anew, s(3)).unwrap();
    assert_eq!(said(&mut asker), [Some(vec![0])]);
}
