//! The contestants on a device under test between two other hosts. They take turns there: each has both interfaces for
//! itself, and what it set up is taken away before the next one's turn.

use super::super::forward::{self, Forward};
use super::{Contestant, GATEWAY, Ground, MEASURED, Track, Tracks, counting, stream};
use crate::instrument::{MacText, Poll};
use crate::lab::clock::pause;
use crate::lab::{Host, LabError, Program};
use crate::peers::vxlan_path;
use crate::suites::gateway::GatewayAt;
use crate::suites::places::Places;
use serde_json::Value;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

/// What a gateway or a forwarder needs until it carries frames; drivers restart their queues meanwhile.
const SETTLE: Duration = Duration::from_millis(1500);
/// How long the bare forwarder lives: its turn, and no longer than that when the connection to it breaks.
const FORWARDER_SECONDS: f64 = 5.0;

/// Three hosts.
pub(super) struct Hosts {
    gateway: GatewayAt,
    dut: Host,
    service: String,
    forward: Forward,
    node: Ipv4Addr,
    other: Ipv4Addr,
    sluice_perf: PathBuf,
    tracks: Tracks,
    on: Option<Contestant>,
    forwarder: Option<JoinHandle<Result<String, LabError>>>,
}

impl Hosts {
    /// Nothing runs on the device under test afterwards.
    pub(super) fn new(
        places: &Places,
        sluice: &Path,
        sluice_perf: &Path,
    ) -> Result<Self, LabError> {
        let [generator, dut, sink] =
            [&places.generator, &places.dut, &places.sink].map(|place| place.host(&places.shell));
        let (from, to) = (&places.generator.interfaces[0], &places.sink.interfaces[0]);
        let [service, underlay] = [&places.dut.interfaces[0], &places.dut.interfaces[1]];
        let (node, other) = (dut.address(underlay)?, sink.address(to)?);
        let (mac, next_hop) = (dut.device(service)?.mac, sink.device(to)?.mac);
        let own_mac = generator.device(from)?.mac;
        let call = places.gateway.call;
        let track = |source, destination, count: (u16, u8, Ipv4Addr)| Track {
            generator: generator.clone(),
            sink: sink.clone(),
            generate: stream(from, [own_mac, mac], source, destination),
            count: counting(to, count.0, count.1, count.2),
        };
        let gateway = GatewayAt::new(dut.clone(), &places.gateway, sluice)?;
        gateway.stop()?;
        Ok(Self {
            gateway,
            service: service.clone(),
            forward: Forward {
                service: service.clone(),
                underlay: underlay.clone(),
                source: node,
                to: other,
                next_hop: MacText(next_hop),
                core: MEASURED,
                seconds: Some(FORWARDER_SECONDS),
            },
            node,
            other,
            sluice_perf: sluice_perf.to_owned(),
            tracks: Tracks {
                ours: track(call.caller, call.dialled, (forward::PORT, 42, call.called)),
                kernel: track(
                    vxlan_path::CALLER,
                    vxlan_path::DIALLED,
                    (vxlan_path::PORT, vxlan_path::INNER_AT, vxlan_path::BEHIND),
                ),
                bare: track(call.caller, call.dialled, (forward::PORT, 42, call.dialled)),
            },
            dut,
            on: None,
            forwarder: None,
        })
    }

    fn poll(&self, core: Option<usize>) -> Result<(), LabError> {
        let poll = Poll {
            interface: self.service.clone(),
            core,
        };
        let program = poll.program(&self.sluice_perf);
        self.dut.succeed(&program).map(drop)
    }

    fn end(&mut self) -> Result<(), LabError> {
        match self.on.take() {
            Some(Contestant::Ours | Contestant::OffloadedInline) => self.gateway.stop(),
            Some(Contestant::Offloaded) => {
                self.poll(None)?;
                self.gateway.stop()
            }
            Some(Contestant::Threaded | Contestant::Inline) => {
                self.poll(None)?;
                vxlan_path::remove(&self.dut, &self.service)
            }
            Some(Contestant::Bare) => match self.forwarder.take().map(JoinHandle::join) {
                Some(Ok(ended)) => ended.map(drop),
                Some(Err(panic)) => std::panic::resume_unwind(panic),
                None => Ok(()),
            },
            None => Ok(()),
        }
    }
}

impl Ground for Hosts {
    fn stage(&mut self, contestant: Contestant) -> Result<bool, LabError> {
        self.end()?;
        self.on = Some(contestant);
        match contestant {
            Contestant::Ours | Contestant::Offloaded | Contestant::OffloadedInline => {
                let offload = contestant != Contestant::Ours;
                self.gateway
                    .restart(&format!("{GATEWAY}offload = {offload}"))?;
                self.gateway.ready()?;
                pause(SETTLE);
                if contestant == Contestant::Offloaded {
                    self.poll(Some(MEASURED))?;
                }
            }
            Contestant::Threaded | Contestant::Inline => {
                vxlan_path::set_up(&self.dut, &self.service, self.node, self.other)?;
                self.poll((contestant == Contestant::Threaded).then_some(MEASURED))?;
            }
            Contestant::Bare => {
                let (host, program) = (self.dut.clone(), self.forward.program(&self.sluice_perf));
                self.forwarder = Some(std::thread::spawn(move || host.succeed(&program)));
                pause(SETTLE);
                self.poll(Some(MEASURED))?;
            }
        }
        Ok(true)
    }

    fn tracks(&self) -> &Tracks {
        &self.tracks
    }

    fn make_room(&mut self, flows: u32) -> Result<(), LabError> {
        let limit = Program::new("sysctl").args(["-n", "net.netfilter.nf_conntrack_max"]);
        let text = self.dut.succeed(&limit)?;
        if text.trim().parse().is_ok_and(|limit: u32| limit >= flows) {
            return Ok(());
        }
        Err(LabError::Request(format!(
            "{} follows at most {} flows; `sysctl -w net.netfilter.nf_conntrack_max={}` there gives the peer room",
            self.dut.name(),
            text.trim(),
            2 * flows
        )))
    }

    fn status(&self) -> Result<Value, LabError> {
        self.gateway.ask("status")
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        // Whatever went wrong before has been said.
        let _ = self.end();
    }
}
