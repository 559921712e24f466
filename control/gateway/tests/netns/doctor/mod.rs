//! `sluice doctor`: each fault is seeded in a namespace of its own and found by the real program.
//!
//! ```text
//!  host 192.168.90.1 ── eth0 ── eth0 ── 192.168.90.2 far: a broker's port, the default route
//! ```
//! The program gets a mount namespace too, so that `/sys` shows the devices of its network namespace and files can be
//! laid over the machine's own.

mod faults;
mod repairs;

use crate::world::{World, one_site, service_ip, tcp};
use serde_json::Value;
use sluice_perf::lab::clock::wait_for;
use sluice_perf::lab::scratch::Scratch;
use sluice_perf::lab::wire::{offload, veth};
use sluice_perf::lab::{NetNs, Program, tools};
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

const OWN: &str = "192.168.90.1";
const FAR: &str = "192.168.90.2";
const PORT: u16 = 50103;

/// A host on which the doctor has little to say.
struct Host {
    namespace: NetNs,
    far: NetNs,
    scratch: Scratch,
    /// Open for as long as the host is there.
    kept: Vec<Box<dyn std::any::Any>>,
    /// Shell commands before the doctor, in its mount namespace.
    before: String,
    /// What starts the doctor, like `setpriv ...`.
    through: String,
}

/// One complaint of the doctor.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Complaint {
    check: String,
    severity: String,
    place: String,
    found: String,
    automatic: bool,
}

/// What the doctor said.
struct Said {
    complaints: Vec<Complaint>,
    changed: Vec<Value>,
    status: Option<i32>,
    text: String,
}

impl Host {
    fn new(name: &str) -> Self {
        let (namespace, far) = (NetNs::new(name).unwrap(), NetNs::new("far").unwrap());
        veth((&namespace, "eth0"), (&far, "eth0"), 1500).unwrap();
        namespace
            .ip(&format!(
                "address add {OWN}/24 dev eth0\nroute add default via {FAR}"
            ))
            .unwrap();
        far.ip(&format!("address add {FAR}/24 dev eth0")).unwrap();
        offload(&namespace, "eth0", &["gro", "on"]).unwrap();
        let broker = far.run(|| TcpListener::bind((FAR, 10003))).unwrap();
        let host = Self {
            namespace,
            far,
            scratch: Scratch::new(&format!("sluice-doctor-{name}")).unwrap(),
            kept: vec![Box::new(broker)],
            before: String::new(),
            through: String::new(),
        };
        for (key, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv4/ip_local_reserved_ports", "50103"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/eth0/rp_filter", "0"),
        ] {
            host.set(key, value);
        }
        host.configure(|text| text);
        host
    }

    /// Writes the configuration, changed from the usual one.
    fn configure(&self, change: impl FnOnce(String) -> String) {
        let at = |name: &str| self.scratch.path().join(name).display().to_string();
        let text = format!(
            "[gateway]\nnode_id = \"{:024x}\"\ncluster = \"{FAR}:10003\"\nnode_address = \"{OWN}\"\n\
             node_socket = \"{}\"\nadmin_socket = \"{}\"\nstate_dir = \"{}\"\n\
             [cluster]\nadmin_socket = \"{}\"\nroot = \"{FAR}:9\"\n\
             [fastpath]\nworkers = 1\n",
            1,
            at("node.sock"),
            at("gateway.sock"),
            at("state"),
            at("cluster.sock"),
        );
        fs::write(self.config(), change(text)).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.scratch.path().join("sluice.toml")
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        self.scratch.file(name, text).unwrap()
    }

    /// Sets `net.<key>`.
    fn set(&self, key: &str, value: &str) {
        self.namespace.sysctl(&format!("net/{key}"), value).unwrap();
    }

    /// Reads a file as the doctor sees it.
    fn read(&self, path: &str) -> String {
        let output = self
            .namespace
            .succeed(&self.inside(&format!("cat {path}")))
            .unwrap();
        output.trim().to_owned()
    }

    fn ip(&self, commands: &str) {
        self.namespace.ip(commands).unwrap();
    }

    /// One of the commands of iptables, which may have to wait for the machine's lock.
    fn run(&self, tool: &str, arguments: &str) {
        let program = Program::new(tools::find(tool).unwrap())
            .args(["-w", "5"])
            .args(arguments.split(' '));
        self.namespace.succeed(&program).unwrap();
    }

    fn inside(&self, command: &str) -> Program {
        let script = format!(
            "set -e; mount -t sysfs sysfs /sys; mount -t bpf bpf /sys/fs/bpf; {} exec {} {command}",
            self.before, self.through
        );
        Program::new("unshare").args(["--mount", "sh", "-c", &script])
    }

    fn doctor(&self, arguments: &str) -> Said {
        let command = format!(
            "{} --config {} doctor -o json {arguments}",
            crate::world::sluice().display(),
            self.config().display()
        );
        said(&self.namespace.output(&self.inside(&command)).unwrap())
    }
}

