//! What can be wrong: seeded in a namespace, found by the real program.

use super::{Complaint, FAR, Host, OWN, PORT, Said};
use sluice_perf::lab::wire::offload;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

/// The rule that must find it, how bad it is, a word of what was found, and how it comes.
type Fault = (&'static str, &'static str, &'static str, fn(&mut Host));

/// In front of a rack: `rack` stands for the NIC towards it.
fn rack(host: &Host) {
    host.configure(|text| format!("{text}link = \"af_xdp\"\nservice = \"rack\"\n"));
    host.ip(
        "link add rack type veth peer name rackport\nlink set rack up\nlink set rackport up\n\
         address add 10.50.0.1/24 dev rack\naddress add fd50::1/64 dev rack nodad",
    );
}

const FAULTS: &[Fault] = &[
    ("lan-device", "error", "no device lan7", |host| {
        host.configure(|text| format!("{text}link = \"af_xdp\"\nservice = \"lan7\"\n"));
    }),
    ("lan-device", "error", "is down", |host| {
        rack(host);
        host.ip("link set rack down");
    }),
    ("lan-queues", "error", "2 workers", |host| {
        rack(host);
        host.configure(|text| {
            let text = text.replace("workers = 1", "workers = 2");
            format!("{text}link = \"af_xdp\"\nservice = \"rack\"\n")
        });
    }),
    ("lan-addresses", "warning", "no IPv4", |host| {
        rack(host);
        host.ip("address del 10.50.0.1/24 dev rack");
    }),
    ("lan-mtu", "warning", "MTU 1400", |host| {
        rack(host);
        host.ip("link set rack mtu 1400");
    }),
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
    (
        "names-port",
        "warning",
        "serves it on every address",
        |host| {
            let held = host.namespace.run(|| UdpSocket::bind(("0.0.0.0", 53)));
            host.kept.push(Box::new(held.unwrap()));
        },
    ),
    (
        "names-port",
        "warning",
        "serves it on every address",
        |host| {
            let held = host.namespace.run(|| TcpListener::bind(("::", 53)));
            host.kept.push(Box::new(held.unwrap()));
        },
    ),
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
        host.configure(|text| format!("{text}[hardware]\ninterface = \"eth7\"\n"));
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
