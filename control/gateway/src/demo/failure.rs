//! What happens when things end: an instance, the managers; and whether every frame is accounted for.

use super::http::{Answers, ask};
use super::sites::Demo;
use super::{DemoError, Family};
use sluice_perf::lab::account;
use sluice_perf::lab::clock::{now, pause};

use sluice_perf::report::{Goal, Report, Row};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long requests go on before and after the kill.
const BEFORE: Duration = Duration::from_millis(300);
const AFTER: Duration = Duration::from_secs(3);
/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_millis(1000);

/// One request.
struct Probe {
    begin: Instant,
    end: Instant,
    right: bool,
}

/// Kills a web server while requests go on, and says how long new ones failed: from the kill to the end of the last
/// one that failed.
pub(super) fn failover(demo: &mut Demo, report: &mut Report) {
    let to = SocketAddr::new(demo.web_service(Family::V4), 80);
    let probes = demo
        .client
        .namespace
        .thread("probe", move || probe(to, BEFORE + AFTER));
    pause(BEFORE);
    let killed = now();
    demo.webs[1].nginx.kill();
    let probes = probes.join().unwrap_or_default();
    let failed = || {
        probes
            .iter()
            .filter(|probe| !probe.right && probe.end > killed)
    };
    let last = failed().map(|probe| probe.end).max();
    let failover = last.map_or(Duration::ZERO, |end| end - killed);
    report.push(Row::single(
        "failover_ms",
        failover.as_secs_f64() * 1e3,
        "ms",
    ));
    #[expect(clippy::cast_precision_loss, reason = "a few thousand requests")]
    let (lost, total) = (
        failed().count() as f64,
        probes.iter().filter(|probe| probe.begin > killed).count() as f64,
    );
    report.push(Row::single(
        "failover_failed_requests",
        lost,
        &format!("of {total} requests"),
    ));
}

fn probe(to: SocketAddr, duration: Duration) -> Vec<Probe> {
    let first = now();
    let mut probes = Vec::new();
    while first.elapsed() < duration {
        let begin = now();
        let right = request(to).is_ok_and(|answer| answer.contains("web "));
        probes.push(Probe {
            begin,
            end: now(),
            right,
        });
        pause(Duration::from_millis(1));
    }
    probes
}

fn request(to: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Stops every manager; what is known goes on talking, in both families.
pub(super) fn managers_down(demo: &mut Demo, report: &mut Report) -> Result<(), DemoError> {
    demo.sites.stop_managers();
    pause(Duration::from_millis(500));
    let mut failed = 0;
    let mut count = |answers: Answers| failed += answers.failed();
    for family in Family::BOTH {
        count(ask(&demo.client, family, &Demo::web_name(), 100)?);
        count(ask(&demo.neighbour, family, &Demo::web_name(), 20)?);
        let instance = demo.webs[2].instance_name();
        count(ask(&demo.client, family, &instance, 20)?);
    }
    report.push(
        Row::single("managers_down_failed", failed.into(), "of 280 requests")
            .with_goal(Goal::ValueIs(0.0)),
    );
    Ok(())
}

/// Every frame that a gateway received or made is forwarded, held, merged or dropped for a reason.
pub(super) fn accounting(demo: &mut Demo, report: &mut Report) -> Result<(), DemoError> {
    let mut balanced = true;
    for gateway in &mut demo.sites.gateways {
        gateway.role.alive()?;
        balanced &= account::quiescent(&gateway.role.admin)?.balanced();
    }
    report.push(
        Row::single(
            "accounting_balanced",
            f64::from(u8::from(balanced)),
            "1 = yes",
        )
        .with_goal(Goal::ValueIs(1.0)),
    );
    Ok(())
}
