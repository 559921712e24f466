//! Whoever asks again is answered as if for the first time.

use super::*;

const NAME: &str = "shop.tum.web.prod.any.rr.local.";

/// Two servers of the same names: one has been asked everything before, the other nothing.
fn compare(known: &Names, old: &mut Server<u32>, from: &str, query: &[u8]) {
    let mut new = server(known.clone());
    for server in [&mut *old, &mut new] {
        server.handle_query(query, ip(from), Transport::Udp, 1, NOW);
    }
    let [was, is] = [old, &mut new].map(|server| server.poll_reply().map(|reply| reply.bytes));
    assert_eq!(was, is, "{from}: {query:?}");
}

/// Valid queries with a byte or two changed, by any instance, again and again.
#[test]
fn an_answer_is_the_same_every_time() {
    let known = names();
    let base = [
        query(NAME, RecordType::A),
        query(NAME, RecordType::AAAA),
        query("shop.tum.web.prod.3.none.svc.example.", RecordType::ANY),
        query("shop.tum.none.prod.any.rr.local.", RecordType::A),
    ];
    let base = base.map(|query| query.to_vec().unwrap());
    let mut old = server(known.clone());
    bolero::check!()
        .with_type::<(u8, bool, [(u8, u8); 2])>()
        .for_each(|(which, stranger, changes)| {
            let from = if *stranger { STRANGER } else { CALLER };
            let whole = &base[usize::from(*which) % base.len()];
            let mut changed = whole.clone();
            for (at, by) in changes {
                let at = usize::from(*at) % changed.len();
                changed[at] ^= by;
            }
            for query in [whole, &changed, whole] {
                // What waits for others is bounded, and the one server has been asked more.
                let at_once = Message::from_vec(query).map_or(true, |query| {
                    let decision = decide(&old.zones, &known, ip(from), &query);
                    matches!(decision, Decision::Answer(..))
                });
                if at_once {
                    compare(&known, &mut old, from, query);
                }
            }
        });
}

#[test]
fn what_is_known_by_now_is_answered() {
    let mut first = names();
    first.set_negative(&first.decoy(&service(WEB)), Known::Absent);
    let mut server = server(first);
    let rr = query(NAME, RecordType::A);
    for _ in 0..2 {
        assert_eq!(addresses(&asked(&mut server, CALLER, &rr)).len(), 1);
        let refused = asked(&mut server, STRANGER, &rr);
        assert_eq!(refused.metadata.response_code, ResponseCode::NXDomain);
    }
    let mut moved = web();
    let entry = ServiceIpEntry::new(IpType::RoundRobin, pair("10.30.9.9", None));
    moved.service_ips = ServiceAddress::of_entry(&entry).into_iter().collect();
    let mut latest = names();
    assert!(latest.set_service(&moved));
    server.handle_names(Arc::new(latest.clone()));
    let reply = asked(&mut server, CALLER, &rr);
    assert_eq!(addresses(&reply), ["10.30.9.9".parse::<IpAddr>().unwrap()]);
    latest.set_callers([].into());
    server.handle_names(Arc::new(latest));
    let reply = asked(&mut server, CALLER, &rr);
    assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
}

/// Its id is the query's, it is counted, and its service stays in use.
#[test]
fn a_repeated_answer_is_one_like_any_other() {
    let names = Arc::new(names());
    let mut server = server(Names::default());
    server.handle_names(Arc::clone(&names));
    for id in [7, 0x1234, 0xffff] {
        let mut rr = query(NAME, RecordType::A);
        rr.metadata.id = id;
        assert_eq!(asked(&mut server, CALLER, &rr).metadata.id, id);
        assert_eq!(names.take_used().count(), 1);
    }
    assert_eq!(count(&server, Outcome::Answered), 3);
}

/// In whatever ways a query can be written: what is kept of it stays small.
#[test]
fn a_thousand_ways_to_ask_are_not_all_kept() {
    let mut server = server(names());
    for bits in 0..3000_u32 {
        let letters = NAME.chars().enumerate().map(|(at, letter)| {
            let upper = at < 12 && bits >> at & 1 == 1;
            if upper {
                letter.to_ascii_uppercase()
            } else {
                letter
            }
        });
        let name: String = letters.collect();
        let reply = asked(&mut server, CALLER, &query(&name, RecordType::A));
        assert_eq!(reply.queries[0].name().to_ascii(), name);
        assert_eq!(addresses(&reply).len(), 1);
        assert!(server.repeated.len() <= 1024);
    }
}
