//! The underlay's NIC: settings are made, read back from the kernel, and taken back.
//!
//! ```text
//!  gateway ── nic0 ═══ nic1        a veth pair with 4 queues stands for the NIC
//!     └────── wire
//! ```

use crate::world::{World, one_site, sluice};
use serde_json::Value;
use sluice_perf::lab::sites::{Layout, Role};
use sluice_perf::lab::{NetNs, Program};
use std::path::Path;

/// A profile of the operator for veth, in place of the shipped one.
const PROFILE: &str = r#"
name = "veth"
title = "the laboratory's"
verified = "lab"
source = ["measured"]
[match]
drivers = ["veth"]
[link]
recommended = "tun"
xdp = "native"
zero_copy = "no"
[set]
queues = 2
gro_flush_timeout_ns = 20000
napi_defer_hard_irqs = 2
gro = true
rx_ring = 512
"#;

/// A gateway whose underlay is `nic0`, not started.
fn world(name: &str) -> World {
    world_with(name, "")
}

/// As [`world`], with lines of the `[fastpath]` section.
fn world_with(name: &str, fastpath: &str) -> World {
    let layout = Layout {
        gateways: vec![0],
        fastpath: fastpath.to_owned(),
        ..one_site()
    };
    let world = World::built(name, &layout);
    let scratch = &world.sites.scratch;
    let profiles = scratch.directory("profiles").unwrap();
    std::fs::write(profiles.join("veth.toml"), PROFILE).unwrap();
    let queues = "numrxqueues 4 numtxqueues 4";
    world.sites.gateways[0]
        .namespace()
        .ip(&format!(
            "link add nic0 {queues} type veth peer name nic1 {queues}\nlink set nic0 up\nlink set nic1 up"
        ))
        .unwrap();
    world
}

/// The gateway's configuration with that `[hardware]` section, in place of the one before.
fn configure(role: &Role, hardware: &str) {
    role.configure(|text| {
        let before = text.split("\n[hardware]").next().unwrap_or_default();
        format!("{before}\n[hardware]\ninterface = \"nic0\"\n{hardware}")
    })
    .unwrap();
}

fn restart(role: &mut Role) {
    role.stop();
    role.start().unwrap();
    role.ready().unwrap_or_else(|error| panic!("{error}"));
}

/// `sluice ARGUMENTS` with the gateway's configuration.
fn run(role: &Role, arguments: &[&str]) -> String {
    let program = Program::new(sluice())
        .arg("--config")
        .arg(&role.config)
        .args(arguments);
    role.namespace
        .succeed(&program)
        .unwrap_or_else(|error| panic!("{error}"))
}

