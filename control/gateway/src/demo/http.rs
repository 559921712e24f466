//! HTTP requests by real curl and by name, each on a connection of its own.

use super::sites::{Demo, Place};
use super::web::first_word;
use super::{DemoError, Family, check};
use sluice_perf::lab::{LabError, Program, tools};
use sluice_perf::report::{Goal, Report, Row};
use std::collections::BTreeMap;

/// What a run of requests came to.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub(super) asked: u32,
    /// How often each server answered.
    pub(super) by: BTreeMap<String, u32>,
    /// Connections that curl opened.
    connections: u32,
}

impl Answers {
    pub(super) fn answered(&self) -> u32 {
        self.by.values().sum()
    }

    pub(super) fn failed(&self) -> u32 {
        self.asked - self.answered()
    }

    pub(super) fn from(&self, name: &str) -> u32 {
        self.by.get(name).copied().unwrap_or_default()
    }

    /// Every request was answered, on its own connection.
    fn all(&self) -> bool {
        self.failed() == 0 && self.connections == self.asked
    }
}

/// A name is looked up by the C library, as programs do: the service's address comes from the gateway.
pub(super) fn name(demo: &Demo, family: Family, report: &mut Report) -> Result<(), DemoError> {
    let database = match family {
        Family::V4 => "ahostsv4",
        Family::V6 => "ahostsv6",
    };
    let getent = Program::new(tools::find("getent")?).args([database, &Demo::web_name()]);
    let output = demo.client.output(&getent)?;
    let first = first_word(&String::from_utf8_lossy(&output.stdout));
    let right = first.parse() == Ok(demo.web_service(family));
    report.push(check("name_resolved", family, right));
    Ok(())
}

/// Sends `count` requests by name one after the other with one curl, which opens a new connection for each.
pub(super) fn ask(from: &Place, family: Family, to: &str, count: u32) -> Result<Answers, LabError> {
    let program = Program::new(tools::find("curl")?)
        .arg(family.flag())
        .args(["--silent", "--connect-timeout", "3", "--max-time", "5"])
        .args(["--header", "Connection: close"])
        .args(["--write-out", "%{http_code} %{num_connects}\\n"])
        .arg(format!("http://{to}/?[1-{count}]"));
    // curl's status is that of the last request only; the answers are counted instead.
    let output = from.output(&program)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut answers = Answers {
        asked: count,
        ..Answers::default()
    };
    let mut server = None;
    for line in text.lines() {
        if line.starts_with("web ") {
            server = Some(line.to_owned());
        } else if let Some((status, connections)) = line.split_once(' ') {
            if let ("200", Some(server)) = (status, server.take()) {
                *answers.by.entry(server).or_default() += 1;
            }
            answers.connections += connections.parse::<u32>().unwrap_or_default();
        }
    }
    Ok(answers)
}

/// 300 requests to the round-robin name, from a site's node that has no web server.
pub(super) fn spread(demo: &Demo, family: Family, report: &mut Report) -> Result<(), DemoError> {
    let answers = ask(&demo.client, family, &Demo::web_name(), 300)?;
    let shares: Vec<u32> = demo
        .webs
        .iter()
        .map(|web| answers.from(&web.name()))
        .collect();
    let most = shares.iter().max().copied().unwrap_or_default();
    let least = shares.iter().min().copied().unwrap_or_default();
    report.push(
        Row::single(
            &family.row("http_requests"),
            answers.connections.into(),
            "connections",
        )
        .with_goal(Goal::ValueIs(300.0)),
    );
    report.push(
        Row::single(
            &family.row("http_failed"),
            answers.failed().into(),
            "requests",
        )
        .with_goal(Goal::ValueIs(0.0)),
    );
    report.push(
        Row::single(
            &family.row("http_share_max_minus_min"),
            (most - least).into(),
            "requests",
        )
        .with_goal(Goal::ValueAtMost(3.0)),
    );
    Ok(())
}

/// The same by the names of instances: 100 to each instance, which must answer itself.
pub(super) fn by_instance(
    demo: &Demo,
    family: Family,
    report: &mut Report,
) -> Result<(), DemoError> {
    let mut failed = 0;
    for web in &demo.webs {
        let answers = ask(&demo.client, family, &web.instance_name(), 100)?;
        failed += 100 - answers.from(&web.name());
    }
    report.push(
        Row::single(
            &family.row("instance_ip_failed"),
            failed.into(),
            "of 300 requests",
        )
        .with_goal(Goal::ValueIs(0.0)),
    );
    Ok(())
}

/// An instance calls its own service: others answer it, and it answers itself; also by its own name.
pub(super) fn hairpin(demo: &Demo, family: Family, report: &mut Report) -> Result<(), DemoError> {
    let caller = &demo.webs[0];
    let service = ask(&caller.place, family, &Demo::web_name(), 30)?;
    let itself = ask(&caller.place, family, &caller.instance_name(), 10)?;
    let right =
        service.all() && service.from(&caller.name()) > 0 && itself.from(&caller.name()) == 10;
    report.push(check("hairpin_ok", family, right));
    Ok(())
}

/// A client calls the service while an instance runs on its node, and that instance itself.
pub(super) fn same_node(demo: &Demo, family: Family, report: &mut Report) -> Result<(), DemoError> {
    let neighbour = &demo.webs[0];
    let service = ask(&demo.neighbour, family, &Demo::web_name(), 30)?;
    let beside = ask(&demo.neighbour, family, &neighbour.instance_name(), 10)?;
    let right = service.all()
        && service.from(&neighbour.name()) > 0
        && beside.from(&neighbour.name()) == 10;
    report.push(check("same_node_ok", family, right));
    Ok(())
}
