//! Other implementations of the encrypted format as node 2 of a laboratory: wireguard-go of Debian, and boringtun.

use crate::encrypted::key;
use crate::namespaces::{Lab, ip};
use crate::site::{TUNNEL_PORT, instance_ip, ns_ip};
use sluice_wire::Family;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

#[derive(Clone, Copy, Debug)]
pub(crate) enum Other {
    WireGuardGo,
    Boringtun,
}

/// One of them, which ends with the value.
pub(crate) struct Stock {
    process: Child,
    interface: String,
    namespace: String,
}

impl Stock {
    /// Starts it in the lab's second namespace, as the owner of the key of node 2, with the addresses of the instance there.
    /// It has no peer yet.
    pub(crate) fn start(lab: &Lab, other: Other) -> Self {
        let [_, namespace] = &lab.names;
        // Its control socket is in a directory of the machine.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let interface = format!("swg{}n{next}", std::process::id());
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]);
        match other {
            Other::WireGuardGo => command.arg("wireguard-go").arg("-f"),
            Other::Boringtun => command
                .arg(boringtun())
                .args(["-f", "--disable-drop-privileges"]),
        };
        let process = command
            .arg(&interface)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let this = Self {
            process,
            interface,
            namespace: namespace.clone(),
        };
        wait_until("control socket", || this.socket().exists());
        this.configure(&format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {TUNNEL_PORT}\n",
            *key(2).to_text()
        ));
        this.translate();
        for family in FAMILIES {
            let (bits, ranges) = match family {
                Family::V4 => ("32", ["10.30.0.0/16", "10.18.0.0/16"]),
                Family::V6 => ("128 nodad", ["fdff::/16", "fc00::/16"]),
            };
            let device = &this.interface;
            for address in [ns_ip(family, 2), instance_ip(family, 2)] {
                ip(&format!(
                    "-n {namespace} addr add {address}/{bits} dev {device}"
                ));
            }
            ip(&format!("-n {namespace} link set {device} mtu 1420 up"));
            for range in ranges {
                ip(&format!("-n {namespace} route add {range} dev {device}"));
            }
        }
        this
    }

    fn socket(&self) -> PathBuf {
        Path::new("/var/run/wireguard").join(format!("{}.sock", self.interface))
    }

    /// What a gateway does for its instances, which the other implementation does not: what came as `A -> b` is delivered as `a -> B`,
    /// so that answers leave as `B -> a`.
    fn translate(&self) {
        let rules: String = FAMILIES
            .map(|family| {
                let protocol = match family {
                    Family::V4 => "ip",
                    Family::V6 => "ip6",
                };
                let [from, to] = [instance_ip(family, 1), ns_ip(family, 2)];
                let [said, meant] = [ns_ip(family, 1), instance_ip(family, 2)];
                format!(
                    "iifname {} {protocol} saddr {from} {protocol} daddr {to} \
                     {protocol} saddr set {said} {protocol} daddr set {meant}\n",
                    self.interface
                )
            })
            .concat();
        self.feed(
            &["nft", "-f", "/dev/stdin"],
            &format!(
                "table inet stock {{\nchain come {{\n\
                 type filter hook prerouting priority raw;\n{rules}}}\n}}\n"
            ),
        );
    }

    /// Makes node 1 its only peer.
    pub(crate) fn meet(&self, underlay: Family) {
        self.meet_as(underlay, &key(1).public().to_string(), "");
    }

    /// The same with another key of node 1, and with more lines about it.
    pub(crate) fn meet_as(&self, underlay: Family, key: &str, more: &str) {
        let endpoint = match underlay {
            Family::V4 => "192.0.2.1",
            Family::V6 => "[2001:db8::1]",
        };
        self.add(&format!(
            "[Peer]\nPublicKey = {key}\nEndpoint = {endpoint}:{TUNNEL_PORT}\n\
             AllowedIPs = 10.30.0.0/16, 10.18.0.0/16, fdff::/16, fc00::/16\n{more}"
        ));
    }

    /// Sets the whole of its configuration.
    fn configure(&self, text: &str) {
        self.wg("setconf", text);
    }

    fn add(&self, text: &str) {
        self.wg("addconf", text);
    }

    /// What `wg show` says of it: the words of its one peer's line, behind the peer's key.
    pub(crate) fn show(&self, what: &str) -> Vec<String> {
        let output = Command::new("ip")
            .args(["netns", "exec", &self.namespace])
            .args(["wg", "show", &self.interface, what])
            .output()
            .unwrap();
        let shown = String::from_utf8(output.stdout).unwrap();
        let words = shown.split_whitespace().skip(1);
        words.map(str::to_owned).collect()
    }

    /// `wg set` with these words.
    pub(crate) fn set(&self, words: &str, text: &str) {
        let words = words.split_whitespace();
        let command: Vec<&str> = ["wg", "set", &self.interface]
            .into_iter()
            .chain(words)
            .collect();
        self.feed(&command, text);
    }

    fn wg(&self, verb: &str, text: &str) {
        self.feed(&["wg", verb, &self.interface, "/dev/stdin"], text);
    }

    /// Runs a program in the namespace, which reads the text.
    fn feed(&self, arguments: &[&str], text: &str) {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.namespace])
            .args(arguments)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        drop(stdin);
        assert!(child.wait().unwrap().success(), "{arguments:?}: {text}");
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(self.socket());
    }
}

