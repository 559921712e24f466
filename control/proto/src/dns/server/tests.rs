//! Queries as bytes in, replies as messages out.

mod left_out;
mod repeated;
mod tenants;

use super::*;
use crate::ServiceName;
use crate::dns::names::Known;
use crate::message::{IpType, ServiceIpEntry};
use crate::table_query::asker::Routes;
use crate::table_query::{Row, ServiceAddress};
use hickory_proto::op::Query;
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use sluice_wire::{Dual, InstanceIp};
use std::collections::BTreeSet;
use std::net::IpAddr;

const NOW: Duration = Duration::from_secs(100);
const CALLER: &str = "10.18.0.2";
/// An instance of another tenant.
const STRANGER: &str = "10.18.0.3";
const WEB: &str = "shop.tum.web.prod";

fn ip(text: &str) -> Ip {
    text.parse().unwrap()
}

fn service(text: &str) -> ServiceName {
    ServiceName::parse(text).unwrap()
}

fn about(text: &str) -> Question {
    Question {
        service: service(text),
        instance: None,
    }
}

fn pair(v4: &str, v6: Option<&str>) -> Dual<Ip> {
    Dual {
        v4: Some(ip(v4)),
        v6: v6.map(ip),
    }
}

fn web() -> Routes {
    let address = |ip_type, ips| ServiceAddress::of_entry(&ServiceIpEntry::new(ip_type, ips));
    let instance = pair("10.30.0.7", Some("fdff::7"));
    Routes {
        job: service(WEB),
        service_ips: [
            address(IpType::RoundRobin, pair("10.30.1.1", Some("fdff:1::1"))),
            address(IpType::Closest, pair("10.30.2.1", None)),
        ]
        .into_iter()
        .flatten()
        .collect(),
        instances: vec![Row {
            number: 3,
            epoch: 1,
            instance_ip: Dual {
                v4: instance.v4.map(InstanceIp::new),
                v6: instance.v6.map(InstanceIp::new),
            },
            place: None,
            cluster_id: None,
            reply_only: false,
            former: Vec::new(),
        }],
        rules: Vec::new(),
        unlisted: BTreeSet::new(),
    }
}

fn callers(names: &mut Names) {
    let caller = |at: &str, name: &str| (ip(at), Arc::new(service(name)));
    names.set_callers(
        [
            caller(CALLER, "shop.TUM.client.prod"),
            caller(STRANGER, "shop.tum.client.test"),
        ]
        .into(),
    );
}

fn names() -> Names {
    let mut names = Names::default();
    callers(&mut names);
    assert!(names.set_service(&web()));
    names
}