fn said(output: &std::process::Output) -> Said {
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let value: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {text}"));
    let word = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let complaints = value["findings"].as_array().unwrap().iter();
    Said {
        complaints: complaints
            .filter(|finding| finding["severity"] != "ok")
            .map(|finding| Complaint {
                check: word(finding, "check"),
                severity: word(finding, "severity"),
                place: word(finding, "place"),
                found: word(finding, "found"),
                automatic: finding["automatic"].as_bool().unwrap(),
            })
            .collect(),
        changed: value["changed"].as_array().unwrap().clone(),
        status: output.status.code(),
        text,
    }
}

impl Said {
    fn of(&self, check: &str) -> Vec<&Complaint> {
        self.complaints
            .iter()
            .filter(|complaint| complaint.check == check)
            .collect()
    }
}

/// Beside a running gateway: its process, its peers, and a fix that lets packets through again.
///
/// ```text
///  caller ── gateway 1 ── wire ── gateway 2 ── echo
/// ```
#[test]
#[ignore = "needs root"]
fn a_running_gateway_is_asked_and_mended() {
    let world = World::laid("doctor", &one_site());
    let (caller, _echo) = (world.caller(0), world.echo(1, "b"));
    tcp(&caller.namespace, service_ip(0)).unwrap();
    let gateway = &world.sites.gateways[0];
    let namespace = gateway.namespace();
    let doctor = |arguments: &[&str]| {
        let program = Program::new(crate::world::sluice())
            .args(["--config"])
            .args([&gateway.role.config])
            .args(["doctor", "-o", "json"])
            .args(arguments);
        said(&namespace.output(&program).unwrap())
    };
    let well = doctor(&[]);
    for check in [
        "forwarding",
        "tunnel-port",
        "path-mtu",
        "capabilities",
        "forward-policy",
        "address-clash",
        "route-clash",
    ] {
        assert_eq!(
            well.of(check),
            Vec::<&Complaint>::new(),
            "{check}: {}",
            well.text
        );
    }
    let pid = gateway.role.pid().unwrap();
    assert!(
        well.text.contains(&format!("the gateway (pid {pid})")),
        "{}",
        well.text
    );

    namespace.sysctl("net/ipv4/ip_forward", "0").unwrap();
    let ip = service_ip(0);
    crate::world::tcp_impatient(&caller.namespace, ip).unwrap_err();
    let ill = doctor(&[]);
    assert_eq!(ill.of("forwarding")[0].severity, "error", "{}", ill.text);
    doctor(&["--fix"]);
    wait_for("packets after --fix", Duration::from_secs(5), || {
        tcp(&caller.namespace, ip).map_err(|error| error.to_string())
    })
    .unwrap();
    doctor(&["--undo"]);
    assert_eq!(
        namespace
            .read("/proc/sys/net/ipv4/ip_forward")
            .unwrap()
            .trim(),
        "0"
    );
    namespace.sysctl("net/ipv4/ip_forward", "1").unwrap();

    let peer = world.sites.gateways[1].address[0];
    namespace
        .ip(&format!("route add {peer} dev eth0 mtu 1300"))
        .unwrap();
    let narrow = doctor(&[]);
    assert_eq!(narrow.of("path-mtu").len(), 1, "{}", narrow.text);
    assert!(
        narrow.of("path-mtu")[0].place.contains(&peer.to_string()),
        "{}",
        narrow.text
    );
    world.check();
}
