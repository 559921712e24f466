//! The two ends of a contestant's connections: a client and a server, in namespaces of this machine or on other hosts.

use crate::instrument::ends::{Blast, Request, Serve, Served, Transfer};
use crate::lab::clock::wait_for;
use crate::lab::{Conversation, Host, LabError};
use crate::traffic::requests::Latency;
use crate::traffic::tcp::{self, Received};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Datagrams are sent for so long at a time until one arrives: the first may have to ask the managers.
const TRIAL_S: f64 = 0.02;

/// A client, a server, and the address the one dials to reach the other.
pub(super) struct Ends {
    pub(super) client: Host,
    pub(super) service: IpAddr,
    server: Conversation,
    sluice_perf: PathBuf,
}

impl Ends {
    /// Starts what serves.
    pub(super) fn new(
        client: Host,
        server: &Host,
        service: IpAddr,
        sluice_perf: &Path,
    ) -> Result<Self, LabError> {
        Ok(Self {
            client,
            service,
            server: Serve { name: 'a' }.start(server, sluice_perf)?,
            sluice_perf: sluice_perf.to_owned(),
        })
    }

    /// What so many TCP streams bring in so many seconds.
    pub(super) fn receive(&self, streams: u8, seconds: f64) -> Result<Received, LabError> {
        let transfer = Transfer {
            to: self.service,
            streams,
            seconds,
        };
        transfer.at(&self.client, &self.sluice_perf)
    }

    /// The same, and what the machines spend on it.
    pub(super) fn transfer(
        &self,
        streams: u8,
        seconds: f64,
        machines: &[Host],
    ) -> Result<tcp::Transfer, LabError> {
        Received::beside_cpu_time(machines, || self.receive(streams, seconds))
    }

    /// Datagrams per second that arrive while as many as possible are sent.
    pub(super) fn blast(&mut self, seconds: f64) -> Result<f64, LabError> {
        let send = |seconds| {
            let blast = Blast {
                to: self.service,
                seconds,
            };
            blast.at(&self.client, &self.sluice_perf)
        };
        let server = &mut self.server;
        let first = server.ask::<Served>(&())?.datagrams;
        let mut before = first;
        wait_for("a first datagram", Duration::from_secs(3), || {
            let tried = send(TRIAL_S).and_then(|_| server.ask::<Served>(&()));
            before = tried.map_err(|error| error.to_string())?.datagrams;
            if before > first {
                return Ok(());
            }
            Err("none arrived".to_owned())
        })?;
        let sent = send(seconds)?;
        let received = server.ask::<Served>(&())?.datagrams - before;
        Ok(received as f64 / sent.seconds)
    }

    /// Of `count` requests, each `gap` after the answer to the one before.
    pub(super) fn latency(&self, count: usize, gap: Duration) -> Result<Latency, LabError> {
        let request = Request {
            to: self.service,
            count,
            gap_us: u64::try_from(gap.as_micros()).unwrap_or(u64::MAX),
        };
        request.at(&self.client, &self.sluice_perf)
    }
}
