//! What `--fix` mends, and `--undo` brings back.

use super::Host;
use serde_json::Value;
use sluice_perf::lab::wire::offload;
use sluice_perf::lab::{Program, tools};
use std::fs;

/// Reads the value from where it is: a file below `/proc/sys/net` or `/sys`, a switch of ethtool, a queue.
type Reading = fn(&Host) -> String;

/// The rule, how the fault comes, where its value is, and that value when it is mended.
type Repair = (&'static str, fn(&mut Host), Reading, &'static str);

/// What `--fix` may do.
const FIXABLE: &[Repair] = &[
    (
        "reverse-path-filter",
        |host| {
            host.ip("link add sluice0 type veth peer name sluice0p");
            host.set("ipv4/conf/sluice0/rp_filter", "1");
        },
        |host| host.read("/proc/sys/net/ipv4/conf/sluice0/rp_filter"),
        "2",
    ),
    (
        "device-forwarding",
        |host| {
            host.ip("link add sluice0 type veth peer name sluice0p");
            host.set("ipv4/conf/sluice0/forwarding", "0");
        },
        |host| host.read("/proc/sys/net/ipv4/conf/sluice0/forwarding"),
        "1",
    ),
    (
        "router-advertisements",
        |host| {
            host.set("ipv6/conf/all/forwarding", "1");
            host.set("ipv6/conf/eth0/accept_ra", "1");
            host.ip("route add default via fe80::1 dev eth0 proto ra");
        },
        |host| host.read("/proc/sys/net/ipv6/conf/eth0/accept_ra"),
        "2",
    ),
    (
        "path-mtu-discovery",
        |host| host.set("ipv4/ip_no_pmtu_disc", "3"),
        |host| host.read("/proc/sys/net/ipv4/ip_no_pmtu_disc"),
        "0",
    ),
    (
        "tunnel-port-reserved",
        |host| host.set("ipv4/ip_local_reserved_ports", "8080,9000-9010"),
        |host| host.read("/proc/sys/net/ipv4/ip_local_reserved_ports"),
        "8080,9000-9010,50103",
    ),
    (
        "tunnel-port-reserved",
        |host| host.set("ipv4/ip_local_reserved_ports", "\n"),
        |host| host.read("/proc/sys/net/ipv4/ip_local_reserved_ports"),
        "50103",
    ),
    (
        "queues",
        |host| host.configure(|text| text.replace("workers = 1", "workers = 2")),
        |host| {
            host.read("/sys/class/net/eth0/queues/rx-0/rps_cpus")
                .replace('0', "")
        },
        // A bit for each core that the doctor may use.
        "*",
    ),
    (
        "tun-queue",
        |host| host.ip("tuntap add sluicetun0 mode tun\nlink set sluicetun0 txqueuelen 77"),
        |host| {
            let shown =
                host.namespace
                    .succeed(&Program::new("ip").args(["link", "show", "sluicetun0"]));
            let shown = shown.unwrap();
            let mut words = shown.split_whitespace().skip_while(|word| *word != "qlen");
            words.nth(1).unwrap().to_owned()
        },
        "1000",
    ),
    (
        "offloads",
        |host| {
            offload(
                &host.namespace,
                "eth0",
                &["gro", "off", "tso", "off", "gso", "off"],
            )
            .unwrap()
        },
        |host| {
            switches(
                host,
                &[
                    "generic-receive-offload",
                    "generic-segmentation-offload",
                    "tx-tcp-segmentation",
                ],
            )
        },
        "on on on",
    ),
];

fn switches(host: &Host, names: &[&str]) -> String {
    let program = Program::new(tools::find("ethtool").unwrap()).args(["-k", "eth0"]);
    let shown = host.namespace.succeed(&program).unwrap();
    let value = |name: &&str| {
        let line = shown
            .lines()
            .find_map(|line| line.trim().strip_prefix(&format!("{name}:")));
        line.unwrap().split_whitespace().next().unwrap().to_owned()
    };
    names.iter().map(value).collect::<Vec<_>>().join(" ")
}

