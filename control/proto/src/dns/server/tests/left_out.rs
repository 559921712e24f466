//! Instances that the managers leave out of long answers.

use super::*;

/// Those that live are asked for by number, also when nothing of the service was known before.
#[test]
fn an_instance_that_was_left_out_is_asked_for() {
    let mut names = Names::default();
    callers(&mut names);
    let mut server = server(names.clone());
    let left_out = query("shop.tum.web.prod.77.none.local.", RecordType::A);
    give(&mut server, CALLER, &left_out);
    assert_eq!(server.poll_question(), Some(about(WEB)));
    let mut routes = web();
    routes.unlisted = [77].into();
    names.set_service(&routes);
    server.handle_names(Arc::new(names.clone()));
    assert!(taken(&mut server).is_none());
    let mut question = about(WEB);
    question.instance = Some(77);
    assert_eq!(server.poll_question(), Some(question));
    let mut row = routes.instances[0].clone();
    row.number = 77;
    row.instance_ip.v4 = Some(InstanceIp::new(ip("10.30.0.77")));
    routes.instances.push(row);
    routes.unlisted.clear();
    assert!(names.set_service(&routes), "more is known");
    server.handle_names(Arc::new(names));
    let reply = taken(&mut server).unwrap();
    assert_eq!(reply.answers.len(), 1);
    assert_eq!((server.open(), server.poll_timeout()), (0, None));
    let ended = query("shop.tum.web.prod.78.none.local.", RecordType::A);
    let reply = asked(&mut server, CALLER, &ended);
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
}
