//! What lasts longer than a question, as commands: connections that are held, one that sends all it can, and a flood.

use super::with;
use crate::lab::conversation::answer;
use crate::lab::{Conversation, Host, LabError, NetNs, Program};
use crate::traffic::flood::{self, Flooded};
use crate::traffic::held;
use clap::Args;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::time::Duration;

/// Arguments of `hold`. Asked, it says how many of the connections are lost.
#[derive(Args, Clone, Copy, Debug)]
pub struct Hold {
    #[arg(long)]
    pub to: IpAddr,
    #[arg(long, default_value_t = 1)]
    pub count: usize,
}

impl Hold {
    pub(super) fn run(&self) -> Result<(), LabError> {
        let mut connections = held::Held::open(&NetNs::here()?, self.to, self.count)?;
        answer(|()| Ok(connections.lost()))
    }

    /// Opens the connections at `host`, and asks on each once more.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn start(&self, host: &Host, sluice_perf: &Path) -> Result<Conversation, LabError> {
        let arguments = [
            ("--to", self.to.to_string()),
            ("--count", self.count.to_string()),
        ];
        let program = with(Program::new(sluice_perf).arg("hold"), arguments);
        let mut connections = Conversation::start(host, &program)?;
        connections.ask::<usize>(&())?;
        Ok(connections)
    }
}

/// Arguments of `bulk`.
#[derive(Args, Clone, Copy, Debug)]
pub struct Bulk {
    #[arg(long)]
    pub to: IpAddr,
}

impl Bulk {
    pub(super) fn run(&self) -> Result<(), LabError> {
        let _bulk = held::Bulk::start(&NetNs::here()?, self.to)?;
        answer(|()| Ok(()))
    }

    /// Connects at `host`, and sends until the conversation is dropped.
    ///
    /// # Errors
    /// When nothing answers.
    pub fn start(&self, host: &Host, sluice_perf: &Path) -> Result<Conversation, LabError> {
        let to = [("--to", self.to.to_string())];
        let program = with(Program::new(sluice_perf).arg("bulk"), to);
        let mut bulk = Conversation::start(host, &program)?;
        bulk.ask::<()>(&())?;
        Ok(bulk)
    }
}

/// Arguments of `flood`. Asked with a [`Part`], it sends that and says what became of it.
#[derive(Args, Clone, Debug)]
pub struct Flood {
    #[arg(long)]
    pub source: Ipv4Addr,
    #[arg(long)]
    pub destination: Ipv4Addr,
    /// In datagrams to this end of a tunnel
    #[arg(long)]
    pub tunnel: Option<SocketAddrV4>,
    /// What precedes each packet there, in hexadecimal digits
    #[arg(long, default_value = "")]
    pub headers: String,
}

/// A part of a flood.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Part {
    /// The number of its first pair of ports, and how many pairs there are.
    pub first: u32,
    pub pairs: u32,
    /// SYNs per second.
    pub rate: f64,
    /// It ends early after so long.
    pub limit: Duration,
}

impl Flood {
    pub(super) fn run(&self) -> Result<(), LabError> {
        let here = NetNs::here()?;
        let mut flood = match self.tunnel {
            None => flood::Flood::by_host(&here, self.source, self.destination)?,
            Some(to) => {
                let headers = octets(&self.headers).ok_or_else(|| {
                    LabError::Request(format!(
                        "--headers {}: expected pairs of hexadecimal digits",
                        self.headers
                    ))
                })?;
                flood::Flood::by_node(&here, to, &headers, self.source, self.destination)?
            }
        };
        answer(|part: Part| -> Result<Flooded, LabError> {
            let pairs = part.first..part.first + part.pairs;
            flood.run(pairs, part.rate, part.limit)
        })
    }

    /// Makes ready at `host`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, host: &Host, sluice_perf: &Path) -> Result<Conversation, LabError> {
        let tunnel = self.tunnel.map(|to| ("--tunnel", to.to_string()));
        let headers = (!self.headers.is_empty()).then(|| ("--headers", self.headers.clone()));
        let arguments = [
            ("--source", self.source.to_string()),
            ("--destination", self.destination.to_string()),
        ];
        let program = with(
            Program::new(sluice_perf).arg("flood"),
            arguments.into_iter().chain(tunnel).chain(headers),
        );
        Conversation::start(host, &program)
    }
}

fn octets(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}
