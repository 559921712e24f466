//! Bulk: a file whose hash must come out equal, with and without loss, and throughput beside plain routing.

use super::sites::Demo;
use super::web::first_word;
use super::{DemoError, Family, check};
use sluice_perf::lab::{LabError, Program, tools};
use sluice_perf::report::{Report, Row};
use sluice_perf::traffic::tcp;

const LOSS_PERCENT: u8 = 2;
/// Seconds of each throughput run.
const SECONDS: f64 = 2.0;

/// Fetches the file by name over a clean wire, then over a lossy one.
pub(super) fn hashes(demo: &Demo, family: Family, report: &mut Report) -> Result<(), DemoError> {
    report.push(check(
        "transfer_sha256_equal",
        family,
        fetch(demo, family)? == demo.files.sha256,
    ));
    let wire = demo.sites.wire.as_ref();
    if let Some(wire) = wire {
        wire.lose(LOSS_PERCENT)?;
    }
    let lossy = fetch(demo, family);
    if let Some(wire) = wire {
        wire.lose(0)?;
    }
    report.push(check(
        "transfer_lossy_sha256_equal",
        family,
        lossy? == demo.files.sha256,
    ));
    Ok(())
}

/// The hash of the file as the client receives it; empty when the transfer fails.
pub(super) fn fetch(demo: &Demo, family: Family) -> Result<String, LabError> {
    let script = format!(
        "set -o pipefail; {} {} --silent --fail --max-time 40 'http://{}/file' | {}",
        tools::find("curl")?.display(),
        family.flag(),
        Demo::web_name(),
        tools::find("sha256sum")?.display()
    );
    let program = Program::new("bash").args(["-c", &script]);
    let output = demo.client.output(&program)?;
    Ok(if output.status.success() {
        first_word(&String::from_utf8_lossy(&output.stdout))
    } else {
        String::new()
    })
}

/// TCP by ServiceIP beside plain kernel routing between the same nodes over the same wire.
pub(super) fn throughput(
    demo: &Demo,
    family: Family,
    report: &mut Report,
) -> Result<(), DemoError> {
    let by_service = tcp::transfer(
        &demo.client.namespace,
        demo.bulk_service(family),
        1,
        SECONDS,
    )?;
    let by_kernel = tcp::transfer(
        &demo.route.client,
        demo.route.address[family.index()],
        1,
        SECONDS,
    )?;
    report.push(Row::beside(
        &family.row("tcp_service_ip"),
        "Gbit/s",
        "kernel_route",
        &[(by_service.gbit_s, by_kernel.gbit_s)],
    ));
    report.push(Row::single(
        &family.row("tcp_kernel_route"),
        by_kernel.gbit_s,
        "Gbit/s",
    ));
    Ok(())
}
