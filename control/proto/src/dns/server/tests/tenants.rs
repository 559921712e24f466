//! Who may know which name.

use super::*;
use crate::isolation::{Isolation, Rule};

/// Byte for byte as a name that does not exist.
#[test]
fn another_tenants_names_do_not_exist() {
    let mut names = names();
    names.set_negative(&service("shop.tum.other.prod"), Known::Absent);
    names.set_negative(&names.decoy(&service(WEB)), Known::Absent);
    let mut server = server(names);
    for name in [
        "shop.tum.web.prod.any.rr.local.",
        "shop.tum.other.prod.any.rr.local.",
    ] {
        let reply = asked(&mut server, STRANGER, &query(name, RecordType::A));
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(reply.authorities.len(), 1);
    }
}

/// One name of another tenant's that is known, and one that nobody has: what happens to queries about them.
#[test]
fn another_tenants_names_cost_as_much_and_fail_like_those_that_do_not_exist() {
    let known = "shop.tum.web.prod.any.rr.local.";
    let invented = "shop.tum.other.prod.any.rr.local.";
    let base = names();
    let fates = |name: &str| {
        let mut server = server(base.clone());
        let query = query(name, RecordType::A);
        give(&mut server, STRANGER, &query);
        let asked = server.poll_question().expect("the managers are asked");
        assert!(taken(&mut server).is_none());
        server.handle_timeout(server.poll_timeout().unwrap());
        let mut fates = vec![taken(&mut server).unwrap().metadata.response_code];
        for said in [Known::Unresolved, Known::Absent] {
            give(&mut server, STRANGER, &query);
            assert_eq!(server.poll_question().as_ref(), Some(&asked));
            let mut names = base.clone();
            names.set_negative(&asked.service, said);
            server.handle_names(Arc::new(names));
            fates.push(taken(&mut server).unwrap().metadata.response_code);
            server.handle_names(Arc::new(base.clone()));
        }
        fates
    };
    let (failure, no) = (ResponseCode::ServFail, ResponseCode::NXDomain);
    assert_eq!(fates(known), [failure, failure, no]);
    assert_eq!(fates(known), fates(invented));
}

/// The first question about a service is a real one.
#[test]
fn what_turns_out_to_be_another_tenants_does_not_exist() {
    let mut unknowing = Names::default();
    callers(&mut unknowing);
    let mut server = server(unknowing.clone());
    let question = query("shop.tum.web.prod.any.rr.local.", RecordType::A);
    give(&mut server, STRANGER, &question);
    assert_eq!(server.poll_question(), Some(about(WEB)));
    unknowing.set_service(&web());
    server.handle_names(Arc::new(unknowing));
    let reply = taken(&mut server).unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(reply.authorities.len(), 1);
    assert_eq!((server.open(), server.poll_question()), (0, None));
}

#[test]
fn another_tenants_names_exist_for_whom_a_rule_allows_to_call() {
    let mut names = names();
    let mut routes = web();
    routes.rules = vec![Rule {
        from: "shop.tum.client.*".parse().unwrap(),
        to: WEB.parse().unwrap(),
    }];
    assert!(names.set_service(&routes), "a rule is news");
    let mut server = server(names);
    let question = query("shop.tum.web.prod.any.rr.local.", RecordType::A);
    let reply = asked(&mut server, STRANGER, &question);
    assert_eq!(reply.answers.len(), 1);
}

#[test]
fn names_are_hidden_only_where_calls_are_refused() {
    for isolation in [Isolation::Observe, Isolation::Off] {
        let mut names = Names::new(isolation);
        callers(&mut names);
        names.set_service(&web());
        let question = query("shop.tum.web.prod.any.rr.local.", RecordType::A);
        let reply = asked(&mut server(names), STRANGER, &question);
        assert_eq!(reply.answers.len(), 1, "{isolation:?}");
    }
}
