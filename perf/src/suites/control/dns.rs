//! Names that a gateway knows: dnsperf asks from an attached namespace, as fast as it is answered.
//!
//! ```text
//!  core 0     core 1
//!  gateway ── dnsperf, in an instance's namespace      managers, wherever there is room: they are not asked
//! ```

use super::{LOAD, MANAGER, Pace};
use crate::lab::scratch::Scratch;
use crate::lab::sites::{Attached, Cable, Layout, Sites, Target};
use crate::lab::{LabError, NetNs, Program, cores, tools};
use crate::report::{Goal, Report, Row};
use crate::suites::Settings;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;

const SERVICES: usize = 10;
/// Queries that dnsperf has on their way at a time, its own default.
const OUTSTANDING: &str = "100";

/// `dns_qps`.
pub(super) fn run(settings: &Settings, pace: &Pace, report: &mut Report) -> Result<(), LabError> {
    let layout = Layout::measured(1, Cable::Switch);
    let scratch = Scratch::new("sluice-perf-dns")?;
    let sites = Sites::new(&settings.sluice, scratch, &layout)?;
    let names: Vec<String> = (0..=SERVICES).map(|number| format!("s{number}")).collect();
    sites.apply_measured("names", &names)?;
    // The last one is the caller.
    let mut instances = names
        .iter()
        .map(|name| attach(&sites, name))
        .collect::<Result<Vec<_>, LabError>>()?;
    let (client, attached) = instances
        .pop()
        .unwrap_or_else(|| unreachable!("there is a caller"));
    let server = attached
        .name_server
        .first()
        .ok_or_else(|| LabError::Reply {
            what: "the answer of sluice attach".to_owned(),
            text: format!("no name server: {attached:?}"),
        })?;
    let queries = sites.scratch.file("queries", &queries())?;
    let gateway = sites.gateways[0].role.pid().unwrap_or_default();
    cores::pin_process(gateway, MANAGER)?;
    // The first answers come from the managers.
    ask(&client, *server, &queries, 1.0)?;
    let rates = (0..pace.rounds)
        .map(|_| ask(&client, *server, &queries, pace.seconds))
        .collect::<Result<Vec<f64>, LabError>>()?;
    let row = Row::median("dns_qps", "queries/s", &rates);
    report.push(row.with_goal(Goal::ValueAtLeast(50_000.0)));
    Ok(())
}

fn attach(sites: &Sites, name: &str) -> Result<(NetNs, Attached), LabError> {
    let namespace = NetNs::new(name)?;
    let service = format!("bench.names.{name}.perf");
    let attached = sites.attach(0, &service, Target::Namespace(&namespace))?;
    Ok((namespace, attached))
}

/// Each service by its round-robin name, in both families.
fn queries() -> String {
    (0..SERVICES).fold(String::new(), |mut text, number| {
        for family in ["A", "AAAA"] {
            let _ = writeln!(text, "bench.names.s{number}.perf.any.rr.local {family}");
        }
        text
    })
}

/// Answers per second; every one names an address.
fn ask(client: &NetNs, server: IpAddr, queries: &Path, seconds: f64) -> Result<f64, LabError> {
    let program = Program::new("taskset")
        .args(["-c", &LOAD.to_string()])
        .arg(tools::find("dnsperf")?)
        .args(["-s", &server.to_string(), "-d"])
        .arg(queries)
        .args(["-l", &seconds.ceil().to_string(), "-q", OUTSTANDING]);
    let said = client.succeed(&program)?;
    let field = |name: &str| {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(name));
        line.map(str::trim)
    };
    let rate = field("Queries per second:").and_then(|text| text.parse().ok());
    let all_found = field("Response codes:")
        .is_some_and(|codes| codes.starts_with("NOERROR") && codes.ends_with("(100.00%)"));
    match rate {
        Some(rate) if all_found => Ok(rate),
        _ => Err(LabError::Reply {
            what: program.to_string(),
            text: said,
        }),
    }
}