/// Where `.ci/peer` puts it, or on the path.
fn boringtun() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let built = exe
        .ancestors()
        .map(|directory| directory.join("ci-tools/bin/boringtun-cli"));
    built
        .into_iter()
        .find(|path| path.exists())
        .unwrap_or_else(|| PathBuf::from("boringtun-cli"))
}

/// Waits for something that another process does.
#[expect(
    clippy::disallowed_methods,
    reason = "another process has its own clock"
)]
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(20), "no {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Everything that crosses the wire, at the second namespace's end of it.
pub(crate) struct Capture {
    process: Child,
    file: PathBuf,
}

impl Capture {
    /// Begins to write into a file of this name. Runs of datagrams are cut before the wire from now on: Wireshark takes each for one.
    pub(crate) fn start(lab: &Lab, name: &str) -> Self {
        for namespace in &lab.names {
            let cut = Command::new("ip")
                .args(["netns", "exec", namespace, "ethtool", "-K", "wire"])
                .args(["tx-udp-segmentation", "off"])
                .status()
                .unwrap();
            assert!(cut.success());
        }
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let mut process = Command::new("ip")
            .args(["netns", "exec", &lab.names[1], "dumpcap"])
            .args(["-i", "wire", "-B", "64", "-w"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(process.stderr.take().unwrap()).lines();
        let began = said.find(|line| line.as_ref().is_ok_and(|line| line.starts_with("File:")));
        assert!(began.is_some(), "dumpcap does not begin");
        // It says how many packets came, again and again, and ends if nobody listens.
        std::thread::spawn(move || said.for_each(drop));
        Self { process, file }
    }

    pub(crate) fn finish(mut self) -> PathBuf {
        let pid = self.process.id().to_string();
        let interrupted = Command::new("kill").args(["-INT", &pid]).status().unwrap();
        assert!(interrupted.success());
        self.process.wait().unwrap();
        self.file.clone()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What tshark shows of a capture's packets that fit `filter`: the fields of one packet a line, separated by spaces.
pub(crate) fn tshark(capture: &Path, key_log: &Path, filter: &str, fields: &[&str]) -> Vec<String> {
    let mut command = Command::new("tshark");
    command
        .args(["-n", "-r"])
        .arg(capture)
        .arg("-o")
        .arg(format!("wg.keylog_file:{}", key_log.display()))
        .args(["-Y", filter, "-T", "fields", "-E", "separator= "]);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{filter}: {said}");
    let shown = String::from_utf8(output.stdout).unwrap();
    shown.lines().map(str::to_owned).collect()
}