/// What `sluice status -o json` says of a setting.
fn setting(role: &Role, name: &str) -> Value {
    let status = run(role, &["status", "--at", "gateway", "-o", "json"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    let rows = status["gateway"]["hardware"]["settings"].clone();
    let rows = rows.as_array().unwrap_or_else(|| panic!("{status:#}"));
    rows.iter()
        .find(|row| row["setting"] == name)
        .cloned()
        .unwrap_or_default()
}

/// What the kernel has, asked by other programs: queues, TCP segmentation, GRO, and two files of sysfs.
fn kernel(namespace: &NetNs) -> [String; 5] {
    let say = |program: Program| namespace.succeed(&program).unwrap();
    let channels = say(Program::new("ethtool").args(["-l", "nic0"]));
    let now = channels
        .split("Current hardware settings")
        .nth(1)
        .unwrap_or_default();
    let features = say(Program::new("ethtool").args(["-k", "nic0"]));
    let field = |text: &str, name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    // A sysfs of that namespace: the one at /sys shows ours.
    let file = |name: &str| {
        let script = format!("mount -t sysfs none /sys && cat /sys/class/net/nic0/{name}");
        let text = say(Program::new("unshare").args(["-m", "sh", "-c", &script]));
        text.trim().to_owned()
    };
    [
        field(now, "RX:"),
        field(&features, "tcp-segmentation-offload:"),
        field(&features, "generic-receive-offload:"),
        file("gro_flush_timeout"),
        file("napi_defer_hard_irqs"),
    ]
}

fn profiles_dir(scratch: &Path) -> String {
    format!("profiles_dir = \"{}/profiles\"\n", scratch.display())
}

#[test]
#[ignore = "needs root"]
fn settings_are_made_read_back_and_taken_back() {
    let mut world = world("hardware");
    let dir = profiles_dir(world.sites.scratch.path());
    let set = "[hardware.set]\ntso = false\nqueues = \"workers\"\n";
    configure(&world.sites.gateways[0].role, &format!("{dir}{set}"));
    let before = kernel(world.sites.gateways[0].namespace());
    assert_eq!(before[1..], ["on", "off", "0", "0"], "veth's own");
    world.start();

    let role = &mut world.sites.gateways[0].role;
    let namespace = role.namespace.clone();
    // One worker, so one queue: the configuration wins over the profile's 2.
    assert_eq!(kernel(&namespace), ["1", "off", "on", "20000", "2"]);
    for (name, value, was, by) in [
        ("queues", "1", before[0].as_str(), "configuration"),
        ("tso", "off", "on", "configuration"),
        ("gro", "on", "off", "profile"),
        ("gro_flush_timeout_ns", "20000", "0", "profile"),
        ("napi_defer_hard_irqs", "2", "0", "profile"),
    ] {
        let row = setting(role, name);
        assert_eq!(
            [&row["wanted"], &row["actual"], &row["before"], &row["by"]],
            [value, value, was, by],
            "{row}"
        );
        assert_eq!(row["as_wanted"], true, "{row}");
    }
    // What a device cannot do is a warning with the way out, in the log and in status.
    let row = setting(role, "rx_ring");
    assert_eq!(row["actual"], Value::Null, "{row}");
    assert_eq!(row["why"], "the driver does not have it", "{row}");
    let said = role.said();
    assert!(
        said.contains(
            "rx_ring = 512 on nic0: the driver does not have it; set `hardware.set.rx_ring`"
        ),
        "{said}"
    );
    let table = run(role, &["status", "--at", "gateway"]);
    assert!(
        table.contains("hardware: nic0 with profile veth (driver veth), link tun"),
        "{table}"
    );

    // Status reads the kernel, not its own memory.
    let off = Program::new("ethtool").args(["-K", "nic0", "gro", "off"]);
    namespace.succeed(&off).unwrap();
    let row = setting(role, "gro");
    assert_eq!([&row["wanted"], &row["actual"]], ["on", "off"], "{row}");
    assert_eq!(row["why"], "changed by somebody else since the start");

    // Another start: what nobody wants any longer goes back, and the rest is as before.
    configure(role, &format!("{dir}keep = [\"napi_defer_hard_irqs\"]\n"));
    restart(role);
    assert_eq!(kernel(&namespace), ["2", "on", "on", "20000", "0"]);
    assert_eq!(setting(role, "queues")["before"], before[0].as_str());
    assert_eq!(setting(role, "napi_defer_hard_irqs"), Value::Null);

    // Killed, nothing is taken back; removed, everything is, and the file with it.
    role.kill();
    assert_eq!(kernel(&namespace)[3], "20000");
    run(role, &["gateway", "--remove"]);
    assert_eq!(kernel(&namespace), before);
    let memory = world.sites.gateways[0].state_dir.join("hardware.json");
    assert!(!memory.exists());
}

#[test]
#[ignore = "needs root"]
fn a_profile_may_end_with_the_process_and_never_touches_what_others_changed() {
    let mut world = world("hardware-stop");
    // The shipped profile of veth says so.
    configure(
        &world.sites.gateways[0].role,
        "[hardware.set]\ntso = false\ngro = true\nthreaded_napi = true\nrx_vlan = false\n",
    );
    world.start();
    let role = &mut world.sites.gateways[0].role;
    let namespace = role.namespace.clone();
    assert_eq!(setting(role, "tso")["actual"], "off");
    let threaded = setting(role, "threaded_napi");
    assert_eq!(threaded["as_wanted"], true, "{threaded}");
    // Somebody else sets a third value while we run: it is not ours any longer.
    let ethtool = |arguments: &[&str]| {
        let program = Program::new("ethtool").args(arguments);
        namespace.succeed(&program).unwrap()
    };
    ethtool(&["-K", "nic0", "tx-tcp-segmentation", "on"]);
    role.stop();
    let features = ethtool(&["-k", "nic0"]);
    let says = |line: &str| features.lines().any(|found| found.trim() == line);
    assert!(
        says("tx-tcp-segmentation: on") && says("tx-tcp6-segmentation: off"),
        "{features}"
    );
    // What was only ours ended with us.
    assert!(
        says("generic-receive-offload: off") && says("rx-vlan-offload: on"),
        "{features}"
    );
    let memory = world.sites.gateways[0].state_dir.join("hardware.json");
    assert!(!memory.exists());
}

#[test]
#[ignore = "needs root"]
fn without_a_profile_or_an_interface_the_gateway_runs() {
    let mut world = world("hardware-none");
    let role = &world.sites.gateways[0].role;
    configure(role, "profile = \"none\"\n");
    let before = kernel(&role.namespace);
    world.start();
    let role = &mut world.sites.gateways[0].role;
    assert_eq!(kernel(&role.namespace), before);
    let table = run(role, &["status", "--at", "gateway"]);
    assert!(table.contains("`hardware.profile` is \"none\""), "{table}");

    role.namespace.ip("link del nic0").unwrap();
    restart(role);
    let table = run(role, &["status", "--at", "gateway"]);
    assert!(
        table.contains("no settings: no interface `nic0`"),
        "{table}"
    );

    // A name that there is not is an error of the configuration, with the names that there are.
    configure(role, "profile = \"e810\"\n");
    role.stop();
    role.start().unwrap();
    let said = role.ready().unwrap_err().to_string();
    assert!(
        said.contains(
            "`hardware.profile` = \"e810\": there is no such profile; there are amazon-ena, azure,"
        ),
        "{said}"
    );
}

/// What only AF_XDP needs is set only where AF_XDP is used.
#[test]
#[ignore = "needs root"]
fn a_link_that_is_chosen_brings_its_settings() {
    for (recommended, polls) in [("af_xdp", "7"), ("tun", "2")] {
        let mut world = world_with("hardware-link", "link = \"auto\"");
        let scratch = world.sites.scratch.path().to_owned();
        let profile = PROFILE.replace(
            "recommended = \"tun\"",
            &format!("recommended = \"{recommended}\""),
        );
        let text = format!("{profile}[set_af_xdp]\nnapi_defer_hard_irqs = 7\n");
        std::fs::write(scratch.join("profiles/veth.toml"), text).unwrap();
        configure(&world.sites.gateways[0].role, &profiles_dir(&scratch));
        world.start();
        let role = &world.sites.gateways[0].role;
        let status = run(role, &["status", "--at", "gateway", "-o", "json"]);
        let status: Value = serde_json::from_str(&status).unwrap();
        assert_eq!(
            status["gateway"]["hardware"]["link"], recommended,
            "{status:#}"
        );
        assert_eq!(setting(role, "napi_defer_hard_irqs")["actual"], polls);
        assert_eq!(kernel(&role.namespace)[4], polls);
    }
}

#[test]
#[ignore = "needs root"]
fn detect_says_which_profile_and_why() {
    let world = world("hardware-detect");
    let role = &world.sites.gateways[0].role;
    configure(role, "");
    let found = run(role, &["profile", "detect", "-o", "json"]);
    let found: Value = serde_json::from_str(&found).unwrap();
    assert_eq!(
        [
            &found["interface"],
            &found["profile"],
            &found["why"],
            &found["driver"]
        ],
        ["nic0", "veth", "driver veth", "veth"],
        "{found:#}"
    );
    assert_eq!(found["recommended_link"], "af_xdp", "{found:#}");
    assert_eq!(found["zero_copy"], false, "{found:#}");
    assert_eq!(found["set_with_af_xdp"]["queues"], "workers", "{found:#}");

    // Without the privilege it is TUN, and the reason says what is missing.
    let unprivileged = Program::new("setpriv")
        .args(["--bounding-set", "-all", "--inh-caps", "-all"])
        .arg(sluice())
        .args(["profile", "detect", "--interface", "nic0", "-o", "json"]);
    let found = role.namespace.succeed(&unprivileged).unwrap();
    let found: Value = serde_json::from_str(&found).unwrap();
    assert_eq!(found["recommended_link"], "tun", "{found:#}");
    let why = found["recommended_why"].as_str().unwrap();
    assert!(why.contains("it needs CAP_NET_ADMIN"), "{why}");

    let list = run(role, &["profile", "list", "-o", "json"]);
    let list: Value = serde_json::from_str(&list).unwrap();
    let names: Vec<&str> = list
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|row| row["profile"].as_str())
        .collect();
    for name in [
        "connectx",
        "intel-e810",
        "raspberry-pi-5",
        "constrained-arm",
        "generic",
    ] {
        assert!(names.contains(&name), "{names:?}");
        let shown = run(role, &["profile", "show", name, "-o", "json"]);
        let shown: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown["name"], name);
    }
}