fn server(names: Names) -> Server<u32> {
    let mut server = Server::new(
        Zones::new(Some("svc.example")).unwrap(),
        Settings::default(),
        Arc::default(),
    );
    server.handle_names(Arc::new(names));
    server
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0xbeef, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message
        .queries
        .push(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn give(server: &mut Server<u32>, from: &str, query: &Message) {
    server.handle_query(&query.to_vec().unwrap(), ip(from), Transport::Udp, 1, NOW);
}

fn taken(server: &mut Server<u32>) -> Option<Message> {
    let reply = server.poll_reply()?;
    assert!(reply.bytes.len() <= 512);
    Some(Message::from_vec(&reply.bytes).unwrap())
}

fn asked(server: &mut Server<u32>, from: &str, query: &Message) -> Message {
    give(server, from, query);
    taken(server).expect("a reply at once")
}

fn addresses(message: &Message) -> Vec<IpAddr> {
    let address = |data: &RData| data.ip_addr().expect("an address");
    message
        .answers
        .iter()
        .map(|record| address(&record.data))
        .collect()
}

fn count(server: &Server<u32>, outcome: Outcome) -> u64 {
    server.counts.of(outcome)
}

#[test]
fn every_choice_has_its_address() {
    let mut server = server(names());
    for (name, kind, expected) in [
        (
            "shop.tum.web.prod.any.rr.local.",
            RecordType::A,
            &["10.30.1.1"][..],
        ),
        (
            "shop.tum.web.prod.any.rr.local.",
            RecordType::AAAA,
            &["fdff:1::1"],
        ),
        (
            "shop.tum.web.prod.any.rr.local.",
            RecordType::ANY,
            &["10.30.1.1", "fdff:1::1"],
        ),
        (
            "SHOP.tum.Web.prod.ANY.rr.SVC.example.",
            RecordType::A,
            &["10.30.1.1"],
        ),
        (
            "shop.tum.web.prod.any.closest.local.",
            RecordType::A,
            &["10.30.2.1"],
        ),
        (
            "shop.tum.web.prod.3.none.local.",
            RecordType::A,
            &["10.30.0.7"],
        ),
        (
            "shop.tum.web.prod.3.none.local.",
            RecordType::AAAA,
            &["fdff::7"],
        ),
    ] {
        let reply = asked(&mut server, CALLER, &query(name, kind));
        assert_eq!(
            reply.metadata.response_code,
            ResponseCode::NoError,
            "{name}"
        );
        let expected: Vec<IpAddr> = expected.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(addresses(&reply), expected, "{name}");
        assert!(reply.metadata.authoritative && reply.metadata.recursion_desired);
        assert_eq!(reply.metadata.id, 0xbeef);
        assert!(
            reply.queries[0]
                .name()
                .eq_case(&Name::from_ascii(name).unwrap())
        );
        assert!(
            reply.answers[0]
                .name
                .eq_case(&Name::from_ascii(name).unwrap())
        );
    }
    assert_eq!(count(&server, Outcome::Answered), 7);
}

#[test]
fn negative_answers_show_the_authority() {
    let mut server = server(names());
    for (from, name, kind, code) in [
        (
            CALLER,
            "shop.tum.web.prod.any.closest.local.",
            RecordType::AAAA,
            ResponseCode::NoError,
        ),
        (
            CALLER,
            "shop.tum.web.prod.any.rr.local.",
            RecordType::TXT,
            ResponseCode::NoError,
        ),
        (CALLER, "local.", RecordType::A, ResponseCode::NoError),
        (
            CALLER,
            "shop.tum.web.prod.4.none.local.",
            RecordType::A,
            ResponseCode::NXDomain,
        ),
        (
            CALLER,
            "shop.tum.web.prod.0.rr.local.",
            RecordType::A,
            ResponseCode::NXDomain,
        ),
        (
            CALLER,
            "printer.local.",
            RecordType::A,
            ResponseCode::NXDomain,
        ),
    ] {
        let reply = asked(&mut server, from, &query(name, kind));
        assert_eq!(reply.metadata.response_code, code, "{name}");
        assert!(reply.answers.is_empty(), "{name}");
        let [authority] = reply.authorities.as_slice() else {
            panic!("{name}: {reply}");
        };
        assert!(matches!(&authority.data, RData::SOA(soa) if soa.minimum == authority.ttl));
        assert_eq!(authority.name.to_ascii(), "local.");
    }
    let reply = asked(&mut server, CALLER, &query("local.", RecordType::SOA));
    assert!(matches!(reply.answers[0].data, RData::SOA(_)));
}

#[test]
fn a_question_is_asked_once_and_answers_everybody() {
    let mut names = Names::default();
    callers(&mut names);
    let mut server = server(names.clone());
    let a = query("shop.tum.web.prod.any.rr.local.", RecordType::A);
    let instance = query("shop.tum.web.prod.9.none.local.", RecordType::A);
    for query in [&a, &a, &instance] {
        give(&mut server, CALLER, query);
    }
    assert_eq!(server.poll_question(), Some(about(WEB)));
    assert_eq!(server.poll_question(), None);
    assert_eq!(server.open(), 3);
    server.handle_names(Arc::new(names.clone()));
    assert!(taken(&mut server).is_none(), "nothing was said about it");
    names.set_service(&web());
    server.handle_names(Arc::new(names));
    let codes: Vec<_> = std::iter::from_fn(|| taken(&mut server))
        .map(|reply| reply.metadata.response_code)
        .collect();
    let (yes, no) = (ResponseCode::NoError, ResponseCode::NXDomain);
    assert_eq!(codes, [yes, yes, no]);
    assert_eq!((server.open(), server.poll_timeout()), (0, None));
}

#[test]
fn what_nobody_can_say_fails_in_time() {
    let mut names = Names::default();
    callers(&mut names);
    let mut server = server(names.clone());
    let a = query("shop.tum.web.prod.any.rr.local.", RecordType::A);
    give(&mut server, CALLER, &a);
    let due = server.poll_timeout().unwrap();
    assert!(due < NOW + Duration::from_secs(1));
    server.handle_timeout(due);
    assert_eq!(
        taken(&mut server).unwrap().metadata.response_code,
        ResponseCode::ServFail
    );
    assert_eq!((server.open(), server.poll_timeout()), (0, None));
    for (known, code) in [
        (Known::Unresolved, ResponseCode::ServFail),
        (Known::Absent, ResponseCode::NXDomain),
    ] {
        names.set_negative(&service(WEB), known);
        server.handle_names(Arc::new(names.clone()));
        let reply = asked(&mut server, CALLER, &a);
        assert_eq!(reply.metadata.response_code, code);
    }
    assert_eq!(count(&server, Outcome::Unresolved), 2);
}

#[test]
fn a_source_cannot_take_the_places_of_others() {
    let mut names = Names::default();
    callers(&mut names);
    let mut server = server(names);
    let settings = Settings::default();
    for number in 0..settings.open_per_source_max {
        let foreign = format!("n{number}.example.");
        let ours = format!("shop.tum.n{number}.prod.any.rr.local.");
        let name = if number % 2 == 0 { foreign } else { ours };
        give(&mut server, CALLER, &query(&name, RecordType::A));
    }
    assert!(taken(&mut server).is_none());
    let reply = asked(
        &mut server,
        CALLER,
        &query("one.more.example.", RecordType::A),
    );
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(count(&server, Outcome::Overloaded), 1);
    give(&mut server, STRANGER, &query("example.", RecordType::A));
    assert!(taken(&mut server).is_none(), "the other one is served");
    while let Some(forward) = server.poll_forward() {
        server.handle_forwarded(forward, None);
    }
    server.handle_timeout(NOW + settings.wait);
    assert_eq!(server.open(), 0);
}

#[test]
fn only_instances_are_served_and_only_queries_answered() {
    let mut server = server(names());
    let a = query("shop.tum.web.prod.any.rr.local.", RecordType::A);
    let reply = asked(&mut server, "10.18.0.9", &a);
    assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
    let change = |change: fn(&mut Message)| {
        let mut message = a.clone();
        change(&mut message);
        message
    };
    for (message, code) in [
        (
            change(|it| it.metadata.op_code = OpCode::Notify),
            ResponseCode::NotImp,
        ),
        (change(|it| it.queries.clear()), ResponseCode::FormErr),
        (
            change(|it| it.queries.push(it.queries[0].clone())),
            ResponseCode::FormErr,
        ),
        (
            change(|it| {
                it.queries[0].set_query_class(DNSClass::CH);
            }),
            ResponseCode::Refused,
        ),
        (
            change(|it| {
                it.queries[0].set_query_type(RecordType::AXFR);
            }),
            ResponseCode::Refused,
        ),
        (
            change(|it| {
                it.set_edns(Edns::new())
                    .edns
                    .as_mut()
                    .unwrap()
                    .set_version(1);
            }),
            ResponseCode::BADVERS,
        ),
    ] {
        let reply = asked(&mut server, CALLER, &message);
        // 16 has two names (RFC 6895), and is read back as the other one.
        let [is, expected] = [reply.metadata.response_code, code].map(u16::from);
        assert_eq!(is, expected, "{message}");
    }
    give(
        &mut server,
        CALLER,
        &change(|it| it.metadata.message_type = MessageType::Response),
    );
    assert!(taken(&mut server).is_none(), "a response is never answered");
    let bytes = a.to_vec().unwrap();
    for (from, answered) in [(CALLER, true), ("10.18.0.9", false)] {
        server.handle_query(&bytes[..20], ip(from), Transport::Udp, 1, NOW);
        assert_eq!(taken(&mut server).is_some(), answered);
    }
    server.handle_query(&bytes[..11], ip(CALLER), Transport::Udp, 1, NOW);
    assert!(taken(&mut server).is_none());
}

/// The answer of an upstream resolver to a forwarded query, with that many bytes behind the question.
fn upstream_answer(forward: &Forward<u32>, more: usize) -> Vec<u8> {
    let mut exchange = forward.exchange(&[], NOW);
    let _ = exchange.poll_step(0x5555, NOW);
    let mut bytes = exchange.query().to_ascii_lowercase();
    bytes[2] |= 0x80;
    bytes.extend(vec![0; more]);
    bytes
}

#[test]
fn a_relayed_answer_has_the_clients_id_and_letters() {
    let mut server = server(names());
    let foreign = query("Www.ExAmple.", RecordType::A);
    give(&mut server, CALLER, &foreign);
    let forward = server.poll_forward().unwrap();
    let answer = upstream_answer(&forward, 0);
    server.handle_forwarded(forward, Some(answer));
    let reply = taken(&mut server).unwrap();
    assert_eq!(reply.metadata.id, 0xbeef);
    assert!(reply.queries[0].name().eq_case(foreign.queries[0].name()));
    assert_eq!(count(&server, Outcome::Forwarded), 1);
}

#[test]
fn what_is_too_long_for_the_client_is_cut_off() {
    let mut server = server(names());
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    let plain = query("www.example.", RecordType::TXT);
    let mut with_edns = plain.clone();
    with_edns.set_edns(edns);
    for (message, over, more, cut) in [
        (&plain, Transport::Udp, 480, false),
        (&plain, Transport::Udp, 500, true),
        (&with_edns, Transport::Udp, 1000, false),
        (&with_edns, Transport::Udp, 1300, true),
        (&plain, Transport::Tcp, 30_000, false),
    ] {
        server.handle_query(&message.to_vec().unwrap(), ip(CALLER), over, 1, NOW);
        let forward = server.poll_forward().unwrap();
        let answer = upstream_answer(&forward, more);
        let len = answer.len();
        server.handle_forwarded(forward, Some(answer));
        let reply = server.poll_reply().unwrap().bytes;
        assert_eq!(reply[2] & 0x02 != 0, cut, "{over:?} {more}");
        assert_eq!(reply.len() == len, !cut);
    }
}

#[test]
fn a_name_that_is_resolved_counts_as_used() {
    let names = Arc::new(names());
    let mut server = server(Names::default());
    server.handle_names(Arc::clone(&names));
    assert_eq!(names.take_used().count(), 0);
    let rr = query("shop.tum.web.prod.any.rr.local.", RecordType::A);
    give(&mut server, STRANGER, &rr);
    assert_eq!(names.take_used().count(), 0, "whoever may not call it");
    asked(
        &mut server,
        CALLER,
        &query("shop.tum.web.prod.any.rr.local.", RecordType::A),
    );
    assert_eq!(names.take_used().collect::<Vec<_>>(), [&service(WEB)]);
    assert_eq!(names.take_used().count(), 0);
}

/// Any bytes at all, alone or behind the header of a query: no panic, at most one reply, exactly one end, and a reply
/// that others can read.
#[test]
fn any_bytes_end_in_one_way() {
    let mut server = server(names());
    let mut ends = 0;
    bolero::check!().for_each(|bytes: &[u8]| {
        let mut headed = vec![0xbe, 0xef, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        headed.extend_from_slice(bytes);
        for bytes in [bytes, &headed] {
            server.handle_query(bytes, ip(CALLER), Transport::Udp, 1, NOW);
            ends += 1;
            if let Some(forward) = server.poll_forward() {
                server.handle_forwarded(forward, None);
            }
            server.handle_timeout(NOW + Duration::from_secs(1));
            let reply = server.poll_reply();
            assert!(server.poll_reply().is_none());
            if let Some(reply) = reply {
                let message = Message::from_vec(&reply.bytes).expect("ours");
                assert_eq!(message.metadata.message_type, MessageType::Response);
                assert_eq!(reply.bytes[..2], bytes[..2]);
            }
            assert_eq!(server.open(), 0);
            let counted: u64 = Outcome::ALL.iter().map(|&it| server.counts.of(it)).sum();
            assert_eq!(counted, ends);
        }
    });
}

/// The question, or its answer, was lost: whoever came later is not made to wait for nothing.
#[test]
fn a_question_is_repeated_while_others_wait() {
    let mut server = server(names());
    let unknown = query("shop.tum.shop.prod.any.rr.local.", RecordType::A);
    give(&mut server, CALLER, &unknown);
    let wait = Settings::default().wait;
    let bytes = unknown.to_vec().unwrap();
    server.handle_query(&bytes, ip(CALLER), Transport::Udp, 2, NOW + wait / 2);
    let question = about("shop.tum.shop.prod");
    assert_eq!(server.poll_question(), Some(question.clone()));
    assert_eq!(server.poll_question(), None, "one question for both");
    server.handle_timeout(NOW + wait);
    assert_eq!(server.poll_question(), Some(question));
    server.handle_timeout(NOW + wait * 2);
    assert_eq!(server.poll_question(), None, "nobody waits");
    assert_eq!(server.open(), 0);
}

#[test]
fn an_instance_that_invents_names_makes_few_questions_and_harms_nobody() {
    let mut server = server(names());
    let burst = server.settings.unknown_burst;
    let mut now = NOW;
    let invent = |server: &mut Server<u32>, count: u32, now: Duration| {
        let mut questions = 0;
        for number in 0..count {
            let name = format!("s{number}.x{}.y.z.any.rr.local.", now.as_millis());
            let bytes = query(&name, RecordType::A).to_vec().unwrap();
            server.handle_query(&bytes, ip(CALLER), Transport::Udp, 1, now);
            // Each is answered before the next is asked, so that none is refused for being one of too many.
            if let Some(question) = server.poll_question() {
                questions += 1;
                let mut known = names();
                known.set_negative(&question.service, Known::Absent);
                server.handle_names(Arc::new(known));
            }
            assert!(server.poll_reply().is_some());
        }
        questions
    };
    assert_eq!(invent(&mut server, 2 * burst, now), burst);
    let limited = server.counts.of(Outcome::Limited);
    assert_eq!(limited, u64::from(burst));
    // What it calls is answered all the same, and so are others.
    let known = query("shop.tum.web.prod.any.rr.local.", RecordType::A);
    let reply = asked(&mut server, CALLER, &known);
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    let unknown = query("a.b.c.d.any.rr.local.", RecordType::A);
    give(&mut server, STRANGER, &unknown);
    assert_eq!(server.poll_question(), Some(about("a.b.c.d")));
    now += 10 * server.settings.unknown_every;
    assert_eq!(invent(&mut server, 20, now), 10);
    now += 2 * burst * server.settings.unknown_every;
    assert_eq!(invent(&mut server, 2 * burst, now), burst);
}
