//! What can go wrong in the laboratory, and what to do about it.

use std::path::PathBuf;
use thiserror::Error;

#[derive(Debug, Error)]
pub enum LabError {
    #[error(
        "namespace {name}: {step} failed: {source}; run as root, or allow unprivileged user namespaces"
    )]
    Namespace {
        name: String,
        step: &'static str,
        source: std::io::Error,
    },
    #[error("cannot start {program}: {source}")]
    Start {
        program: String,
        source: std::io::Error,
    },
    #[error("`{command}` in namespace {namespace} ended with {status}: {said}")]
    Failed {
        command: String,
        namespace: String,
        status: String,
        said: String,
    },
    #[error("waited {waited_ms} ms for {what}; last seen: {seen}")]
    Deadline {
        what: String,
        waited_ms: u128,
        seen: String,
    },
    #[error("{path}: {source}")]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the program {name} is missing; it is in the Debian package {package}")]
    Tool { name: String, package: &'static str },
    #[error("{what} answered {status}: {body}")]
    Http {
        what: String,
        status: u16,
        body: String,
    },
    #[error("{what}: {source}")]
    Socket {
        what: String,
        source: std::io::Error,
    },
    #[error("{what} makes no sense: {text}")]
    Reply { what: String, text: String },
    #[error("{what}: {said}; it needs root, and Linux 6.0 or later")]
    Bpf { what: &'static str, said: String },
    /// What was asked for cannot be; it says what can.
    #[error("{0}")]
    Request(String),
    #[error("{0}")]
    Privilege(String),
}

impl LabError {
    /// For `map_err` on file operations.
    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }

    /// For `map_err` on what is done with BPF programs.
    pub fn bpf<E: std::error::Error>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| {
            let mut said = error.to_string();
            let mut source = error.source();
            while let Some(deeper) = source {
                said = format!("{said}: {deeper}");
                source = deeper.source();
            }
            Self::Bpf { what, said }
        }
    }

    /// For `map_err` on socket operations.
    pub fn socket(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Socket { what, source }
    }
}
