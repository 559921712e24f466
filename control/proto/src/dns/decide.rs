//! From a query to what is done about it: a pure function of the query, of who asks, and of what is known.

use super::names::{Known, Names};
use super::outcome::Outcome;
use super::reply::{Body, Rr};
use super::zone::{Subject, Zones};
use crate::names::ServiceName;
use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use sluice_wire::{Dual, Ip};

/// What the managers are asked.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Question {
    pub service: ServiceName,
    /// Of a service that is known, one that they have left out of their answers.
    pub instance: Option<u32>,
}

impl Question {
    const fn about(service: ServiceName) -> Self {
        Self {
            service,
            instance: None,
        }
    }
}

/// What is done about a query.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Answer so.
    Answer(Outcome, Body),
    /// Ask the managers, and decide again when they have answered.
    Ask(Question),
    /// Pass it to an upstream resolver.
    Forward,
}

/// Decides about a query of the host at `from`. `query` is a message that can be parsed and is a query.
#[must_use]
pub fn decide(zones: &Zones, names: &Names, from: Ip, query: &Message) -> Decision {
    let refuse = |code| Decision::Answer(Outcome::Refused, Body::error(code));
    let malformed = |code| Decision::Answer(Outcome::Malformed, Body::error(code));
    let Some(caller) = names.caller(from) else {
        return refuse(ResponseCode::Refused);
    };
    if query.metadata.op_code != OpCode::Query {
        return malformed(ResponseCode::NotImp);
    }
    if query.version() > 0 {
        return malformed(ResponseCode::BADVERS);
    }
    let [question] = query.queries.as_slice() else {
        return malformed(ResponseCode::FormErr);
    };
    // Zone transfers are for the servers of a zone (RFC 5936); OPT is no type to ask for.
    if question.query_class() != DNSClass::IN
        || matches!(
            question.query_type(),
            RecordType::AXFR | RecordType::IXFR | RecordType::OPT
        )
    {
        return refuse(ResponseCode::Refused);
    }
    match zones.subject(question.name()) {
        Subject::Foreign => Decision::Forward,
        Subject::Nothing(apex) => no_such_name(apex),
        Subject::Apex(apex) if question.query_type() == RecordType::SOA => {
            Decision::Answer(Outcome::Answered, Body::records(vec![Rr::Soa(apex)]))
        }
        Subject::Apex(apex) => no_data(apex),
        Subject::Service {
            service,
            choice,
            apex,
        } => match names.look_up(&service) {
            None => Decision::Ask(Question::about(service)),
            Some(Known::Absent) => no_such_name(apex),
            Some(Known::Unresolved) => unresolved(),
            Some(Known::Service(known)) if !names.may_know(caller, &service, known) => {
                forbidden(names, &service, apex)
            }
            Some(Known::Service(known)) => {
                known.touch();
                match (known.address(choice), known.unlisted(choice)) {
                    (Some(ip), _) => addresses(question, ip, apex),
                    (None, instance @ Some(_)) => Decision::Ask(Question { service, instance }),
                    (None, None) => no_such_name(apex),
                }
            }
        },
    }
}

/// What the caller may not know is answered as its decoy is, which does not exist: also while nobody can say so, and as
/// often as the managers may be asked.
fn forbidden(names: &Names, service: &ServiceName, apex: Name) -> Decision {
    let decoy = names.decoy(service);
    match names.look_up(&decoy) {
        None => Decision::Ask(Question::about(decoy)),
        Some(Known::Unresolved) => unresolved(),
        Some(Known::Absent | Known::Service(_)) => no_such_name(apex),
    }
}

/// The answer to a query about a service that the managers have just said to exist, and that the caller may not know.
pub(super) fn absent(zones: &Zones, query: &Message) -> (Outcome, Body) {
    let name = query.queries.first().map(Query::name);
    match name.map(|name| zones.subject(name)) {
        Some(Subject::Service { apex, .. }) => (
            Outcome::NxDomain,
            Body::negative(ResponseCode::NXDomain, apex),
        ),
        _ => (Outcome::Unresolved, Body::error(ResponseCode::ServFail)),
    }
}

fn unresolved() -> Decision {
    Decision::Answer(Outcome::Unresolved, Body::error(ResponseCode::ServFail))
}

fn addresses(question: &Query, ip: Dual<Ip>, apex: Name) -> Decision {
    let wants = |kind| [kind, RecordType::ANY].contains(&question.query_type());
    let v4 = ip.v4.filter(|_| wants(RecordType::A));
    let v6 = ip.v6.filter(|_| wants(RecordType::AAAA));
    let records: Vec<Rr> = v4.into_iter().chain(v6).map(Rr::Address).collect();
    if records.is_empty() {
        return no_data(apex);
    }
    Decision::Answer(Outcome::Answered, Body::records(records))
}

fn no_such_name(apex: Name) -> Decision {
    let body = Body::negative(ResponseCode::NXDomain, apex);
    Decision::Answer(Outcome::NxDomain, body)
}

fn no_data(apex: Name) -> Decision {
    let body = Body::negative(ResponseCode::NoError, apex);
    Decision::Answer(Outcome::NoData, body)
}
