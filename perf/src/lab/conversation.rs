//! A program at a host that answers questions, a line of JSON each, until nobody is left to ask.

use super::clock::{now, pause};
use super::error::LabError;
use super::host::Host;
use super::process::Program;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

/// How long it may take to end when its standard input has.
const PATIENCE: Duration = Duration::from_secs(5);

/// Such a program, running. Dropping it ends its standard input, also where only a remote shell reaches it.
#[derive(Debug)]
pub struct Conversation {
    child: Child,
    told: Option<ChildStdin>,
    said: BufReader<ChildStdout>,
    what: String,
    /// Kept alive: the program would end with the thread of its namespace.
    _host: Host,
}

impl Conversation {
    /// Starts it; what it says on standard error goes where ours does.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(host: &Host, program: &Program) -> Result<Self, LabError> {
        let what = format!("`{program}` at {}", host.name());
        let mut command = host.reached(program).command();
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = host.spawn(command).map_err(|source| LabError::Start {
            program: what.clone(),
            source,
        })?;
        let (Some(told), Some(said)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("both are piped");
        };
        Ok(Self {
            child,
            told: Some(told),
            said: BufReader::new(said),
            what,
            _host: host.clone(),
        })
    }

    /// Asks it, and waits for the answer.
    ///
    /// # Errors
    /// When it has ended, or says something else.
    pub fn ask<T: DeserializeOwned>(&mut self, question: &impl Serialize) -> Result<T, LabError> {
        let mut text = String::new();
        let answered = match &mut self.told {
            Some(told) => writeln!(told, "{}", json(question))
                .and_then(|()| told.flush())
                .and_then(|()| self.said.read_line(&mut text)),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        answered.map_err(|source| LabError::Socket {
            what: self.what.clone(),
            source,
        })?;
        serde_json::from_str(&text).map_err(|_| LabError::Reply {
            what: self.what.clone(),
            text,
        })
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        drop(self.told.take());
        let begin = now();
        while begin.elapsed() < PATIENCE {
            if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return;
            }
            pause(Duration::from_millis(5));
        }
        // It may have ended meanwhile.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| unreachable!("plain data: {error}"))
}

/// The other side: calls `answer` for every question on standard input, and writes what it returns.
///
/// # Errors
/// When a question cannot be read, or `answer` fails. When nobody reads, that is the end.
pub fn answer<Q: DeserializeOwned, T: Serialize>(
    mut answer: impl FnMut(Q) -> Result<T, LabError>,
) -> Result<(), LabError> {
    for text in io::stdin().lines().map_while(Result::ok) {
        let question = serde_json::from_str(&text).map_err(|_| LabError::Reply {
            what: "a question".to_owned(),
            text,
        })?;
        let text = json(&answer(question)?);
        let mut out = io::stdout();
        if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
            break;
        }
    }
    Ok(())
}
