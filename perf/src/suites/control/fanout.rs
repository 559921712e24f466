//! One change, and when the last of a thousand interested nodes has read it.

use super::site::{deployed, joined, node_of, parse, topic, within};
use super::{INTEREST_S, Pace, SERVICES, service_name};
use crate::lab::LabError;
use crate::lab::clock::now;
use crate::report::{Goal, Report, Row};
use crate::traffic::mqtt::Connection;
use sluice_proto::message::{TableQueryRequest, TableQueryResult, Topic, Verb, write};
use sluice_wire::Ip;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Instant;
use tokio::task::JoinSet;

/// It has one instance, which moves from address to address of its node.
const SERVICE: usize = SERVICES - 1;

/// `fanout_1000_ms`.
pub(super) async fn run(
    nodes: &mut Vec<Connection>,
    pace: &Pace,
    report: &mut Report,
) -> Result<(), LabError> {
    let name = service_name(SERVICE);
    let updates = Topic::updates(&name).to_string();
    for (index, node) in nodes.iter_mut().enumerate() {
        node.subscribe(&updates).await?;
        let request = TableQueryRequest {
            sname: name.clone(),
            interest_s: Some(INTEREST_S),
            ..TableQueryRequest::default()
        };
        node.publish(&topic(index, Verb::TableQueryRequest)?, &write(&request))?;
        node.flush().await?;
    }
    let asked = name.clone();
    all(nodes, move |result| result.query_key == asked).await?;
    let mut took_ms = Vec::new();
    for change in 0..pace.changes {
        let moved = Ipv4Addr::from_bits(0x0a13_0000 + u32::try_from(change).unwrap_or_default());
        let message = deployed(SERVICE, 0, 0, moved);
        let owner = node_of(SERVICE, 0);
        let begin = now();
        nodes[owner].publish(&topic(owner, Verb::Deployed)?, &write(&message))?;
        nodes[owner].flush().await?;
        let last = all(nodes, move |result| {
            let mut rows = result.instance_list.iter();
            rows.any(|row| row.namespace_ip == Some(Ip::from(moved)))
        })
        .await?;
        took_ms.push(last.duration_since(begin).as_secs_f64() * 1e3);
    }
    let row = Row::median("fanout_1000_ms", "ms", &took_ms);
    report.push(row.with_goal(Goal::ValueAtMost(200.0)));
    Ok(())
}

/// Waits until every node has read a result that is `wanted`; when the last one had.
async fn all(
    nodes: &mut Vec<Connection>,
    wanted: impl Fn(&TableQueryResult) -> bool + Clone + Send + 'static,
) -> Result<Instant, LabError> {
    let mut waiting = JoinSet::new();
    for (index, mut connection) in nodes.drain(..).enumerate() {
        let wanted = wanted.clone();
        waiting.spawn(within("a node to hear of a change", async move {
            loop {
                let publish = connection.next().await?;
                // The notice for legacy nodes comes beside the rows.
                if publish.topic.starts_with("jobs/") {
                    continue;
                }
                if wanted(&parse(&publish.payload)?) {
                    let read = now();
                    connection.flush().await?;
                    return Ok((index, connection, read));
                }
            }
        }));
    }
    let mut last = now();
    let mut back = BTreeMap::new();
    while let Some(done) = waiting.join_next().await {
        let (index, connection, read) = joined(done)?;
        last = last.max(read);
        back.insert(index, connection);
    }
    nodes.extend(back.into_values());
    Ok(last)
}
