//! A gateway that lost its connection asks again about everything it is interested in, while others ask as before.
//!
//! What asks is the gateway's own [`Asker`], over an MQTT connection.

use super::queries::{Manner, all_ask};
use super::site::{Site, parse, within};
use super::{NODES, NODES_ASKING, PATIENCE, Pace, SERVICES, node_id};
use crate::lab::LabError;
use crate::lab::clock::now;
use crate::report::{Goal, Report, Row};
use crate::traffic::mqtt::Connection;
use sluice_proto::message::{NodeId, TableQueryResult};
use sluice_proto::table_query::Key;
use sluice_proto::table_query::asker::{Asker, Mqtt, Settings};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::time::Instant as TokioInstant;

/// Queries per second of the other nodes: half of what is asked of a manager.
const BASE: f64 = 5000.0;
/// The load before is measured for so long, and so is the load meanwhile.
const WINDOW_S: f64 = 6.0;
/// What counts of the load meanwhile is the worst second.
const SLICE: Duration = Duration::from_secs(1);
/// Questions on their way while the gateway learns what it will be interested in.
const LEARNT_AT_ONCE: usize = 1000;
/// How long it is away.
const AWAY: Duration = Duration::from_millis(200);

/// `resync_10k_s`, `resync_10k_load`.
pub(super) async fn run(
    site: &Site,
    nodes: &mut Vec<Connection>,
    pace: &Pace,
    report: &mut Report,
) -> Result<(), LabError> {
    let mut gateway = Gateway::learn(site).await?;
    let (mut times, mut loads) = (Vec::new(), Vec::new());
    for _ in 0..pace.resyncs {
        let manner = Manner::Steady(BASE / NODES_ASKING as f64);
        let (others, before) = tokio::join!(all_ask(site, nodes, manner, WINDOW_S), load(site));
        others?;
        gateway.leave();
        tokio::time::sleep(AWAY).await;
        let (others, during, took) = tokio::join!(
            all_ask(site, nodes, manner, WINDOW_S),
            load(site),
            within("a resynchronisation", gateway.come_back(site))
        );
        others?;
        times.push(took?);
        let (before, during) = (before?, during?);
        let mean = before.iter().sum::<f64>() / before.len() as f64;
        loads.push((during.into_iter().fold(0.0, f64::max), mean));
    }
    let time = Row::median("resync_10k_s", "s", &times);
    report.push(time.with_goal(Goal::ValueAtMost(5.0)));
    let load = Row::beside("resync_10k_load", "% of a core", "without_resync", &loads);
    report.push(load.with_goal(Goal::RatioAtMost(2.0)));
    Ok(())
}

/// What the manager takes of its core in each second of the window, percent.
async fn load(site: &Site) -> Result<Vec<f64>, LabError> {
    let begin = TokioInstant::now();
    let mut loads = Vec::new();
    let mut before = site.manager_cpu_s()?;
    while begin.elapsed() + SLICE <= Duration::from_secs_f64(WINDOW_S) {
        let slice = TokioInstant::now();
        tokio::time::sleep(SLICE).await;
        let cpu_s = site.manager_cpu_s()?;
        loads.push((cpu_s - before) * 100.0 / slice.elapsed().as_secs_f64());
        before = cpu_s;
    }
    Ok(loads)
}

/// What asks like a gateway.
struct Gateway {
    id: NodeId,
    asker: Asker,
    connection: Option<Connection>,
    born: Instant,
}

impl Gateway {
    /// Is interested in every service.
    async fn learn(site: &Site) -> Result<Self, LabError> {
        let id =
            NodeId::new(node_id(NODES)).map_err(|error| LabError::Request(error.to_string()))?;
        // It has flows to all services, which keep the interests used.
        let settings = Settings {
            interest_idle: Duration::from_secs(3600),
            ..Settings::default()
        };
        let mut gateway = Self {
            id,
            asker: Asker::new(settings, 1),
            connection: Some(site.connect(NODES).await?),
            born: now(),
        };
        gateway.asker.handle_connection(true, gateway.now());
        let learn = async {
            for ips in site.service_ips.chunks(LEARNT_AT_ONCE) {
                for ip in ips {
                    let now = gateway.now();
                    gateway.asker.handle_question(&Key::Address(*ip), now);
                }
                while gateway.asker.queries() > 0 {
                    gateway.turn().await?;
                }
            }
            Ok(())
        };
        within("a gateway to learn of all services", learn).await?;
        let known = gateway.asker.jobs().count();
        if known == SERVICES {
            return Ok(gateway);
        }
        Err(LabError::Reply {
            what: "what the gateway learnt".to_owned(),
            text: format!("{known} services of {SERVICES}"),
        })
    }

    fn leave(&mut self) {
        self.connection = None;
        let now = self.now();
        self.asker.handle_connection(false, now);
    }

    /// Connects, and returns the seconds until everything was answered.
    async fn come_back(&mut self, site: &Site) -> Result<f64, LabError> {
        let begin = now();
        self.connection = Some(site.connect(NODES).await?);
        let now = self.now();
        self.asker.handle_connection(true, now);
        let mut unanswered: BTreeSet<String> = self.asker.jobs().map(ToString::to_string).collect();
        while !unanswered.is_empty() {
            if let Some(key) = self.turn().await? {
                unanswered.remove(&key);
            }
        }
        Ok(begin.elapsed().as_secs_f64())
    }

    fn now(&self) -> Duration {
        self.born.elapsed()
    }

    /// Sends what is to be sent, and takes the next message; the key that it answers.
    async fn turn(&mut self) -> Result<Option<String>, LabError> {
        let Some(connection) = &mut self.connection else {
            unreachable!("a turn is taken while it is connected");
        };
        while let Some(transmit) = self.asker.poll_transmit() {
            match transmit.mqtt(&self.id) {
                Mqtt::Publish { topic, payload } => connection.publish(&topic, &payload)?,
                Mqtt::Subscribe { topic } => connection.want(&topic)?,
                Mqtt::Unsubscribe { .. } => {}
            }
        }
        while self.asker.poll_event().is_some() {}
        connection.flush().await?;
        let due = self.asker.poll_timeout();
        let wake = due.map_or(PATIENCE, |due| due.saturating_sub(self.born.elapsed()));
        let publish = tokio::select! {
            publish = connection.next() => publish?,
            () = tokio::time::sleep(wake) => {
                let now = self.born.elapsed();
                self.asker.handle_timeout(now);
                return Ok(None);
            }
        };
        if publish.topic.starts_with("jobs/") {
            return Ok(None);
        }
        let result: TableQueryResult = parse(&publish.payload)?;
        let now = self.born.elapsed();
        let taken = self.asker.handle_result(&result, now);
        taken.map_err(|error| LabError::Request(error.to_string()))?;
        Ok(Some(result.query_key))
    }
}
