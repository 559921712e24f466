//! Namespaces as host and instances, requests for them, and what the host says of itself.

use super::now;
use sluice::command::InstanceName;
use sluice::node::attach::{Attachment, Request};
use sluice::node::namespace::Workload;
use sluice::node::port_mapping::PortMapping;
use sluice::node::{NodeError, NodeNet, Wiring};
use sluice_wire::{AddressPlan, Dual, Subnet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

pub(crate) fn subnet(v4: &str) -> Dual<Subnet> {
    Dual::both(v4.parse().unwrap(), "fc00::/120".parse().unwrap())
}

pub(crate) fn name(instance_number: u32) -> InstanceName {
    InstanceName {
        service: "app.ns.svc.prod".to_owned(),
        instance_number,
    }
}

pub(crate) fn request(instance_number: u32, port_mappings: &str) -> Request {
    Request {
        instance: name(instance_number),
        port_mappings: PortMapping::list(port_mappings).unwrap(),
        kept: Dual::default(),
        note: format!("note {instance_number}"),
    }
}

pub(crate) fn first_line(child: &mut Child) {
    use std::io::{BufRead, BufReader};
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
}

/// A network namespace that is removed with this value.
pub(crate) struct Ns {
    pub(crate) name: String,
    remove: bool,
}

impl Ns {
    pub(crate) fn new(name: String) -> Self {
        run(Command::new("ip").args(["netns", "del", &name]));
        let made = run(Command::new("ip").args(["netns", "add", &name]));
        assert!(made.status.success(), "{made:?}");
        let ns = Self { name, remove: true };
        ns.succeeds(&["ip", "link", "set", "lo", "up"]);
        ns
    }

    /// One that somebody else made and removes.
    pub(crate) fn of_another(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            remove: false,
        }
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).args(words);
        command
    }

    pub(crate) fn succeeds(&self, words: &[&str]) {
        self.output(words);
    }

    pub(crate) fn output(&self, words: &[&str]) -> String {
        let output = run(&mut self.command(words));
        assert!(
            output.status.success(),
            "{words:?} in {}: {output:?}",
            self.name
        );
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn fails(&self, words: &[&str]) {
        let output = run(&mut self.command(words));
        assert!(
            !output.status.success(),
            "{words:?} in {}: {output:?}",
            self.name
        );
    }

    pub(crate) fn spawn(&self, words: &[&str]) -> Child {
        // No `ip netns exec`: it forks, and the child's id must be the program's.
        let path = format!("--net=/run/netns/{}", self.name);
        let mut child = Command::new("nsenter")
            .arg(path)
            .args(["sh", "-c", "echo ready; exec \"$@\"", "sh"])
            .args(words)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        first_line(&mut child);
        child
    }

    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let workload = Workload::of_namespace(Path::new(&self.name)).unwrap();
        workload.namespace.run(work).unwrap()
    }
}

impl Drop for Ns {
    fn drop(&mut self) {
        if self.remove {
            run(Command::new("ip").args(["netns", "del", &self.name]));
        }
    }
}

pub(crate) fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

/// A node: a namespace in the place of a host, and a state directory.
pub(crate) struct Host {
    pub(crate) ns: Ns,
    pub(crate) state_dir: PathBuf,
}

impl Host {
    pub(crate) fn new(test: &str) -> Self {
        let name = format!("slnode-{test}-{}", std::process::id());
        let state_dir = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&state_dir).unwrap();
        Self {
            ns: Ns::new(name),
            state_dir,
        }
    }

    pub(crate) fn node(&self, subnet: Dual<Subnet>) -> NodeNet {
        let wiring = Wiring {
            lan: None,
            uplink_queues: 1,
            bridge: "sluicebr0".to_owned(),
            uplink: "sluice0".to_owned(),
            tun: "sluicetun0".to_owned(),
            mtu: 1450,
            inner_mtu: 1420,
            plan: AddressPlan::oakestra(),
            rest: Duration::from_secs(600),
            state_dir: self.state_dir.clone(),
        };
        self.ns
            .inside(|| NodeNet::adopt_or_create(wiring, subnet, &[], &now()))
            .unwrap()
    }

    /// A TUN device as the link opens it, wired.
    pub(crate) fn tun(&self, node: &NodeNet) {
        self.ns
            .succeeds(&["ip", "tuntap", "add", "sluicetun0", "mode", "tun"]);
        self.ns.inside(|| node.wire_tun()).unwrap();
        let routes = self.ns.output(&["ip", "route"]);
        assert!(routes.contains("10.30.0.0/16 dev sluicetun0"), "{routes}");
        let routes = self.ns.output(&["ip", "-6", "route"]);
        assert!(routes.contains("fdff::/16 dev sluicetun0"), "{routes}");
        self.ns.inside(|| node.wire_tun()).unwrap();
    }

    pub(crate) fn instance(&self, name: &str) -> Ns {
        Ns::new(format!("{}-{name}", self.ns.name))
    }

    /// A neighbour 192.0.2.2 and 2001:db8::2 on the node's other interface, with no way to the node's subnet.
    pub(crate) fn outside(&self) -> Ns {
        let ns = self.instance("out");
        self.ns.succeeds(&[
            "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &ns.name,
        ]);
        for (ns, v4, v6) in [
            (&self.ns, "192.0.2.1/24", "2001:db8::1/64"),
            (&ns, "192.0.2.2/24", "2001:db8::2/64"),
        ] {
            ns.succeeds(&["ip", "addr", "add", v4, "dev", "eth0"]);
            ns.succeeds(&["ip", "addr", "add", v6, "dev", "eth0", "nodad"]);
            ns.succeeds(&["ip", "link", "set", "eth0", "up"]);
        }
        ns
    }

    pub(crate) fn attach(
        &self,
        node: &mut NodeNet,
        instance: &Ns,
        number: u32,
        port_mappings: &str,
    ) -> Result<Attachment, NodeError> {
        let workload = Workload::of_namespace(Path::new(&instance.name)).unwrap();
        self.ns.inside(|| {
            node.attach(request(number, port_mappings), &workload, &now())
                .cloned()
        })
    }

    pub(crate) fn teardown(&self, node: NodeNet) {
        self.ns.inside(|| node.teardown()).unwrap();
    }

    pub(crate) fn rules(&self) -> String {
        self.ns.output(&["nft", "-s", "list", "ruleset"])
    }

    pub(crate) fn mac_of(&self, device: &str) -> String {
        let path = format!("/sys/class/net/{device}/address");
        self.ns.output(&["cat", &path]).trim().to_owned()
    }

    /// Names of links, addresses, routes and rules.
    pub(crate) fn everything(&self) -> Vec<String> {
        let mut links: Vec<String> = self
            .ns
            .output(&["ip", "-br", "link"])
            .lines()
            .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
            .collect();
        links.sort();
        vec![
            links.join(" "),
            self.ns.output(&["ip", "route", "show", "table", "all"]),
            self.rules(),
        ]
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.state_dir);
    }
}
