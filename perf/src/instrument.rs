//! The parts of a measurement that run where its traffic does: each is a command of `sluice-perf`, started in a namespace or
//! on another machine, which says what it saw as JSON.

pub mod ends;
pub mod load;

use crate::lab::clock::{now, pause};
use crate::lab::{Host, LabError, Program, cores, host, napi};
use crate::suites::fastpath::forward::{self, Forward};
use crate::traffic::frames::Generator;
use crate::traffic::sink::{Expected, Sink, Sunk};
use crate::traffic::stream::{Mac, Stream};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

/// What `sluice-perf` can be asked to do at one end.
#[derive(Clone, Debug, Subcommand)]
pub enum Instrument {
    /// Sends UDP frames out of a device, as fast as one core can
    Generate(Generate),
    /// Counts the tunnel datagrams that arrive at a device, and ends them
    Count(Count),
    /// Has a device's queues looked into by a kernel thread on one core
    Poll(Poll),
    /// Answers requests, counts datagrams and takes part in iperf3's transfers, until its standard input ends
    Serve(ends::Serve),
    /// Measures a bulk TCP transfer to `serve`
    Transfer(ends::Transfer),
    /// Sends small datagrams to `serve`, as fast as one thread can
    Blast(ends::Blast),
    /// Measures requests to `serve`, one at a time
    Request(ends::Request),
    /// Holds connections to `serve`, until its standard input ends
    Hold(load::Hold),
    /// Sends over one connection to `serve` as fast as TCP lets it, until its standard input ends
    Bulk(load::Bulk),
    /// Sends SYNs, each of another pair of ports, in parts that it reads from standard input
    Flood(load::Flood),
    /// The AF_XDP links without the path between them
    Forward(Forward),
}

impl Instrument {
    /// Runs it, and returns what it has to say.
    ///
    /// # Errors
    /// When it cannot do what it is told.
    pub fn run(&self) -> Result<String, LabError> {
        match self {
            Self::Generate(generate) => Ok(json(&generate.run()?)),
            Self::Count(count) => Ok(json(&count.run()?)),
            Self::Poll(poll) => napi::poll_on(&poll.interface, poll.core).map(|()| String::new()),
            Self::Serve(serve) => serve.run().map(|()| String::new()),
            Self::Transfer(transfer) => Ok(json(&transfer.run()?)),
            Self::Blast(blast) => Ok(json(&blast.run()?)),
            Self::Request(request) => Ok(json(&request.run()?)),
            Self::Hold(hold) => hold.run().map(|()| String::new()),
            Self::Bulk(bulk) => bulk.run().map(|()| String::new()),
            Self::Flood(flood) => flood.run().map(|()| String::new()),
            Self::Forward(forward) => forward::run(forward).map(|()| String::new()),
        }
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| unreachable!("plain data: {error}"))
}

/// Arguments of `generate`.
#[derive(Args, Clone, Debug)]
pub struct Generate {
    #[arg(long)]
    pub interface: String,
    #[arg(long, value_parser = parse_mac)]
    pub source_mac: MacText,
    #[arg(long, value_parser = parse_mac)]
    pub destination_mac: MacText,
    #[arg(long)]
    pub source: Ipv4Addr,
    #[arg(long)]
    pub destination: Ipv4Addr,
    /// Length of a frame, without its FCS
    #[arg(long, default_value_t = 64)]
    pub bytes: u16,
    /// How many flows: a power of two
    #[arg(long, default_value_t = 1)]
    pub flows: u32,
    /// The number of the first one
    #[arg(long, default_value_t = 0)]
    pub first: u32,
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
    /// Frames per second [default: as many as possible]
    #[arg(long)]
    pub rate: Option<u32>,
    #[arg(long)]
    pub core: Option<usize>,
}

/// What `generate` says.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Generated {
    pub frames: u64,
    pub seconds: f64,
}

impl Generate {
    fn run(&self) -> Result<Generated, LabError> {
        let device = Host::Here.device(&self.interface)?;
        if let Some(core) = self.core {
            cores::pin(0, core)?;
        }
        let stream = Stream {
            source_mac: self.source_mac.0,
            destination_mac: self.destination_mac.0,
            source: self.source,
            destination: self.destination,
            bytes: self.bytes,
            first: self.first,
            flows: self.flows,
        };
        let mut generator = Generator::new(&stream, device.index, self.rate)?;
        let begin = now();
        let frames = generator.send_for(Duration::from_secs_f64(self.seconds))?;
        Ok(Generated {
            frames,
            seconds: begin.elapsed().as_secs_f64(),
        })
    }

