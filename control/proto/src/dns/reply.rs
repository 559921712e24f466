//! Messages on their way out: our own answers, errors, and answers of upstream resolvers as the client gets them.
//!
//! The question is written as it was asked, letter by letter: some resolvers vary its case and compare.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{Name, RData, Record};
use sluice_wire::Ip;
use std::net::IpAddr;

/// How long an address may be kept, in seconds. It keeps its meaning for the whole life of the service or instance, and
/// rests when that ended for much longer than this, so that a kept one never leads to a stranger; asking again costs one
/// round trip inside the machine.
const ADDRESS_TTL_S: u32 = 5;
/// How long "no such name" may be kept, in seconds: a service is often called a moment after it was applied.
const NEGATIVE_TTL_S: u32 = 1;

/// The longest message over UDP: fits an Ethernet frame over IPv6 and tunnels (DNS flag day 2020).
pub(super) const UDP_MAX: u16 = 1232;
/// Without EDNS (RFC 1035).
const UDP_PLAIN: u16 = 512;

/// Bytes of the header.
pub(super) const HEADER: usize = 12;
/// In byte 2 of a header: this is a response; and it was cut off.
pub(super) const RESPONSE_BIT: u8 = 0x80;
pub(super) const TRUNCATED_BIT: u8 = 0x02;

/// A record of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Rr {
    /// A or AAAA at the name that was asked for.
    Address(Ip),
    /// The start of authority of this zone.
    Soa(Name),
}

/// What an answer says, apart from the question.
#[derive(Clone, Debug, PartialEq)]
pub struct Body {
    pub code: ResponseCode,
    pub answers: Vec<Rr>,
    /// The zone whose authority a negative answer shows (RFC 2308).
    pub authority: Option<Name>,
}

impl Body {
    pub(super) const fn records(answers: Vec<Rr>) -> Self {
        Self {
            code: ResponseCode::NoError,
            answers,
            authority: None,
        }
    }

    pub(super) const fn negative(code: ResponseCode, apex: Name) -> Self {
        Self {
            code,
            answers: Vec::new(),
            authority: Some(apex),
        }
    }

    pub(super) const fn error(code: ResponseCode) -> Self {
        Self {
            code,
            answers: Vec::new(),
            authority: None,
        }
    }
}

/// The longest answer over UDP that whoever sent the query takes.
pub(super) fn udp_limit(query: &Message) -> u16 {
    query.edns.as_ref().map_or(UDP_PLAIN, |edns| {
        edns.max_payload().clamp(UDP_PLAIN, UDP_MAX)
    })
}

/// The answer to a query.
pub(super) fn write(query: &Message, body: &Body) -> Vec<u8> {
    let mut reply = head(query, body.code);
    reply.metadata.authoritative = body.authority.is_some() || !body.answers.is_empty();
    if let Some(question) = query.queries.first() {
        let name = question.name();
        reply.answers.extend(body.answers.iter().map(|rr| match rr {
            Rr::Address(ip) => Record::from_rdata(name.clone(), ADDRESS_TTL_S, address(*ip)),
            Rr::Soa(apex) => soa(apex),
        }));
    }
    reply.authorities.extend(body.authority.as_ref().map(soa));
    encode(&reply)
}

/// "Too long for UDP, ask over TCP", with the response code of the answer that was too long.
pub(super) fn truncated(query: &Message, code: ResponseCode) -> Vec<u8> {
    let mut reply = head(query, code);
    reply.metadata.truncation = true;
    encode(&reply)
}

/// Answers what cannot be parsed, if it has the header of a query at all.
pub(super) fn not_understood(bytes: &[u8]) -> Option<Vec<u8>> {
    let header = bytes.get(..HEADER)?;
    if header[2] & RESPONSE_BIT != 0 {
        return None;
    }
    let id = u16::from_be_bytes([header[0], header[1]]);
    let reply = Message::error_msg(
        id,
        OpCode::from_u8((header[2] >> 3) & 0x0f),
        ResponseCode::FormErr,
    );
    Some(encode(&reply))
}

fn head(query: &Message, code: ResponseCode) -> Message {
    let asked = &query.metadata;
    let mut reply = Message::new(asked.id, MessageType::Response, asked.op_code);
    reply.metadata.recursion_desired = asked.recursion_desired;
    reply.metadata.checking_disabled = asked.checking_disabled;
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    reply.queries.extend(query.queries.first().cloned());
    if let Some(asked) = &query.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_MAX);
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        reply.edns = Some(edns);
    }
    reply
}

/// Empty, and then not sent, when the message cannot be written: no question that was parsed makes such a message.
fn encode(reply: &Message) -> Vec<u8> {
    reply.to_vec().unwrap_or_default()
}

/// An upstream resolver's answer as the answer to `query`, if it fits `limit` bytes; else the request to ask over TCP.
/// `question` is the question as it was asked, which the answer has too, perhaps in other letters.
pub(super) fn relayed(
    query: &Message,
    question: &[u8],
    mut answer: Vec<u8>,
    limit: usize,
) -> Vec<u8> {
    if answer.len() > limit {
        return truncated(query, ResponseCode::from_low(answer[3] & 0x0f));
    }
    answer[..2].copy_from_slice(&query.metadata.id.to_be_bytes());
    answer[HEADER..HEADER + question.len()].copy_from_slice(question);
    answer
}

fn address(ip: Ip) -> RData {
    match IpAddr::from(ip) {
        IpAddr::V4(ip) => RData::A(ip.into()),
        IpAddr::V6(ip) => RData::AAAA(ip.into()),
    }
}

/// Names and times as RFC 6303 has them for zones that nobody transfers.
fn soa(apex: &Name) -> Record {
    let nobody = Name::from_ascii("nobody.invalid.").unwrap_or_else(|_| Name::root());
    let minimum = NEGATIVE_TTL_S;
    let data = SOA::new(apex.clone(), nobody, 1, 3600, 1200, 604_800, minimum);
    Record::from_rdata(apex.clone(), NEGATIVE_TTL_S, RData::SOA(data))
}
