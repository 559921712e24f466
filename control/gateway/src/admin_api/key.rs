//! `POST /v1/key/rotate`: a new key of the node, in its file and in the running gateway.

use super::{View, answer, ask, failure};
use crate::command::Command;
use crate::node_key;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

/// Answers when the new key is on disk and the cluster is being told.
pub(super) async fn rotate(State(view): View) -> Response {
    // One at a time: the gateway goes on with what the file says last.
    let file = view.key_file.lock().await;
    let (path, rotated) = (file.path().to_owned(), file.clone());
    let secret = match tokio::task::spawn_blocking(move || rotated.replace()).await {
        Ok(Ok(secret)) => secret,
        Ok(Err(error)) => return failure(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        Err(error) => return failure(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    };
    let identity = node_key::identity(&secret);
    let public_key = identity.public().to_string();
    let taken = ask(&view.commands, |reply| {
        Command::SetIdentity(identity, reply)
    })
    .await;
    answer(taken.map(|()| json!({ "public_key": public_key, "file": path })))
}
