//! `/v1/rules` of the root: which services may call which across namespaces.

use super::shared::Shared;
use crate::reply::Reply;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_proto::isolation::{Pattern, PatternError, Rule};
use sluice_proto::message;
use sluice_proto::table_query::root::{self, Command, Root};
use std::sync::Arc;

/// A rule as it is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    from: String,
    to: String,
}

impl Asked {
    fn rule(&self) -> Result<Rule, PatternError> {
        Ok(Rule {
            from: Pattern::parse(&self.from)?,
            to: Pattern::parse(&self.to)?,
        })
    }
}

pub(super) fn routes(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/rules", get(list).post(add).delete(remove))
        .with_state(shared)
}

async fn list(State(shared): State<Arc<Shared>>) -> Reply {
    let state = shared.lock();
    let rows: Vec<_> = state
        .root
        .rules()
        .map(|rule| row(&state.root, rule))
        .collect();
    Reply::json(&rows)
}

/// Adding a rule that exists is no error, so that it can be repeated.
async fn add(State(shared): State<Arc<Shared>>, body: Bytes) -> Reply {
    match message::read("rule", &body) {
        Ok(asked) => change(&shared, &asked, Command::RuleAdd).await,
        Err(error) => Reply::error(StatusCode::BAD_REQUEST, error),
    }
}

async fn remove(State(shared): State<Arc<Shared>>, Query(asked): Query<Asked>) -> Reply {
    change(&shared, &asked, Command::RuleDelete).await
}

async fn change(shared: &Shared, asked: &Asked, command: fn(Rule) -> Command) -> Reply {
    let rule = match asked.rule() {
        Ok(rule) => rule,
        Err(error) => return Reply::error(StatusCode::BAD_REQUEST, error),
    };
    shared
        .answer_all(|state| {
            let root::Reply { status, body } = state.apply(&command(rule.clone()));
            match (status, body) {
                (200, _) => Reply::json(&row(&state.root, &rule)),
                (status, root::Body::Text(text)) => {
                    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::CONFLICT);
                    Reply::error(status, text)
                }
                (_, body @ root::Body::Json(_)) => Reply::from(root::Reply { status, body }),
            }
        })
        .await
}

/// A rule, and how many services each side matches now: none is seldom meant.
fn row(root: &Root, rule: &Rule) -> Value {
    let matched = |pattern: &Pattern| {
        root.jobs()
            .filter(|job| pattern.matches(&job.job_name))
            .count()
    };
    json!({
        "from": rule.from,
        "to": rule.to,
        "callers": matched(&rule.from),
        "callees": matched(&rule.to),
    })
}
