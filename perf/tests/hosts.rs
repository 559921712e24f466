//! `sluice-perf` between hosts: namespaces that it reaches by a remote shell only.
//!
//! ```text
//!  generator eth0 ── lan0 gateway 1 eth0 ── eth0 gateway 2, the sink              frames
//!  instance ── gateway 1 eth0 ── eth0 gateway 2 ── instance                       connections
//! ```
#![cfg(feature = "suites")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use sluice_perf::lab::clock::wait_for;
use sluice_perf::lab::scratch::Scratch;
use sluice_perf::lab::sites::{Cable, Layout, Microservice, Sites, Target, descriptor};
use sluice_perf::lab::wire::{offload, veth};
use sluice_perf::lab::{NetNs, Process, Program};
use sluice_perf::report::Report;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

fn sluice_perf() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_sluice-perf"))
}

fn sluice() -> PathBuf {
    let sluice = sluice_perf().with_file_name("sluice");
    assert!(sluice.exists(), "build it first: cargo build -p sluice");
    sluice
}

fn script(scratch: &Scratch, name: &str, text: &str) -> String {
    let path = scratch.file(name, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path.display().to_string()
}

/// A service manager for one gateway, whose process id is in the file `pid`.
fn service_script(scratch: &Scratch, pid: &str, config: &str) -> String {
    script(
        scratch,
        "service",
        &format!(
            "#!/bin/sh\nif [ $1 = stop ]; then\n  [ -f {pid} ] || exit 0\n  kill $(cat {pid}); tail -s 0.05 --pid=$(cat {pid}) -f /dev/null\n  \
             rm {pid}\nelse\n  {} gateway --config {config} > {pid}.log 2>&1 < /dev/null &\n  echo $! > {pid}\nfi\n",
            sluice().display(),
        ),
    )
}

fn run(arguments: &[&str]) -> Output {
    Command::new(sluice_perf())
        .args(arguments)
        .output()
        .unwrap()
}

/// Two sites of which the first is a router for the host behind `lan0`, which is attached as an instance.
fn sites(generator: &NetNs) -> (Sites, NetNs, [String; 3]) {
    let layout = Layout {
        fastpath: "link = \"af_xdp\"\nservice = \"lan0\"".to_owned(),
        ..Layout::measured(2, Cable::Pair)
    };
    let scratch = Scratch::new("sluice-perf-hosts-test").unwrap();
    let mut sites = Sites::built(&sluice(), scratch, &layout).unwrap();
    let [near, far] = &sites.gateways[..] else {
        panic!("two gateways")
    };
    far.role
        .configure(|text| text.replace(&layout.fastpath, "link = \"tun\"\noffload = false"))
        .unwrap();
    veth((near.namespace(), "lan0"), (generator, "eth0"), 1500).unwrap();
    // A NIC always has queues that a thread can poll, a veth only so.
    offload(near.namespace(), "lan0", &["gro", "on"]).unwrap();
    near.namespace()
        .ip("address add 10.50.0.1/24 dev lan0\naddress add fd50::1/64 dev lan0 nodad")
        .unwrap();
    generator
        .ip("address add 10.50.0.11/24 dev eth0\naddress add fd50::11/64 dev eth0 nodad")
        .unwrap();
    sites.start().unwrap();
    sites
        .apply(&descriptor(
            "bench",
            "sluice",
            &["sink", "caller"].map(Microservice::measured),
        ))
        .unwrap();
    let host = ["10.50.0.11", "fd50::11"].map(|address| address.parse::<IpAddr>().unwrap());
    sites
        .attach(0, "bench.sluice.caller.perf", Target::Host(host))
        .unwrap();
    let called = NetNs::new("called").unwrap();
    let instance = sites
        .attach(1, "bench.sluice.sink.perf", Target::Namespace(&called))
        .unwrap();
    let call = [
        host[0].to_string(),
        instance.instance_ip[0].to_string(),
        instance.ns_address[0].to_string(),
    ];
    (sites, called, call)
}

#[test]
#[ignore = "needs root"]
fn the_suite_runs_between_hosts() {
    let generator = NetNs::new("generator").unwrap();
    let (mut sites, _called, call) = sites(&generator);
    let gateway = &mut sites.gateways[0].role;
    gateway.stop();
    let (config, admin) = (gateway.config.display().to_string(), gateway.admin.clone());
    let as_it_was = std::fs::read_to_string(&config).unwrap();
    let scratch = &sites.scratch;
    let pid = scratch.path().join("gateway.pid").display().to_string();
    // The test's namespaces have no name: a host is its number.
    let places = [
        generator.path(),
        sites.gateways[0].namespace().path(),
        sites.gateways[1].namespace().path(),
    ];
    let [a, b, c] = places.map(|path| path.display().to_string());
    let shell = script(
        scratch,
        "shell",
        &format!(
            "#!/bin/sh\nhost=$1; shift\ncase $host in a) net={a};; b) net={b};; c) net={c};; esac\n\
             exec nsenter --net=$net \"$@\"\n"
        ),
    );
    let service = service_script(scratch, &pid, &config);
    let json = scratch.path().join("rows.json").display().to_string();
    let [start, stop] = ["start", "stop"].map(|verb| format!("{service} {verb}"));
    let output = run(&[
        "fastpath",
        "--quick",
        "--json",
        &json,
        "--generator",
        "a:eth0",
        "--dut",
        "b:lan0,eth0",
        "--sink",
        "c:eth0",
        "--call",
        &call.join(","),
        "--remote-shell",
        &shell,
        "--gateway-start",
        &start,
        "--gateway-stop",
        &stop,
        "--gateway-config",
        &config,
    ]);
    let said = String::from_utf8_lossy(&output.stderr);
    let log = std::fs::read_to_string(format!("{pid}.log")).unwrap_or_default();
    assert!(output.status.success(), "{said}\nthe gateway said:\n{log}");
    let report: Report = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let peers: Vec<&str> = report
        .rows
        .iter()
        .filter_map(|row| row.peer.as_deref())
        .collect();
    assert_eq!(
        peers,
        [
            "vxlan_dnat_threaded",
            "vxlan_dnat_inline",
            "bare_forwarder",
            "vxlan_dnat_threaded",
            "vxlan_dnat_inline"
        ]
    );
    assert!(
        report
            .rows
            .iter()
            .filter(|row| row.peer.is_some())
            .all(|row| row.value > 0.0)
    );
    // Nothing stays behind on the device under test.
    assert!(
        !Path::new(&pid).exists(),
        "the gateway is stopped: {}",
        admin.display()
    );
    assert_eq!(std::fs::read_to_string(&config).unwrap(), as_it_was);
    let links = sites.gateways[0]
        .namespace()
        .succeed(&Program::new("ip").args(["-d", "link"]))
        .unwrap();
    assert!(
        !links.contains("vxpath0") && !links.contains("prog/xdp"),
        "{links}"
    );
}

/// A host with a file system of its own, as far as it matters: `/run/netns` knows its instances, and `etc` in the scratch
/// directory has its configuration. It ends with the value.
fn host(sites: &Sites, gateway: usize, instances: &[&NetNs]) -> Process {
    let root = sites.scratch.path().display().to_string();
    let own = sites
        .scratch
        .directory(&format!("host{gateway}"))
        .unwrap()
        .join("sluice.toml");
    let role = &sites.gateways[gateway].role;
    std::fs::copy(&role.config, own).unwrap();
    let named: String = instances
        .iter()
        .map(|instance| {
            let (name, path) = (instance.name(), instance.path());
            let path = path.display();
            format!("touch /run/netns/{name} && mount --bind {path} /run/netns/{name} && ")
        })
        .collect();
    let setup = format!(
        "mkdir -p /run/netns && mount -t tmpfs netns /run/netns && {named}\
         mount --bind {root}/host{gateway} {root}/etc && \
         mount -t bpf bpf /sys/fs/bpf && touch {root}/host{gateway}/up && exec sleep infinity"
    );
    let program = Program::new("unshare").args(["--mount", "sh", "-c", &setup]);
    let log = sites.scratch.path().join(format!("host{gateway}.log"));
    let mut host = role.namespace.start(&program, &log).unwrap();
    let up = sites.scratch.path().join(format!("host{gateway}/up"));
    wait_for("a host", Duration::from_secs(5), || {
        if host.ended().is_some() || up.exists() {
            return Ok(());
        }
        Err("not up".to_owned())
    })
    .unwrap();
    host.alive().unwrap();
    host
}

#[test]
#[ignore = "needs root"]
fn suites_with_connections_run_between_instances_on_two_hosts() {
    let layout = Layout::measured(2, Cable::Pair);
    let scratch = Scratch::new("sluice-perf-instances-test").unwrap();
    let mut sites = Sites::new(&sluice(), scratch, &layout).unwrap();
    sites
        .apply(&descriptor(
            "bench",
            "sluice",
            &["client", "flooder", "server"].map(Microservice::measured),
        ))
        .unwrap();
    let instances = ["client", "flooder", "server"].map(|name| NetNs::new(name).unwrap());
    let [client, flooder, server] = &instances;
    let attach = |gateway, instance: &NetNs| {
        let service = format!("bench.sluice.{}.perf", instance.name());
        sites
            .attach(gateway, &service, Target::Namespace(instance))
            .unwrap()
    };
    let [caller, _, called] = [attach(0, client), attach(0, flooder), attach(1, server)];
    for gateway in &mut sites.gateways {
        gateway.role.stop();
    }
    let scratch = &sites.scratch;
    let etc = scratch.directory("etc").unwrap().display().to_string();
    let hosts = [
        host(&sites, 0, &[client, flooder]),
        host(&sites, 1, &[server]),
    ];
    let [a, b] = [0, 1].map(|gateway: usize| hosts[gateway].pid());
    let shell = script(
        scratch,
        "shell",
        &format!(
            "#!/bin/sh\nhost=$1; shift\ncase $host in a) pid={a};; b) pid={b};; esac\n\
             exec nsenter --target $pid --net --mount \"$@\"\n"
        ),
    );
    let service = service_script(
        scratch,
        &format!("{etc}/gateway.pid"),
        &format!("{etc}/sluice.toml"),
    );
    let [start, stop] = ["start", "stop"].map(|verb| format!("{service} {verb}"));
    let call = [&caller.ns_address, &called.instance_ip, &called.ns_address]
        .map(|addresses| addresses[0].to_string())
        .join(",");
    let json = scratch.path().join("rows.json").display().to_string();
    let configurations =
        [0, 1].map(|gateway| scratch.path().join(format!("host{gateway}/sluice.toml")));
    let before = configurations
        .each_ref()
        .map(|path| std::fs::read(path).unwrap());
    for (suite, expected) in [
        (
            &["fastpath"][..],
            &[
                "tun",
                "tun",
                "vxlan_dnat",
                "vxlan_dnat",
                "vxlan_dnat",
                "vxlan_dnat",
            ][..],
        ),
        (
            &["tun"],
            &[
                "vxlan_dnat",
                "vxlan_dnat",
                "vxlan_dnat",
                "vxlan_dnat",
                "vxlan_dnat",
                "vxlan_dnat",
                "vxlan_dnat",
                "without_offload",
                "without_offload",
                "without_offload",
                "one_packet_per_syscall",
            ],
        ),
    ] {
        let mut arguments = suite.to_vec();
        arguments.extend(["--quick", "--json", &json, "--call", &call]);
        arguments.extend(["--generator", "a/client:eth-sluice", "--dut", "a:eth0"]);
        arguments.extend(["--sink", "b/server:eth0", "--remote-shell", &shell]);
        arguments.extend(["--gateway-start", &start, "--gateway-stop", &stop]);
        arguments.extend(["--flooder", "a/flooder:eth-sluice"]);
        let file = format!("{etc}/sluice.toml");
        arguments.extend(["--gateway-config", &file]);
        let output = run(&arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        let logs = [0, 1].map(|gateway| {
            let log = scratch
                .path()
                .join(format!("host{gateway}/gateway.pid.log"));
            std::fs::read_to_string(log).unwrap_or_default()
        });
        assert!(
            output.status.success(),
            "{said}\nthe gateways said:\n{logs:?}"
        );
        let report: Report = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
        let peers: Vec<&str> = report
            .rows
            .iter()
            .filter_map(|row| row.peer.as_deref())
            .collect();
        assert_eq!(peers, expected);
        assert!(
            report
                .rows
                .iter()
                // A gateway without optimisation may have nothing left beside a flood.
                .filter(|row| row.peer.is_some() && !row.name.starts_with("syn_flood"))
                .all(|row| row.value > 0.0),
            "{:?}",
            report.rows
        );
        // Nothing stays behind: no gateway, no device of the peer, no changed configuration.
        for ((gateway, host), instances) in sites.gateways.iter().zip(&hosts).zip([2, 1]) {
            let left = |words: &[&str]| {
                let pid = host.pid().to_string();
                let enter = ["--target", &pid, "--mount", "--net"];
                gateway
                    .namespace()
                    .succeed(&Program::new("nsenter").args(enter).args(words))
                    .unwrap()
            };
            assert!(!left(&["ip", "link"]).contains("vx"));
            assert_eq!(left(&["ip", "netns", "list"]).lines().count(), instances);
        }
        let pids = [0, 1].map(|gateway| scratch.path().join(format!("host{gateway}/gateway.pid")));
        assert!(pids.iter().all(|pid| !pid.exists()), "both are stopped");
        let after = configurations
            .each_ref()
            .map(|path| std::fs::read(path).unwrap());
        assert!(before == after, "the configurations are what they were");
    }
}

#[test]
fn wrong_places_are_named_beside_the_right_form() {
    let call = "10.18.0.2,10.30.0.5,10.18.0.66";
    for (suite, generator, dut, sink, said) in [
        (
            "fastpath",
            "a:",
            "b:lan0,eth0",
            "c:eth0",
            "`a:` names an interface that cannot be",
        ),
        (
            "fastpath",
            "a:eth0",
            "b:eth0",
            "c:eth0",
            "--dut b:eth0: expected two interfaces, SERVICE,UNDERLAY",
        ),
        (
            "fastpath",
            "a:eth0,eth1",
            "b:lan0,eth0",
            "c:eth0",
            "--generator a:eth0,eth1: expected one interface",
        ),
        (
            "engine",
            "a:eth0",
            "b:lan0,eth0",
            "c:eth0",
            "runs in memory",
        ),
        (
            "budget",
            "a:eth0",
            "b:lan0,eth0",
            "c:eth0",
            "runs in memory",
        ),
        (
            "tun",
            "a:eth0",
            "b:lan0,eth0",
            "c:eth0",
            "--generator must be one at the device under test",
        ),
        (
            "footprint",
            "a:eth0",
            "b:lan0,eth0",
            "c:eth0",
            "gateways it starts itself",
        ),
    ] {
        let output = run(&[
            suite,
            "--generator",
            generator,
            "--dut",
            dut,
            "--sink",
            sink,
            "--call",
            call,
        ]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && error.contains(said),
            "{suite}: {error}"
        );
    }
    let output = run(&[
        "fastpath",
        "--generator",
        "a:eth0",
        "--sink",
        "c:eth0",
        "--call",
        call,
    ]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && error.contains("--dut"),
        "{error}"
    );
    let output = run(&[
        "fastpath",
        "--only",
        "engine",
        "--generator",
        "a:eth0",
        "--dut",
        "b:lan0,eth0",
        "--sink",
        "c:eth0",
        "--call",
        call,
    ]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && error.contains("no frames from a generator"),
        "{error}"
    );
}
