//! Table queries answered in memory: messages in, messages out, no socket.

use super::{NODES_ASKING, Pace, SERVICES_ASKED, SERVICES_PER_NODE, asked_by};
use crate::lab::clock::CpuClock;
use crate::lab::{LabError, cores};
use crate::report::{Goal, Report, Row};
use sluice_proto::message::{
    InstanceEntry, IpType, Job, NodeId, ServiceIpEntry, TableQueryResult, Topic, Verb, read, write,
};
use sluice_proto::signature::Signer;
use sluice_proto::table_query::Key;
use sluice_proto::table_query::answerer::{Answerer, Settings, Transmit};
use sluice_wire::{Dual, Ip};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Queries of one run.
const QUERIES: usize = 20_000;
/// As gateways ask: three times the minute between two renewals.
const INTEREST_S: u32 = 180;
const NOW: Duration = Duration::from_secs(1);

/// A query as it comes from the bus.
struct Message {
    topic: String,
    payload: Vec<u8>,
}

/// `queries_in_process`: the cluster manager's protocol alone, on one core.
pub(super) fn run(pace: &Pace, report: &mut Report) -> Result<(), LabError> {
    let measured = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            cores::pin(0, super::MANAGER)?;
            let (mut answerer, messages) = filled()?;
            let clock = CpuClock::new();
            (0..pace.runs_in_process)
                .map(|_| rate(&mut answerer, &messages, &clock))
                .collect()
        });
        thread.join()
    });
    let rates: Result<Vec<f64>, LabError> =
        measured.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let row = Row::median("queries_in_process", "queries/s", &rates?);
    report.push(row.with_goal(Goal::ValueAtLeast(1e5)));
    Ok(())
}

/// Queries per second of CPU time. Every one is answered with what is asked for.
fn rate(answerer: &mut Answerer, messages: &[Message], clock: &CpuClock) -> Result<f64, LabError> {
    let begin = clock.now();
    let (mut answers, mut last) = (0, None);
    for message in messages.iter().cycle().take(QUERIES) {
        let handled = answerer.handle_publish(&message.topic, &message.payload, NOW);
        handled.map_err(|error| nonsense(&error))?;
        while let Some(transmit) = answerer.poll_transmit() {
            answers += 1;
            last = Some(transmit);
        }
        while answerer.poll_change().is_some() {}
    }
    let seconds = clock.since(begin).as_secs_f64();
    match last {
        Some(Transmit::Publish { payload, .. }) if answers == QUERIES => {
            let result: TableQueryResult =
                read("an answer", &payload).map_err(|error| nonsense(&error))?;
            if result.instance_list.len() == super::INSTANCES_EACH {
                return Ok(QUERIES as f64 / seconds);
            }
            Err(nonsense(&format!("{result:?}")))
        }
        other => Err(nonsense(&format!("{answers} answers, the last {other:?}"))),
    }
}

/// A manager that knows every service, and whose nodes are interested in what they ask for.
fn filled() -> Result<(Answerer, Vec<Message>), LabError> {
    let settings = Settings {
        // As every cluster manager does.
        signer: Some(Signer::from_seed(&[1; 32])),
        ..Settings::new("perf", "127.0.0.1", 10110, 1)
    };
    let mut answerer = Answerer::new(settings, 1, NOW);
    for service in 0..SERVICES_ASKED {
        let job = job(service)?;
        let asked = Key::Name(job.job_name.clone()).request(None);
        answerer.handle_request(&node(0)?, &asked, NOW);
        while let Some(transmit) = answerer.poll_transmit() {
            if let Transmit::Root(request) = transmit {
                answerer.handle_root_reply(request.id, Some((200, &write(&job))), NOW);
            }
        }
    }
    let mut messages = Vec::new();
    // In the order in which they would come from all nodes at once.
    for turn in 0..SERVICES_PER_NODE {
        for asking in 0..NODES_ASKING {
            let address = service_ip(asked_by(asking, turn));
            messages.push(Message {
                topic: Topic::node(node(asking)?, Verb::TableQueryRequest).to_string(),
                payload: write(&Key::Address(address).request(Some(INTEREST_S))),
            });
        }
    }
    for message in &messages {
        let handled = answerer.handle_publish(&message.topic, &message.payload, NOW);
        handled.map_err(|error| nonsense(&error))?;
        while answerer.poll_transmit().is_some() {}
        while answerer.poll_change().is_some() {}
    }
    Ok((answerer, messages))
}

fn node(index: usize) -> Result<NodeId, LabError> {
    NodeId::new(super::node_id(index)).map_err(|error| nonsense(&error))
}

/// As the root tells it: running instances of another cluster.
fn job(service: usize) -> Result<Job, LabError> {
    let name = super::service_name(service);
    let service_ips = vec![ServiceIpEntry::new(
        IpType::RoundRobin,
        addresses(0, service),
    )];
    let instance = |number: usize| {
        let ips = addresses(1 + number, service);
        let ns_ips = addresses(100 + number, service);
        let mut list = service_ips.clone();
        list.push(ServiceIpEntry::new(IpType::instance(), ips));
        InstanceEntry {
            instance_number: u32::try_from(number).unwrap_or(u32::MAX),
            cluster_id: Some("other".to_owned()),
            worker_id: Some(super::node_id(number)),
            instance_ip: ips.v4,
            instance_ip_v6: ips.v6,
            namespace_ip: ns_ips.v4,
            namespace_ip_v6: ns_ips.v6,
            host_ip: Some(Ip::from(Ipv4Addr::new(192, 0, 2, 1))),
            host_port: Some(50103),
            service_ip: list,
            epoch: 1,
            answers_probes: true,
            ..InstanceEntry::default()
        }
    };
    Ok(Job {
        id: format!("{service:024x}"),
        job_name: name.parse().map_err(|error| nonsense(&error))?,
        instance_list: (0..super::INSTANCES_EACH).map(instance).collect(),
        service_ip_list: service_ips.clone(),
        revision: 1,
        rules: Vec::new(),
        attached: Vec::new(),
        descriptor: serde_json::Map::new(),
    })
}

fn service_ip(service: usize) -> Ip {
    addresses(0, service)
        .v4
        .unwrap_or_else(|| unreachable!("it has both"))
}

/// Distinct for each kind and service.
#[expect(clippy::cast_possible_truncation, reason = "few kinds and services")]
fn addresses(kind: usize, service: usize) -> Dual<Ip> {
    let [high, low] = (service as u16).to_be_bytes();
    Dual::both(
        Ip::from(Ipv4Addr::new(10, kind as u8, high, low)),
        Ip::from(Ipv6Addr::new(
            0xfdff,
            kind as u16,
            0,
            0,
            0,
            0,
            0,
            service as u16,
        )),
    )
}

fn nonsense(error: &impl ToString) -> LabError {
    LabError::Reply {
        what: "the cluster manager's protocol".to_owned(),
        text: error.to_string(),
    }
}
