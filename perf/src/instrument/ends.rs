//! The two ends of connections as commands: a server that counts, and what a client asks of it.

use super::{ask, with};
use crate::lab::conversation::answer;
use crate::lab::scratch::Scratch;
use crate::lab::{Conversation, Host, LabError, NetNs, Program};
use crate::traffic::datagrams::{self, Counter, Sent};
use crate::traffic::held::Instance;
use crate::traffic::requests::{self, Latency};
use crate::traffic::tcp::{self, Received};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

const REQUESTS_PORT: u16 = 7000;
const DATAGRAMS_PORT: u16 = 7001;

/// Arguments of `serve`.
#[derive(Args, Clone, Debug)]
pub struct Serve {
    /// How it answers who it is
    #[arg(long, default_value_t = 'a')]
    pub name: char,
}

/// What `serve` says when it is asked, counted since it started.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Served {
    pub datagrams: u64,
    /// Bytes of bulk connections.
    pub bytes: u64,
}

impl Serve {
    pub(super) fn run(&self) -> Result<(), LabError> {
        let here = NetNs::here()?;
        let scratch = Scratch::new("sluice-perf-serve")?;
        let _iperf = tcp::server(&here, &scratch.path().join("iperf3.log"))?;
        requests::answer(&here, REQUESTS_PORT)?;
        let counter = Counter::new(&here, DATAGRAMS_PORT)?;
        let instance = Instance::new(&here, u8::try_from(self.name).unwrap_or(b'?'))?;
        answer(|()| {
            Ok(Served {
                datagrams: counter.received(),
                bytes: instance.received(),
            })
        })
    }

    /// Starts it at `host`, and waits until it serves.
    ///
    /// # Errors
    /// When a port is taken there.
    pub fn start(&self, host: &Host, sluice_perf: &Path) -> Result<Conversation, LabError> {
        let program = Program::new(sluice_perf).arg("serve");
        let name = [("--name", self.name.to_string())];
        let mut server = Conversation::start(host, &with(program, name))?;
        server.ask::<Served>(&())?;
        Ok(server)
    }
}

/// Arguments of `transfer`.
#[derive(Args, Clone, Copy, Debug)]
pub struct Transfer {
    #[arg(long)]
    pub to: IpAddr,
    #[arg(long, default_value_t = 1)]
    pub streams: u8,
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
}

impl Transfer {
    pub(super) fn run(&self) -> Result<Received, LabError> {
        tcp::receive(&NetNs::here()?, self.to, self.streams, self.seconds)
    }

    /// Has it done at `host`.
    ///
    /// # Errors
    /// When it fails.
    pub fn at(&self, host: &Host, sluice_perf: &Path) -> Result<Received, LabError> {
        let arguments = [
            ("--to", self.to.to_string()),
            ("--streams", self.streams.to_string()),
            ("--seconds", self.seconds.to_string()),
        ];
        ask(
            host,
            &with(Program::new(sluice_perf).arg("transfer"), arguments),
        )
    }
}

/// Arguments of `blast`.
#[derive(Args, Clone, Copy, Debug)]
pub struct Blast {
    #[arg(long)]
    pub to: IpAddr,
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
}

impl Blast {
    pub(super) fn run(&self) -> Result<Sent, LabError> {
        let to = SocketAddr::new(self.to, DATAGRAMS_PORT);
        datagrams::send(&NetNs::here()?, to, Duration::from_secs_f64(self.seconds))
    }

    /// Has it done at `host`.
    ///
    /// # Errors
    /// When it fails.
    pub fn at(&self, host: &Host, sluice_perf: &Path) -> Result<Sent, LabError> {
        let arguments = [
            ("--to", self.to.to_string()),
            ("--seconds", self.seconds.to_string()),
        ];
        ask(
            host,
            &with(Program::new(sluice_perf).arg("blast"), arguments),
        )
    }
}

/// Arguments of `request`.
#[derive(Args, Clone, Copy, Debug)]
pub struct Request {
    #[arg(long)]
    pub to: IpAddr,
    #[arg(long, default_value_t = 1000)]
    pub count: usize,
    /// Microseconds from an answer to the next request
    #[arg(long, default_value_t = 1000)]
    pub gap_us: u64,
}

impl Request {
    pub(super) fn run(&self) -> Result<Latency, LabError> {
        let to = SocketAddr::new(self.to, REQUESTS_PORT);
        let gap = Duration::from_micros(self.gap_us);
        requests::measure(&NetNs::here()?, to, self.count, gap)
    }

    /// Has it done at `host`.
    ///
    /// # Errors
    /// When it fails.
    pub fn at(&self, host: &Host, sluice_perf: &Path) -> Result<Latency, LabError> {
        let arguments = [
            ("--to", self.to.to_string()),
            ("--count", self.count.to_string()),
            ("--gap-us", self.gap_us.to_string()),
        ];
        ask(
            host,
            &with(Program::new(sluice_perf).arg("request"), arguments),
        )
    }
}
