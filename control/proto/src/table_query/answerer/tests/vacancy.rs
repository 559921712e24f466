//! What nobody has taken yet is told in turn.

use super::*;

#[test]
fn an_event_that_is_refused_does_not_keep_back_others() {
    let mut answerer = knowing(vec![entry(0, "c1", false)]);
    let deployed = Deployed {
        appname: JOB.to_owned(),
        status: "DEPLOYED".to_owned(),
        instance_number: 0,
        nsip: Some(Ip::v4([10, 18, 0, 2])),
        nsipv6: None,
        host_port: 50103,
        host_ip: Some(Ip::v4([192, 0, 2, 1])),
        epoch: 1,
        public_key: None,
        answers_probes: false,
    };
    answerer
        .handle_deployed(&node("n1"), &deployed, s(1))
        .unwrap();
    let undeployed = Undeployed {
        appname: JOB.to_owned(),
        instance_number: 0,
        epoch: 1,
    };
    answerer
        .handle_undeployed(&node("n1"), &undeployed, s(2))
        .unwrap();
    let (first, second) = (
        ServiceName::parse(JOB).unwrap(),
        ServiceName::parse("z.z.z.z").unwrap(),
    );
    let known = answerer.jobs[&first].clone();
    answerer.jobs.insert(second.clone(), known);
    answerer.owing.insert(second.clone());
    let next = |after: Option<&ServiceName>| answerer.untold(after).unwrap().service;
    assert_eq!(next(None), first);
    assert_eq!(next(Some(&first)), second);
    assert_eq!(next(Some(&second)), first, "and again");
}
