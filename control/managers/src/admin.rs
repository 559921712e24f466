//! What every admin socket answers: liveness, readiness and metrics.

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::sync::OnceLock;
use tokio::sync::watch;

/// `/healthz` answers while the process turns; `/readyz` once `ready` is true; `/metrics` in Prometheus text.
pub(crate) fn routes(ready: watch::Receiver<bool>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route(
            "/readyz",
            get(async move || {
                if *ready.borrow() {
                    (StatusCode::OK, "ready")
                } else {
                    (StatusCode::SERVICE_UNAVAILABLE, "not ready")
                }
            }),
        )
        .route("/metrics", get(render))
}

async fn render() -> Response {
    let Some(recorder) = recorder() else {
        return (
            StatusCode::NOT_FOUND,
            "another part of this process records metrics",
        )
            .into_response();
    };
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
        recorder.render(),
    )
        .into_response()
}

/// The process-wide recorder, installed at the first call; none if somebody else installed one before.
pub(crate) fn recorder() -> Option<&'static PrometheusHandle> {
    static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    RECORDER
        .get_or_init(|| PrometheusBuilder::new().install_recorder().ok())
        .as_ref()
}
