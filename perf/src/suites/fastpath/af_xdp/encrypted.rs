//! The gateway that is measured, encrypting or not: frames per second of one flow, which workers carry or programs in the kernel.

use super::super::super::{Settings, sluice_perf};
use super::super::forward;
use super::namespaces::{gateways, poll_uplink};
use super::{AROUND, BESIDE, GATEWAY, GENTLE, MEASURED, OFFLOADED, Track, counting};
use crate::instrument::{Count, Counted, Generate, Generated, ask};
use crate::lab::clock::wait_for;
use crate::lab::sites::{PLAIN, Sites};
use crate::lab::{LabError, NetNs};
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// How it runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::suites) enum Mode {
    Encrypted,
    /// A worker carries every frame, as one does when it is encrypted.
    Plain,
    /// As by default: programs in the kernel forward established flows.
    PlainOffloaded,
}

/// Two gateways; the first over AF_XDP, and a sink before the second.
pub(in crate::suites) struct Encrypted {
    sites: Sites,
    sluice_perf: PathBuf,
    /// How plain frames go.
    track: Track,
    mode: Option<Mode>,
    _instances: [NetNs; 2],
}

impl Encrypted {
    pub(in crate::suites) fn new(settings: &Settings) -> Result<Self, LabError> {
        let sluice_perf = sluice_perf()?;
        let (sites, instances, track) = gateways(settings, &sluice_perf)?;
        Ok(Self {
            sites,
            sluice_perf,
            track,
            mode: None,
            _instances: instances,
        })
    }

    /// Frames per second of 64 bytes that arrive, sealed where it encrypts, at the sink.
    pub(in crate::suites) fn rate(&mut self, mode: Mode, seconds: f64) -> Result<f64, LabError> {
        self.turn(mode)?;
        let generate = Generate {
            seconds: seconds + 3.0 * AROUND,
            core: Some(BESIDE),
            ..self.track.generate.clone()
        };
        let count = Count {
            after: AROUND,
            seconds,
            core: Some(BESIDE),
            ..self.expected(mode)
        };
        let counted: Counted = std::thread::scope(|scope| {
            let program = generate.program(&self.sluice_perf);
            let generator = &self.track.generator;
            let generated = scope.spawn(move || ask::<Generated>(generator, &program));
            let counted = ask(&self.track.sink, &count.program(&self.sluice_perf));
            let generated = generated
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            generated.and(counted)
        })?;
        if counted.expected == 0 || counted.other > counted.expected / 100 {
            return Err(LabError::Reply {
                what: format!("{mode:?}, as seen at {}", self.track.sink.name()),
                text: format!("frames that are not those expected: {counted:?}"),
            });
        }
        Ok(counted.expected as f64 / counted.seconds)
    }

    /// What the sink counts. Of an encrypted datagram it can see that it is transport data: it begins with 4, 0, 0, 0.
    fn expected(&self, mode: Mode) -> Count {
        match mode {
            Mode::Plain | Mode::PlainOffloaded => self.track.count.clone(),
            Mode::Encrypted => {
                // The sink looks 16 bytes behind where a packet begins; the datagram's first bytes are 42 into the frame.
                let first = Ipv4Addr::new(4, 0, 0, 0);
                counting("eth0", forward::PORT, 42 - 16, first)
            }
        }
    }

    /// Starts both gateways in another mode, and makes the flow known.
    fn turn(&mut self, mode: Mode) -> Result<(), LabError> {
        if self.mode == Some(mode) {
            return Ok(());
        }
        let (tunnel, offload) = match mode {
            Mode::Encrypted => ("", true),
            Mode::Plain => (PLAIN, false),
            Mode::PlainOffloaded => (PLAIN, true),
        };
        self.sites.configure_tunnels(tunnel)?;
        self.sites.restart_each(|gateway| match gateway {
            0 => format!("{GATEWAY}offload = {offload}"),
            // Its device belongs to the sink.
            _ => "link = \"tun\"\noffload = false".to_owned(),
        })?;
        poll_uplink(&self.track.generator, &self.sluice_perf, Some(MEASURED))?;
        let gentle = Generate {
            // In another second an established flow's next packet has its offload asked for.
            seconds: if mode == Mode::PlainOffloaded {
                4.0
            } else {
                2.0
            },
            rate: Some(GENTLE / 10),
            core: Some(BESIDE),
            ..self.track.generate.clone()
        };
        ask::<Generated>(&self.track.generator, &gentle.program(&self.sluice_perf))?;
        if mode == Mode::PlainOffloaded {
            wait_for("the flow to be offloaded", OFFLOADED, || {
                let status = self.sites.gateways[0].role.ask("/v1/status");
                let status = status.map_err(|error| error.to_string())?;
                let count = status["flows_offloaded"].as_u64().unwrap_or_default();
                (count > 0)
                    .then_some(())
                    .ok_or_else(|| status["offload"].to_string())
            })?;
        }
        self.mode = Some(mode);
        Ok(())
    }
}
