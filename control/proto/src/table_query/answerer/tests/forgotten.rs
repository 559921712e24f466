//! A job that was forgotten and is fetched again: nodes that still have its rows believe the new answer.

use super::*;

fn revision_of(payload: &str) -> u64 {
    let result: TableQueryResult = read("rows", payload.as_bytes()).unwrap();
    result.revision.expect("answers have a revision").number
}

#[test]
fn a_job_fetched_again_goes_on_above_its_former_revision() {
    let mut answerer = knowing(vec![entry(0, "c2", true)]);
    answerer.changed(&name(), UpdateKind::Deployment);
    let told = published(&mut answerer);
    let former = revision_of(&told[0].1);
    assert!(former > 1);
    answerer.interest_lost(&name(), &node("n1"));
    answerer.drop_unused(&name());
    assert_eq!(answerer.jobs().count(), 0);
    drained(&mut answerer);
    ask(&mut answerer, "n1", JOB, Some(180));
    let requests = root_requests(&mut answerer);
    let fetch = requests.iter().find(|it| it.method == Method::Get);
    let id = fetch.expect("the job is fetched").id;
    let body = job(vec![entry(1, "c2", true)]);
    answerer.handle_root_reply(id, Some((200, &body)), s(1));
    let answers = published(&mut answerer);
    assert!(revision_of(&answers[0].1) > former, "{answers:?}");
}
