//! `sluice doctor`: each fault is seeded in a namespace of its own and found by the real program.
//!
//! ```text
//!  host 192.168.90.1 ── eth0 ── eth0 ── 192.168.90.2 far: a broker's port, the default route
//! ```
//! The program gets a mount namespace too, so that `/sys` shows the devices of its network namespace and files can be
//! laid over the machine's own.

use crate::world::{World, one_site, service_ip, tcp};
use serde_json::Value;
use sluice_perf::lab::clock::wait_for;
use sluice_perf::lab::scratch::Scratch;
use sluice_perf::lab::wire::{offload, veth};
use sluice_perf::lab::{NetNs, Program, tools};
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
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

    fn run(&self, tool: &str, arguments: &str) {
        let program = Program::new(tools::find(tool).unwrap()).args(arguments.split(' '));
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

/// The rule that must find it, how bad it is, a word of what was found, and how it comes.
type Fault = (&'static str, &'static str, &'static str, fn(&mut Host));

const FAULTS: &[Fault] = &[
    ("config", "error", "flowz_max", |host| {
        host.configure(|text| format!("{text}flowz_max = 1\n"));
    }),
    ("tokens", "warning", "mode 644", |host| {
        let file = host.file("token", "secret");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        host.configure(|text| key(&text, "gateway", "cluster_token_file", &file));
    }),
    ("tokens", "error", "No such file", |host| {
        host.configure(|text| {
            key(
                &text,
                "gateway",
                "cluster_token_file",
                Path::new("/nowhere"),
            )
        });
    }),
    ("state-dir", "error", "not a directory", |host| {
        host.file("state", "");
    }),
    ("state-dir", "error", "Read-only", |host| {
        let state = host
            .scratch
            .directory("state")
            .unwrap()
            .display()
            .to_string();
        host.before = format!("mount -t tmpfs -o ro tmpfs {state};");
    }),
    ("state-dir", "warning", "MiB free", |host| {
        let state = host
            .scratch
            .directory("state")
            .unwrap()
            .display()
            .to_string();
        host.before = format!("mount -t tmpfs -o size=1m tmpfs {state};");
    }),
    ("state-dir", "warning", "in memory", |host| {
        let state = host
            .scratch
            .directory("state")
            .unwrap()
            .display()
            .to_string();
        host.before = format!("mount -t tmpfs -o size=200m tmpfs {state};");
    }),
    ("cluster-reachable", "error", "refused", |host| {
        host.configure(|text| text.replace(":10003", ":1"));
    }),
    ("cluster-reachable", "note", "not set", |host| {
        host.configure(|text| text.replace(&format!("cluster = \"{FAR}:10003\"\n"), ""));
    }),
    ("cluster-reachable", "error", "root manager", |host| {
        // A cluster manager runs here: something answers on its socket.
        let socket = UnixListener::bind(host.scratch.path().join("cluster.sock")).unwrap();
        host.kept.push(Box::new(socket));
    }),
    ("local-resolver", "note", "mdns4_minimal", |host| {
        let text = "hosts: files mdns4_minimal [NOTFOUND=return] dns\n";
        let file = host.file("nsswitch.conf", text);
        host.before = format!("mount --bind {} /etc/nsswitch.conf;", file.display());
    }),
    ("tun-device", "error", "No such file", |host| {
        host.before = "mount -t tmpfs tmpfs /dev/net;".to_owned();
    }),
    ("bpf-file-system", "note", "not mounted", |host| {
        host.before = "umount /sys/fs/bpf;".to_owned();
    }),
    ("capabilities", "error", "CAP_SYS_ADMIN", |host| {
        host.through = "setpriv --bounding-set -sys_admin".to_owned();
    }),
    ("capabilities", "warning", "CAP_NET_RAW", |host| {
        host.through = "setpriv --bounding-set -net_raw".to_owned();
    }),
    ("unseen", "note", "nf_tables", |host| {
        host.through = "setpriv --bounding-set -net_admin".to_owned();
    }),
    ("locked-memory", "warning", "may lock 0 MiB", |host| {
        host.configure(|text| format!("{text}link = \"auto\"\n"));
        host.through = "prlimit --memlock=65536:65536 setpriv --bounding-set -ipc_lock".to_owned();
    }),
    ("open-files", "error", "256", |host| {
        host.through = "prlimit --nofile=256:256".to_owned();
    }),
    ("tunnel-port", "error", "50103 is held by", |host| {
        let held = host.namespace.run(|| UdpSocket::bind(("0.0.0.0", PORT)));
        host.kept.push(Box::new(held.unwrap()));
    }),
    ("tunnel-port", "error", "50103 is held by", |host| {
        let held = host.namespace.run(|| UdpSocket::bind(("::1", PORT)));
        host.kept.push(Box::new(held.unwrap()));
    }),
    ("tunnel-drops", "note", "datagrams dropped", |host| {
        // More than any socket holds, and nobody reads.
        let held = host.namespace.run(|| {
            let socket = UdpSocket::bind((OWN, PORT)).unwrap();
            let sender = UdpSocket::bind((OWN, 0)).unwrap();
            for _ in 0..2000 {
                sender.send_to(&[0; 8000], (OWN, PORT)).unwrap();
            }
            socket
        });
        host.kept.push(Box::new(held));
    }),
    ("tunnel-port-reserved", "note", "50103", |host| {
        host.set("ipv4/ip_local_reserved_ports", "8080,50104-50110");
    }),
    ("worker-cores", "error", "core 1023", |host| {
        host.configure(|text| format!("{text}cores = [1023]\n"));
    }),
    ("queues", "warning", "RPS is off", |host| {
        host.configure(|text| text.replace("workers = 1", "workers = 2"));
    }),
    ("queues", "error", "for 2 workers", |host| {
        host.configure(|text| text.replace("workers = 1", "workers = 2\nlink = \"af_xdp\""));
    }),
    ("underlay", "error", "eth7", |host| {
        host.configure(|text| format!("{text}underlay = \"eth7\"\n"));
    }),
    ("forwarding", "note", "0", |host| {
        host.set("ipv4/ip_forward", "0")
    }),
    ("reverse-path-filter", "note", "strict", |host| {
        host.set("ipv4/conf/eth0/rp_filter", "1");
    }),
    ("reverse-path-filter", "error", "strict", |host| {
        host.ip("link add sluice0 type veth peer name sluice0p");
        host.set("ipv4/conf/all/rp_filter", "1");
        host.set("ipv4/conf/sluice0/rp_filter", "0");
    }),
    ("device-forwarding", "error", "sluice0", |host| {
        host.ip("link add sluice0 type veth peer name sluice0p");
        host.set("ipv4/conf/sluice0/forwarding", "0");
    }),
    (
        "router-advertisements",
        "warning",
        "eth0/accept_ra",
        |host| {
            host.set("ipv6/conf/all/forwarding", "1");
            host.set("ipv6/conf/eth0/accept_ra", "1");
            host.ip("route add default via fe80::1 dev eth0 proto ra");
        },
    ),
    ("path-mtu-discovery", "warning", "1", |host| {
        host.set("ipv4/ip_no_pmtu_disc", "1")
    }),
    ("ipv6", "warning", "1", |host| {
        host.set("ipv6/conf/all/disable_ipv6", "1")
    }),
    ("underlay", "error", "no default route", |host| {
        host.configure(|text| text.replace(&format!("\"{OWN}\""), "\"192.168.90.99\""));
        host.ip("route del default");
    }),
    ("underlay", "error", "is down", |host| {
        host.ip("link set eth0 down")
    }),
    ("underlay", "error", "no carrier", |host| {
        host.far.ip("link set eth0 down").unwrap();
    }),
    ("underlay-driver", "note", "no native XDP", |host| {
        host.ip(&format!(
            "link add br0 type bridge\nlink set br0 up\naddress del {OWN}/24 dev eth0\nlink set eth0 master br0\n\
             address add {OWN}/24 dev br0"
        ));
    }),
    ("underlay-mtu", "warning", "MTU 1400", |host| {
        host.ip("link set eth0 mtu 1400")
    }),
    ("path-mtu", "warning", "path MTU 1300", |host| {
        // A stopped gateway's routes name the nodes it knows.
        let state = host.scratch.directory("state").unwrap();
        let instance = r#"{"instance_number": 0, "host_ip": "192.168.90.77", "host_port": 50103, "service_ip": []}"#;
        let route =
            format!(r#"{{"app_name": "a.b.c.d", "query_key": "", "instance_list": [{instance}]}}"#);
        let text = format!(r#"{{"registration": null, "routes": [{route}]}}"#);
        fs::write(state.join("gateway.json"), text).unwrap();
        host.ip("route add 192.168.90.77 dev eth0 mtu 1300");
    }),
    ("offloads", "warning", "rx-gro is off", |host| {
        offload(&host.namespace, "eth0", &["gro", "off"]).unwrap();
    }),
    (
        "offloads",
        "warning",
        "tx-tcp-segmentation is off",
        |host| {
            offload(&host.namespace, "eth0", &["tx-tcp-segmentation", "off"]).unwrap();
        },
    ),
    (
        "offloads",
        "warning",
        "tx-generic-segmentation is off",
        |host| {
            offload(&host.namespace, "eth0", &["gso", "off", "tso", "off"]).unwrap();
        },
    ),
    ("tun-queue", "warning", "77 packets", |host| {
        host.ip("tuntap add sluicetun0 mode tun\nlink set sluicetun0 txqueuelen 77");
    }),
    ("device-names", "error", "sluicebr0", |host| {
        host.ip("link add sluicebr0 type veth peer name other");
    }),
    ("address-clash", "error", "10.30.7.1/24", |host| {
        host.ip("link add docker0 type bridge\naddress add 10.30.7.1/24 dev docker0");
    }),
    ("address-clash", "warning", "10.18.3.1/26", |host| {
        host.ip("link add docker0 type bridge\naddress add 10.18.3.1/26 dev docker0");
    }),
    ("address-clash", "error", "fdff::9", |host| {
        host.ip("link add docker0 type bridge\naddress add fdff::9/64 dev docker0");
    }),
    ("route-clash", "error", "leads over eth0", |host| {
        host.ip(&format!("route add 10.30.8.0/24 via {FAR}"));
    }),
    ("forward-policy", "note", "policy drop", |host| {
        host.namespace
            .nft("table ip filter {\nchain FORWARD {\ntype filter hook forward priority 0; policy drop;\n}\n}\n")
            .unwrap();
    }),
    ("forward-policy", "error", "policy DROP", |host| {
        host.run("iptables-legacy", "-P FORWARD DROP");
        host.run("iptables-legacy", "-A FORWARD -i sluice0 -j ACCEPT");
    }),
    ("forward-policy", "error", "policy DROP", |host| {
        host.run("ip6tables-legacy", "-P FORWARD DROP");
    }),
    ("input-policy", "warning", "UDP port 50103", |host| {
        input_chain(host, "tcp dport { 22, 80 } accept")
    }),
    ("conntrack-tunnel", "note", "1 tunnels", |host| {
        host.namespace
            .nft("table ip track {\nchain out {\ntype filter hook output priority 0;\nct state new counter\n}\n}\n")
            .unwrap();
        let sent = host
            .namespace
            .run(|| UdpSocket::bind((OWN, 0))?.send_to(b"x", (FAR, PORT)));
        sent.unwrap();
    }),
];

/// The rule that might complain, and how it comes.
type Harmless = (&'static str, fn(&mut Host));

/// What looks near a fault, and is none.
const HARMLESS: &[Harmless] = &[
    ("forward-policy", |host| {
        host.run("iptables-legacy", "-P FORWARD DROP");
        host.run("iptables-legacy", "-A FORWARD -i sluice0 -j ACCEPT");
        host.run("iptables-legacy", "-A FORWARD -m state --state NEW -j DROP");
        host.run("iptables-legacy", "-A FORWARD -o sluice0 -j ACCEPT");
    }),
    ("input-policy", |host| {
        input_chain(host, "udp dport 50103 accept")
    }),
    ("input-policy", |host| {
        input_chain(host, "udp dport { 53, 50103 } accept")
    }),
    ("input-policy", |host| {
        host.run("iptables", "-P INPUT DROP");
        host.run("iptables", "-A INPUT -p udp --dport 50103 -j ACCEPT");
    }),
    ("tunnel-port", |host| {
        let other = host
            .namespace
            .run(|| UdpSocket::bind(("0.0.0.0", PORT + 1)));
        host.kept.push(Box::new(other.unwrap()));
    }),
];

fn input_chain(host: &Host, rule: &str) {
    let chain =
        format!("chain input {{\ntype filter hook input priority 0; policy drop;\n{rule}\n}}");
    host.namespace
        .nft(&format!("table inet filter {{\n{chain}\n}}\n"))
        .unwrap();
}

/// Adds a key to a section.
fn key(text: &str, section: &str, key: &str, path: &Path) -> String {
    let header = format!("[{section}]\n");
    text.replace(
        &header,
        &format!("{header}{key} = \"{}\"\n", path.display()),
    )
}

#[test]
#[ignore = "needs root"]
fn every_seeded_fault_is_found() {
    assert!(FAULTS.len() >= 20);
    for (row, (check, severity, word, seed)) in FAULTS.iter().enumerate() {
        let mut host = Host::new(&format!("fault{row}"));
        let before = host.doctor("");
        let old = before.of(check);
        assert!(
            old.iter().all(|complaint| complaint.severity != *severity),
            "row {row} {check}: found before it was there: {}",
            before.text
        );
        seed(&mut host);
        let after = host.doctor("");
        assert!(
            after
                .of(check)
                .iter()
                .any(|complaint| complaint.severity == *severity
                    && format!("{} {}", complaint.place, complaint.found).contains(word)),
            "row {row} {check}: no {severity} with `{word}`: {}",
            after.text
        );
        let serious = |said: &Said| {
            said.complaints
                .iter()
                .any(|complaint| complaint.severity != "note")
        };
        for said in [&before, &after] {
            assert_eq!(
                said.status,
                Some(i32::from(serious(said))),
                "row {row} {check}: {}",
                said.text
            );
        }
    }
}

#[test]
#[ignore = "needs root"]
fn what_looks_near_a_fault_is_not_found() {
    for (row, (check, seed)) in HARMLESS.iter().enumerate() {
        let mut host = Host::new(&format!("harmless{row}"));
        seed(&mut host);
        let said = host.doctor("");
        assert_eq!(
            said.of(check),
            Vec::<&Complaint>::new(),
            "row {row} {check}: {}",
            said.text
        );
    }
}

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
