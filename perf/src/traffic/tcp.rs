//! TCP throughput by iperf3, and the CPU time the whole machine spent on it.

use crate::lab::clock::{pause, wait_for};
use crate::lab::{Host, LabError, NetNs, Process, Program, tools};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

/// The port iperf3 listens on.
pub const PORT: u16 = 5201;

/// An iperf3 server that stays.
///
/// # Errors
/// When it cannot be started.
pub fn server(namespace: &NetNs, log: &Path) -> Result<Process, LabError> {
    let program = Program::new(tools::find("iperf3")?)
        .args(["-s", "-p", &PORT.to_string()])
        .env("LD_LIBRARY_PATH", tools::library_path());
    let mut server = namespace.start(&program, log)?;
    listening(namespace, PORT, &mut server)?;
    Ok(server)
}

/// Waits until something in the namespace listens on a TCP port.
///
/// # Errors
/// When `process` ends before, or five seconds pass.
pub fn listening(namespace: &NetNs, port: u16, process: &mut Process) -> Result<(), LabError> {
    let needle = format!(":{port:04X} ");
    wait_for("a listening socket", Duration::from_secs(5), || {
        if process.ended().is_some() {
            return Ok(false);
        }
        let listens = ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|table| {
            namespace.read(table).is_ok_and(|text| {
                text.lines().any(|line| {
                    let mut fields = line.split_whitespace().skip(1);
                    let local = fields.next().unwrap_or_default();
                    fields.nth(1) == Some("0A") && format!("{local} ").ends_with(&needle)
                })
            })
        });
        if listens {
            Ok(true)
        } else {
            Err(format!("nothing on port {port}"))
        }
    })?;
    process.alive()
}

/// What a transfer brought.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Received {
    /// At the application, Gbit/s.
    pub gbit_s: f64,
    pub bytes: f64,
}

/// What one transfer came to.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Received at the application, Gbit/s.
    pub gbit_s: f64,
    /// Bytes received.
    pub bytes: f64,
    /// CPU seconds of the whole machine, both ends, kernel and everything else that ran.
    pub cpu_s: f64,
}

impl Transfer {
    /// CPU seconds per 10^9 bytes.
    #[must_use]
    pub fn cpu_s_per_gb(&self) -> f64 {
        self.cpu_s / (self.bytes / 1e9)
    }
}

impl Received {
    /// Adds what `machines` spend on `transfer`.
    ///
    /// # Errors
    /// When it fails, or a machine does not say how busy it was.
    pub fn beside_cpu_time(
        machines: &[Host],
        transfer: impl FnOnce() -> Result<Self, LabError>,
    ) -> Result<Transfer, LabError> {
        let before = cpu_seconds(machines)?;
        let Self { gbit_s, bytes } = transfer()?;
        let cpu_s = cpu_seconds(machines)? - before;
        // iperf3's server needs a moment to be ready for the next one.
        pause(Duration::from_millis(100));
        Ok(Transfer {
            gbit_s,
            bytes,
            cpu_s,
        })
    }
}

/// Runs `streams` TCP streams for some seconds from `namespace` to `to`, and counts this machine's CPU time.
///
/// # Errors
/// With iperf3's words when it fails.
pub fn transfer(
    namespace: &NetNs,
    to: IpAddr,
    streams: u8,
    duration_s: f64,
) -> Result<Transfer, LabError> {
    Received::beside_cpu_time(&[Host::Here], || {
        receive(namespace, to, streams, duration_s)
    })
}

/// The same without the CPU time.
///
/// # Errors
/// With iperf3's words when it fails.
pub fn receive(
    namespace: &NetNs,
    to: IpAddr,
    streams: u8,
    duration_s: f64,
) -> Result<Received, LabError> {
    let program = Program::new(tools::find("iperf3")?)
        .args(["-J", "-c", &to.to_string(), "-p", &PORT.to_string()])
        .args([
            "-P",
            &streams.to_string(),
            "-t",
            &duration_s.ceil().to_string(),
        ])
        .env("LD_LIBRARY_PATH", tools::library_path());
    let text = namespace.succeed(&program)?;
    let reply = |text: String| LabError::Reply {
        what: program.to_string(),
        text,
    };
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|_| reply(text.clone()))?;
    let received = &value["end"]["sum_received"];
    match (
        received["bits_per_second"].as_f64(),
        received["bytes"].as_f64(),
    ) {
        (Some(bits_s), Some(bytes)) if bytes > 0.0 => Ok(Received {
            gbit_s: bits_s / 1e9,
            bytes,
        }),
        _ => Err(reply(text)),
    }
}

/// CPU seconds that the machines have spent since they started, on anything but waiting.
fn cpu_seconds(machines: &[Host]) -> Result<f64, LabError> {
    machines
        .iter()
        .map(|machine| machine.read("/proc/stat").map(|text| busy_seconds(&text)))
        .sum()
}

/// From `/proc/stat`.
fn busy_seconds(text: &str) -> f64 {
    let fields: Vec<f64> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq: time stolen by a hypervisor is nobody's here.
    [0, 1, 2, 5, 6]
        .iter()
        .filter_map(|&index| fields.get(index))
        .sum::<f64>()
        / TICKS_PER_S
}

/// USER_HZ, which is 100 on every architecture that Debian supports.
const TICKS_PER_S: f64 = 100.0;