    /// The command that does it.
    #[must_use]
    pub fn program(&self, sluice_perf: &Path) -> Program {
        let core = self.core.map(|core| ("--core", core.to_string()));
        let rate = self.rate.map(|rate| ("--rate", rate.to_string()));
        let arguments = [
            ("--interface", self.interface.clone()),
            ("--source-mac", self.source_mac.to_string()),
            ("--destination-mac", self.destination_mac.to_string()),
            ("--source", self.source.to_string()),
            ("--destination", self.destination.to_string()),
            ("--bytes", self.bytes.to_string()),
            ("--flows", self.flows.to_string()),
            ("--first", self.first.to_string()),
            ("--seconds", self.seconds.to_string()),
        ];
        with(
            Program::new(sluice_perf).arg("generate"),
            arguments.into_iter().chain(core).chain(rate),
        )
    }
}

/// Arguments of `count`.
#[derive(Args, Clone, Debug)]
pub struct Count {
    #[arg(long)]
    pub interface: String,
    /// UDP port of the tunnel
    #[arg(long)]
    pub port: u16,
    /// Where in a frame the inner packet begins: 42 for plain datagrams, 64 for VXLAN
    #[arg(long)]
    pub inner_at: u8,
    /// Where the inner packet must be going
    #[arg(long)]
    pub inner_destination: Ipv4Addr,
    /// Seconds until it begins to count
    #[arg(long, default_value_t = 0.0)]
    pub after: f64,
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
    /// Take frames from the device on this core
    #[arg(long)]
    pub core: Option<usize>,
}

/// What `count` says.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Counted {
    /// Frames with the right packet inside, and others to the tunnel's port.
    pub expected: u64,
    pub other: u64,
    pub seconds: f64,
}

impl Count {
    fn run(&self) -> Result<Counted, LabError> {
        let expected = Expected {
            port: self.port,
            inner_at: self.inner_at,
            inner_destination: self.inner_destination,
        };
        let sink = Sink::attach(&self.interface, &expected)?;
        if let Some(core) = self.core {
            napi::poll_on(&self.interface, Some(core))?;
        }
        pause(Duration::from_secs_f64(self.after));
        let (before, begin): (Sunk, _) = (sink.sunk()?, now());
        pause(Duration::from_secs_f64(self.seconds));
        let (after, seconds) = (sink.sunk()?, begin.elapsed().as_secs_f64());
        Ok(Counted {
            expected: after.expected - before.expected,
            other: after.other - before.other,
            seconds,
        })
    }

    /// The command that does it.
    #[must_use]
    pub fn program(&self, sluice_perf: &Path) -> Program {
        let core = self.core.map(|core| ("--core", core.to_string()));
        let arguments = [
            ("--interface", self.interface.clone()),
            ("--port", self.port.to_string()),
            ("--inner-at", self.inner_at.to_string()),
            ("--inner-destination", self.inner_destination.to_string()),
            ("--after", self.after.to_string()),
            ("--seconds", self.seconds.to_string()),
        ];
        with(
            Program::new(sluice_perf).arg("count"),
            arguments.into_iter().chain(core),
        )
    }
}

/// Arguments of `poll`.
#[derive(Args, Clone, Debug)]
pub struct Poll {
    #[arg(long)]
    pub interface: String,
    /// The core [default: interrupts, wherever they come]
    #[arg(long)]
    pub core: Option<usize>,
}

impl Poll {
    /// The command that does it.
    #[must_use]
    pub fn program(&self, sluice_perf: &Path) -> Program {
        let core = self.core.map(|core| ("--core", core.to_string()));
        let interface = [("--interface", self.interface.clone())];
        with(
            Program::new(sluice_perf).arg("poll"),
            interface.into_iter().chain(core),
        )
    }
}

/// `program` with further arguments. None holds anything that a remote shell would read otherwise.
pub(crate) fn with(
    program: Program,
    arguments: impl IntoIterator<Item = (&'static str, String)>,
) -> Program {
    arguments
        .into_iter()
        .fold(program, |program, (name, value)| {
            program.arg(name).arg(value)
        })
}

/// Runs an instrument at `host`, and reads what it says.
///
/// # Errors
/// When it fails, or says something else.
pub fn ask<T: for<'a> Deserialize<'a>>(host: &Host, program: &Program) -> Result<T, LabError> {
    let text = host.succeed(program)?;
    serde_json::from_str(&text).map_err(|_| LabError::Reply {
        what: format!("`{program}` at {}", host.name()),
        text,
    })
}

/// An Ethernet address as people write it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MacText(pub Mac);

impl std::fmt::Display for MacText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let octets = self.0.map(|octet| format!("{octet:02x}"));
        f.write_str(&octets.join(":"))
    }
}

/// # Errors
/// Names the form that is expected.
pub fn parse_mac(text: &str) -> Result<MacText, String> {
    host::mac(text)
        .map(MacText)
        .ok_or_else(|| format!("`{text}` is no Ethernet address like 02:00:00:00:00:0a"))
}
