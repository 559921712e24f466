//! An answer decided under a lock and sent after it: a status and a text as Oakestra's service managers give it, or JSON.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sluice_proto::message;

/// See the module.
#[derive(Debug)]
pub(crate) struct Reply {
    status: StatusCode,
    content_type: &'static str,
    body: Vec<u8>,
}

impl Reply {
    /// Oakestra's service managers send plain sentences, labelled as Flask labels them.
    pub(crate) fn text(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            content_type: "text/html; charset=utf-8",
            body: text.into().into_bytes(),
        }
    }

    pub(crate) fn ok(text: impl Into<String>) -> Self {
        Self::text(StatusCode::OK, text)
    }

    pub(crate) fn bad_request(text: impl Into<String>) -> Self {
        Self::text(StatusCode::BAD_REQUEST, text)
    }

    pub(crate) fn json<T: Serialize>(value: &T) -> Self {
        Self::json_with(StatusCode::OK, value)
    }

    pub(crate) fn json_with<T: Serialize>(status: StatusCode, value: &T) -> Self {
        Self {
            status,
            content_type: "application/json",
            body: message::write(value),
        }
    }

    /// The same with a line feed after the body.
    pub(crate) fn with_line_feed(mut self) -> Self {
        self.body.push(b'\n');
        self
    }

    /// The body of `/v1` when something is wrong: `{"error": ...}`.
    pub(crate) fn error(status: StatusCode, error: impl ToString) -> Self {
        Self::json_with(status, &serde_json::json!({ "error": error.to_string() }))
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        (
            self.status,
            [(header::CONTENT_TYPE, self.content_type)],
            self.body,
        )
            .into_response()
    }
}
