//! Prometheus metrics. Workers count into their accounts; this copies them into the recorder when somebody looks.

use crate::admin_api::GatewayView;
use metrics::{counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use sluice_memory::{Account, Counter};
use sluice_tables::{InstanceState, Placement};
use sluice_wire::DropReason;
use std::sync::OnceLock;

/// A term of the account with its name and its help text.
type Term = (&'static str, &'static str, fn(&Account) -> &Counter);

/// The counters of each worker, for each of its links and for the engine between them.
const TERMS: [Term; 9] = [
    (
        "sluice_frames_received_total",
        "Frames taken from a link, as received",
        |a| &a.received,
    ),
    (
        "sluice_frames_forwarded_total",
        "Frames a link accepted, as sent",
        |a| &a.forwarded,
    ),
    (
        "sluice_frames_originated_total",
        "Frames this gateway made",
        |a| &a.originated,
    ),
    (
        "sluice_frames_split_total",
        "Frames gained by cutting",
        |a| &a.split,
    ),
    (
        "sluice_frames_merged_total",
        "Frames lost by joining",
        |a| &a.merged,
    ),
    (
        "sluice_frames_taken_total",
        "Frames for the gateway itself: handshakes and empty packets of encrypted tunnels",
        |a| &a.taken,
    ),
    (
        "sluice_frames_copied_total",
        "Copies between memory pools",
        |a| &a.copied,
    ),
    (
        "sluice_received_bytes_total",
        "Layer-3 bytes received",
        |a| &a.received_bytes,
    ),
    (
        "sluice_forwarded_bytes_total",
        "Layer-3 bytes forwarded",
        |a| &a.forwarded_bytes,
    ),
];

/// Counts messages of the cluster that changed nothing because they cannot be read.
pub(crate) const MALFORMED: &str = "sluice_gateway_malformed_total";

/// Counts rows of the cluster that were not believed.
pub(crate) const ROWS_REFUSED: &str = "sluice_gateway_rows_refused_total";

/// Counts what the name server did.
const NAMES: &str = "sluice_name_queries_total";

/// The process's recorder.
#[derive(Clone, Copy, Debug)]
pub struct Exporter(Option<&'static PrometheusHandle>);

impl Exporter {
    /// Installs the recorder at the first call; later calls share it.
    #[must_use]
    pub fn new() -> Self {
        static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
        let recorder = RECORDER.get_or_init(|| {
            let recorder = PrometheusBuilder::new().install_recorder().ok();
            describe();
            recorder
        });
        Self(recorder.as_ref())
    }

    /// The text of `/metrics`; `None` when another part of the process records metrics.
    #[must_use]
    pub fn render(&self, view: &GatewayView) -> Option<String> {
        let recorder = self.0?;
        refresh(view);
        recorder.run_upkeep();
        Some(recorder.render())
    }
}

impl Default for Exporter {
    fn default() -> Self {
        Self::new()
    }
}

fn describe() {
    for (name, help, _) in TERMS {
        describe_counter!(name, help);
    }
    describe_counter!(
        "sluice_drops_total",
        "Frames dropped, by reason; `sluice get drops` says cause and cure"
    );
    describe_gauge!(
        "sluice_frames_held",
        "Frames waiting for an answer or a first fragment"
    );
    describe_counter!(
        MALFORMED,
        "Messages of the cluster that are not what their topic wants"
    );
    describe_counter!(
        ROWS_REFUSED,
        "Rows of the cluster that were not believed, by why"
    );
    describe_counter!(NAMES, "Queries of the name server, by how they ended");
    describe_gauge!("sluice_flows", "Flows");
    describe_gauge!(
        "sluice_flows_offloaded",
        "Flows the kernel forwards by itself"
    );
    describe_counter!(
        "sluice_flows_observed_total",
        "Flows begun across namespaces that no rule allows, where that is only observed"
    );
    describe_counter!(
        "sluice_frames_relayed_total",
        "Frames sent on to where their instance moved, and answers to them"
    );
    describe_gauge!("sluice_tunnels", "Active tunnels");
    describe_gauge!("sluice_instances", "Instances known, by placement");
    describe_gauge!("sluice_tables_generation", "Publishes of the tables so far");
    describe_gauge!(
        "sluice_questions_open",
        "Questions to the managers without an answer yet"
    );
    describe_gauge!(
        "sluice_cluster_connected",
        "1 while the cluster's broker is connected"
    );
    describe_gauge!(
        "sluice_routes_age_seconds",
        "For how long no manager has stood by the known routes; 0 while they answer"
    );
    describe_gauge!("sluice_ready", "1 when the gateway can serve");
}

#[expect(
    clippy::cast_precision_loss,
    reason = "gauges are floating point in Prometheus; none of these reaches 2^53"
)]
fn refresh(view: &GatewayView) {
    for (index, accounts) in view.running().iter().enumerate() {
        let worker = index.to_string();
        for (link, account) in accounts.places() {
            for (name, _, term) in TERMS {
                counter!(name, "worker" => worker.clone(), "link" => link)
                    .absolute(term(account).value());
            }
            for &reason in DropReason::ALL {
                counter!("sluice_drops_total", "worker" => worker.clone(), "link" => link, "reason" => reason.name())
                    .absolute(account.dropped(reason));
            }
        }
        gauge!("sluice_frames_held", "worker" => worker).set(accounts.engine.held.value() as f64);
    }
    for (outcome, count) in view.names.counts() {
        counter!(NAMES, "outcome" => outcome).absolute(count);
    }
    let tables = view.publisher.snapshot();
    let (local, remote) = tables
        .instances()
        .filter(|(_, row)| row.state != InstanceState::Withdrawn)
        .fold((0_u32, 0_u32), |(local, remote), (_, row)| {
            match row.placement {
                Placement::Local => (local + 1, remote),
                Placement::Peer(_) | Placement::Nowhere => (local, remote + 1),
            }
        });
    gauge!("sluice_instances", "placement" => "local").set(local);
    gauge!("sluice_instances", "placement" => "remote").set(remote);
    gauge!("sluice_tables_generation").set(tables.generation as f64);
    let (_, flows) = (view.flows)(0);
    gauge!("sluice_flows").set(flows as f64);
    let state = view.state.borrow();
    counter!("sluice_flows_observed_total").absolute(state.flows_observed);
    counter!("sluice_frames_relayed_total").absolute(state.frames_relayed);
    gauge!("sluice_flows_offloaded").set(state.flows_offloaded as f64);
    gauge!("sluice_tunnels").set(state.tunnels as f64);
    gauge!("sluice_questions_open").set(state.questions_open as f64);
    gauge!("sluice_cluster_connected").set(u8::from(state.cluster_connected));
    gauge!("sluice_routes_age_seconds").set(state.routes_age.as_secs_f64());
    gauge!("sluice_ready").set(u8::from(state.not_ready.is_empty()));
}
