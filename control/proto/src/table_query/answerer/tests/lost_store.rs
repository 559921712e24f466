//! Ends of instances of which a manager that lost its store knows nothing, and the root knows still.

use super::leave::say;
use super::*;
use crate::message::Undeployed;

/// The root places instance 1 of this epoch on the node, as `attached` has it.
fn placed_on(who: &str, epoch: u64, attached: bool) -> Vec<u8> {
    let placed = InstanceEntry {
        worker_id: Some(who.to_owned()),
        epoch,
        ..entry(1, "c1", true)
    };
    let mut told: Job = read("job", &job(vec![placed])).unwrap();
    told.attached = if attached { vec![1] } else { Vec::new() };
    write(&told)
}

fn ended(epoch: u64) -> String {
    let undeployed = Undeployed {
        appname: JOB.to_owned(),
        instance_number: 1,
        epoch,
    };
    String::from_utf8(write(&undeployed)).unwrap()
}

/// What the root hears when `n1` says that its instance with this epoch ended, as method and path, and the manager.
fn heard_of(epoch: u64, root: &[u8]) -> (Vec<(Method, String)>, Answerer) {
    let mut answerer = answerer();
    say(
        &mut answerer,
        "n1",
        "service/undeployed",
        &ended(epoch),
        s(1),
    );
    say(
        &mut answerer,
        "n1",
        "service/undeployed",
        &ended(epoch),
        s(1),
    );
    let asked = root_requests(&mut answerer);
    assert_eq!(asked.len(), 1, "the job, once: {asked:?}");
    answerer.handle_root_reply(asked[0].id, Some((200, root)), s(1));
    let said = root_requests(&mut answerer).into_iter();
    let said = said.map(|request| (request.method, request.path)).collect();
    (said, answerer)
}

#[test]
fn what_a_node_asked_for_is_deleted() {
    let (said, _) = heard_of(9, &placed_on("n1", 9, true));
    assert_eq!(said[0].0, Method::Delete);
    assert!(said[0].1.contains("/1?"), "{said:?}");
    assert!(said[0].1.contains("epoch=9"), "{said:?}");
}

/// An orchestrator may start it again.
#[test]
fn what_an_orchestrator_scheduled_runs_nowhere_and_exists() {
    for epoch in [0, 9] {
        let (said, answerer) = heard_of(epoch, &placed_on("n1", 9, false));
        assert_eq!(said[0].0, Method::Post);
        assert!(said[0].1.contains("net_deploy_status"), "{said:?}");
        let view = answerer.view(&name(), &node("nobody")).unwrap();
        assert_eq!(view.live, Some(vec![(1, 9)]));
        assert!(!view.instance_list[0].is_placed());
    }
}

#[test]
fn what_runs_elsewhere_or_began_later_stays() {
    for root in [placed_on("n2", 9, false), placed_on("n1", 10, false)] {
        let (said, answerer) = heard_of(9, &root);
        assert_eq!(said, []);
        let view = answerer.view(&name(), &node("nobody")).unwrap();
        assert!(view.instance_list[0].is_placed());
    }
}

/// The end that is being told already is not told in another way.
#[test]
fn a_repeated_word_changes_nothing() {
    let (_, mut answerer) = heard_of(9, &placed_on("n1", 9, true));
    say(&mut answerer, "n1", "service/undeployed", &ended(9), s(2));
    assert_eq!(root_requests(&mut answerer), []);
    assert_eq!(
        answerer.view(&name(), &node("nobody")).unwrap().live,
        Some(vec![])
    );
}

/// It said that the instance runs, while the job could not be fetched, and then that it knows of nothing.
#[test]
fn what_ran_on_a_node_that_lost_its_state_too_has_ended() {
    let mut answerer = answerer();
    let deployed = r#"{"appname":"a.b.c.d","status":"DEPLOYED","instance_number":1,"nsip":"10.18.0.2","nsipv6":"fc00::2","host_port":"50103","host_ip":"192.0.2.9","epoch":9}"#;
    say(&mut answerer, "n1", "service/deployed", deployed, s(1));
    let fresh = r#"{"METHOD":"GET","fresh":77}"#;
    say(&mut answerer, "n1", "subnet", fresh, s(2));
    let asked = root_requests(&mut answerer);
    let mut of_job = asked.iter().filter(|it| it.path.contains("a_b_c_d"));
    let asked = of_job.next().unwrap();
    assert_eq!(of_job.next(), None, "once");
    answerer.handle_root_reply(asked.id, Some((200, &placed_on("n1", 9, true))), s(3));
    let said = root_requests(&mut answerer);
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(said[0].method, Method::Delete);
    assert!(said[0].path.contains("epoch=9"), "{said:?}");
}
