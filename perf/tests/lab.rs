//! The laboratory itself: what it promises to tests, benches and the demo.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use sluice_perf::lab::clock::wait_for;
use sluice_perf::lab::delay::{DelayLine, End, Settings};
use sluice_perf::lab::ping::ping;
use sluice_perf::lab::scratch::Scratch;
use sluice_perf::lab::wire::{Switch, carried, veth};
use sluice_perf::lab::{NetNs, Program};
use std::time::{Duration, Instant};

fn addresses(namespace: &NetNs, device: &str, last: u8) {
    namespace
        .ip(&format!(
            "address add 192.0.2.{last}/24 dev {device}\naddress add fd00::{last}/64 dev {device} nodad"
        ))
        .unwrap();
}

fn lost(from: &NetNs, to: &str, count: u32) -> f64 {
    let ping = ping(count).unwrap().args(["-q", to]);
    let output = from.output(&ping).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split(", ")
        .find_map(|part| part.split_once("% packet loss")?.0.parse().ok())
        .unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// ```text
/// a ── b
/// ```
#[test]
#[ignore = "needs root"]
fn two_namespaces_talk_over_a_cable_and_leave_nothing() {
    let scratch = Scratch::new("sluice-lab-test").unwrap();
    let (a, b) = (NetNs::new("a").unwrap(), NetNs::new("b").unwrap());
    veth((&a, "eth0"), (&b, "eth0"), 1500).unwrap();
    addresses(&a, "eth0", 1);
    addresses(&b, "eth0", 2);
    assert_eq!(lost(&a, "192.0.2.2", 3), 0.0);
    assert_eq!(lost(&a, "fd00::2", 3), 0.0);
    assert!(carried(&(&a).into(), "eth0").unwrap().sent_frames >= 6);

    let mut sleeper = a
        .start(
            &Program::new("sleep").arg("100"),
            &scratch.path().join("log"),
        )
        .unwrap();
    assert!(sleeper.ended().is_none());
    let pid = sleeper.pid();
    drop(sleeper);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    let path = a.path();
    assert!(path.exists());
    drop(a);
    assert!(!path.exists());
    // The cable went with the namespace; the kernel does that work in the background.
    wait_for("the other end to go", Duration::from_secs(5), || {
        carried(&(&b).into(), "eth0").map_or(Ok(()), |_| Err("still there".to_owned()))
    })
    .unwrap();
}

/// ```text
/// a ── switch ── b      frames from a are lost at the switch
/// ```
#[test]
#[ignore = "needs root"]
fn a_switch_loses_what_it_is_told_to_lose() {
    let mut switch = Switch::new("switch").unwrap();
    let (a, b) = (NetNs::new("a").unwrap(), NetNs::new("b").unwrap());
    for (host, last) in [(&a, 1), (&b, 2)] {
        switch.join(host, "eth0", 1500).unwrap();
        addresses(host, "eth0", last);
    }
    assert_eq!(lost(&a, "192.0.2.2", 10), 0.0);
    switch.lose(40).unwrap();
    let percent = lost(&a, "192.0.2.2", 200);
    assert!((20.0..90.0).contains(&percent), "{percent}");
    switch.lose(0).unwrap();
    assert_eq!(lost(&a, "192.0.2.2", 10), 0.0);
}

/// ```text
/// a ══ 5 ms ══ b
/// ```
#[test]
#[ignore = "needs root"]
fn a_delay_line_delays_both_ways() {
    let (a, b) = (NetNs::new("a").unwrap(), NetNs::new("b").unwrap());
    let end = |namespace: &NetNs, last: u8| End {
        namespace: namespace.clone(),
        device: "wan0".to_owned(),
        addresses: vec![
            (format!("192.0.2.{last}").parse().unwrap(), 24),
            (format!("fd00::{last}").parse().unwrap(), 64),
        ],
    };
    let line = DelayLine::new(
        &[end(&a, 1), end(&b, 2)],
        Settings {
            one_way: Duration::from_millis(5),
            jitter: Duration::ZERO,
            lost_per_mille: 0,
            seed: 7,
        },
    )
    .unwrap();
    #[expect(clippy::disallowed_methods, reason = "the test measures time")]
    let begin = Instant::now();
    assert_eq!(lost(&a, "192.0.2.2", 1), 0.0);
    assert!(begin.elapsed() >= Duration::from_millis(10));
    assert_eq!(lost(&b, "fd00::1", 3), 0.0);
    drop(line);
}
