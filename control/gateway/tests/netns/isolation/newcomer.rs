//! A node engine says an instance's InstanceIP itself (the thesis's API), while the rules of its service are still on their way.

use super::{TELLER, is_refused, laid, rule};
use crate::world::{CALLER, ECHO, Instance, World, cut, join, serve, tcp, udp, udp_socket};
use serde_json::json;
use sluice_perf::lab::sites::Layout;
use sluice_perf::lab::{NetNs, Process, Program, http};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How far the managers are: what is called at once is called before their answer.
const ROUND_TRIP: Duration = Duration::from_millis(80);
const LIMIT: Duration = Duration::from_secs(10);

/// A process in a namespace that answers, as containerd would show it.
struct Container {
    id: String,
    directory: PathBuf,
    _main: Process,
}

impl Container {
    fn run(world: &World, name: &str) -> Self {
        let namespace = NetNs::new(name).unwrap();
        serve(&namespace, name);
        let log = world.sites.scratch.path().join(format!("{name}.log"));
        let sleep = Program::new("sleep").arg("1000");
        let main = namespace.start(&sleep, &log).unwrap();
        let id = format!("{name}-{}", main.pid());
        let tasks = Path::new("/run/containerd/io.containerd.runtime.v2.task");
        let directory = tasks.join(format!("sluice-{id}"));
        let task = directory.join(&id);
        std::fs::create_dir_all(&task).unwrap();
        std::fs::write(task.join("init.pid"), main.pid().to_string()).unwrap();
        Self {
            id,
            directory,
            _main: main,
        }
    }

    /// Deploys it at the first gateway as instance 0.
    fn deploy(&self, world: &World, service: &str, instance_ip: [IpAddr; 2]) {
        let addresses = instance_ip.map(|ip| json!({"IpType": "instance", "Address": ip}));
        let body = json!({
            "containerID": self.id,
            "serviceName": service,
            "instanceNumber": 0,
            "serviceIP": addresses,
        });
        let socket = &world.sites.gateways[0].node_socket;
        let body = body.to_string();
        let answer = http::request(socket, "POST", "/api/container", Some(&body), LIMIT).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
        // Those above it, if nothing else is there.
        for directory in self.directory.ancestors().skip(1).take(2) {
            let _ = std::fs::remove_dir(directory);
        }
    }
}

/// The InstanceIP that the root gave to instance 0.
fn instance_ip(world: &World, service: &str) -> [IpAddr; 2] {
    let rows = world.sites.root.ask("/v1/instances").unwrap();
    let mut rows = rows.as_array().unwrap().iter();
    let row = rows.find(|row| row["service"] == service).unwrap();
    ["instance_ip", "instance_ip_v6"].map(|field| row[field].as_str().unwrap().parse().unwrap())
}

/// Another tenant beside it calls as soon as the node engine is answered.
#[test]
#[ignore = "needs root"]
fn a_call_waits_for_the_rules_of_a_service_that_begins() {
    let layout = Layout {
        clusters: 1,
        gateways: vec![0, 0],
        managers_away: Some(ROUND_TRIP),
        ..Layout::two_sites()
    };
    let world = laid("newcomer", "enforce", layout);
    rule(&world, "add", TELLER, CALLER);
    world.schedule(CALLER, 0);
    let to = instance_ip(&world, CALLER);
    let teller: Instance = world.attach(0, TELLER, "teller");
    let v6 = udp_socket(&teller.namespace, 1, 0);
    let container = Container::run(&world, "newcomer");
    container.deploy(&world, CALLER, to);
    assert_eq!(tcp(&teller.namespace, to[0]).unwrap().name, "newcomer");
    assert_eq!(udp(&v6, to[1]).unwrap().name, "newcomer");
    assert_eq!(world.accounts(0).dropped("not-allowed"), 0);

    // Nobody says the rules of this one: it does not wait for ever.
    world.schedule(ECHO, 0);
    let to = instance_ip(&world, ECHO);
    let container = Container::run(&world, "silent");
    let gateway = world.sites.gateways[0].namespace();
    cut(gateway, &["mgmt0"]);
    container.deploy(&world, ECHO, to);
    for to in to {
        let answer = tcp(&teller.namespace, to);
        assert!(is_refused(&answer), "{answer:?}");
    }
    assert!(world.accounts(0).dropped("not-allowed") >= 2);
    join(gateway);
    world.check();
}
