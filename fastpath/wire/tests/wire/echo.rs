//! Echo between gateways.

use crate::packets::{FAMILIES, host};
use sluice_wire::checksum::{verify_ipv4_header, verify_l4};
use sluice_wire::icmp_echo::{REQUEST_LEN_MAX, reply, request, turn_round};
use sluice_wire::{IcmpKind, parse};

#[test]
fn a_request_is_turned_into_its_reply_in_both_families() {
    for family in FAMILIES {
        let (from, to) = (host(family, 1), host(family, 2));
        let mut bytes = [0; REQUEST_LEN_MAX];
        let len = request(from, to, 0x1234, 0xfffe, &mut bytes).unwrap();
        let bytes = &mut bytes[..len];
        let asked = parse(bytes).unwrap();
        assert_eq!(asked.icmp, Some(IcmpKind::EchoRequest));
        assert_eq!((asked.src, asked.dst), (from, to));
        assert!(verify_ipv4_header(bytes, &asked) && verify_l4(bytes, &asked));
        assert_eq!(reply(bytes), None, "a request is no reply");
        assert!(turn_round(bytes, &asked));
        let answer = parse(bytes).unwrap();
        assert_eq!((answer.src, answer.dst), (to, from));
        assert!(verify_ipv4_header(bytes, &answer) && verify_l4(bytes, &answer));
        assert_eq!(reply(bytes), Some((0x1234, 0xfffe)));
        assert!(!turn_round(bytes, &answer), "a reply is not answered");
    }
}

#[test]
fn no_request_without_room_or_between_families() {
    let [a, b] = FAMILIES.map(|family| host(family, 1));
    assert_eq!(request(a, b, 1, 1, &mut [0; REQUEST_LEN_MAX]), None);
    assert_eq!(request(a, a, 1, 1, &mut [0; 27]), None);
}