#[test]
#[ignore = "needs root"]
fn a_fix_mends_and_an_undo_restores_exactly() {
    for (row, (check, seed, value, mended)) in FIXABLE.iter().enumerate() {
        let mut host = Host::new(&format!("fix{row}"));
        seed(&mut host);
        let former = value(&host);
        let found = host.doctor("");
        assert!(
            found.of(check).iter().any(|complaint| complaint.automatic),
            "{check}: {}",
            found.text
        );

        let fixed = host.doctor("--fix");
        assert!(
            fixed.of(check).is_empty(),
            "{check} is still there: {}",
            fixed.text
        );
        assert!(
            !fixed.changed.is_empty() && fixed.changed.iter().all(|done| done["error"].is_null()),
            "{}",
            fixed.text
        );
        if *mended == "*" {
            assert_ne!(value(&host), former, "{check}");
        } else {
            assert_eq!(value(&host), *mended, "{check}: {}", fixed.text);
        }
        // A second time there is nothing to do, and what was there first is not forgotten.
        let again = host.doctor("--fix");
        assert_eq!(
            again.changed,
            Vec::<Value>::new(),
            "{check}: {}",
            again.text
        );

        let undone = host.doctor("--undo");
        assert_eq!(value(&host), former, "{check}: {}", undone.text);
        assert!(
            undone.of(check).iter().any(|complaint| complaint.automatic),
            "{check}: {}",
            undone.text
        );
        let nothing = host.doctor("--undo");
        assert_eq!(
            nothing.changed,
            Vec::<Value>::new(),
            "{check}: {}",
            nothing.text
        );
    }
}

/// What cannot be written down is not changed.
#[test]
#[ignore = "needs root"]
fn without_a_record_nothing_is_changed() {
    let host = Host::new("record");
    host.set("ipv4/ip_no_pmtu_disc", "1");
    host.file("state", "no directory");
    let command = format!(
        "{} --config {} doctor --fix",
        crate::world::sluice().display(),
        host.config().display()
    );
    let output = host.namespace.output(&host.inside(&command)).unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("doctor.json"), "{text}");
    assert_eq!(host.read("/proc/sys/net/ipv4/ip_no_pmtu_disc"), "1");
}

/// After a boot every setting is the system's again, and what was there in another life must not come back.
#[test]
#[ignore = "needs root"]
fn an_undo_restores_nothing_of_another_boot() {
    let host = Host::new("boot");
    host.set("ipv4/ip_no_pmtu_disc", "1");
    host.doctor("--fix");
    let file = host.scratch.path().join("state/doctor.json");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let record = fs::read_to_string(&file).unwrap();
    assert!(record.contains(boot.trim()), "{record}");
    fs::write(&file, record.replace(boot.trim(), "another")).unwrap();
    let undone = host.doctor("--undo");
    assert_eq!(undone.changed, Vec::<Value>::new(), "{}", undone.text);
    assert_eq!(host.read("/proc/sys/net/ipv4/ip_no_pmtu_disc"), "0");
    assert!(!file.exists());
}

/// A device that has gone takes its former values with it.
#[test]
#[ignore = "needs root"]
fn an_undo_passes_over_what_is_gone() {
    let host = Host::new("gone");
    host.set("ipv4/ip_no_pmtu_disc", "1");
    host.ip("tuntap add sluicetun0 mode tun\nlink set sluicetun0 txqueuelen 77");
    let fixed = host.doctor("--fix");
    assert_eq!(fixed.changed.len(), 2, "{}", fixed.text);
    host.ip("link del sluicetun0");
    let undone = host.doctor("--undo");
    assert_eq!(undone.changed.len(), 1, "{}", undone.text);
    assert_eq!(host.read("/proc/sys/net/ipv4/ip_no_pmtu_disc"), "1");
    assert!(host.far.name() == "far" && !host.scratch.path().join("state/doctor.json").exists());
}
