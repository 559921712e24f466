//! A node engine of the thesis (section 3.5.2), which says a node's subnet and its instances' addresses itself.
//!
//! ```text
//!  node engine ── gateway 1 ── wire ── gateway 2 ── caller
//!                     └── container
//! ```

use crate::world::{ECHO, ECHO_IP, World, one_site, serve, services, tcp, tcp_impatient};
use serde_json::{Value, json};
use sluice_perf::lab::clock::wait_for;
use sluice_perf::lab::http::{self, Answer};
use sluice_perf::lab::{NetNs, Process, Program, tools};
use sluice_wire::Subnet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);
/// Everybody has heard of an instance's beginning or end.
const HEARD: Duration = Duration::from_secs(5);

/// A process in a namespace that answers, as containerd would show it.
pub(crate) struct Container {
    id: String,
    directory: PathBuf,
    _main: Process,
}

impl Container {
    pub(crate) fn run(world: &World, name: &str) -> Self {
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
    pub(crate) fn deploy(&self, world: &World, service: &str, instance_ip: [IpAddr; 2]) {
        let addresses = instance_ip.map(|ip| json!({"IpType": "instance", "Address": ip}));
        let answer = self.ask_to_deploy(world, service, &addresses);
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// The same with these addresses; what the gateway says.
    fn ask_to_deploy(&self, world: &World, service: &str, addresses: &[Value]) -> Answer {
        let body = json!({
            "containerID": self.id,
            "serviceName": service,
            "instanceNumber": 0,
            "serviceIP": addresses,
        });
        ask(world, "POST", "/api/container", &body)
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
pub(crate) fn instance_ip(world: &World, service: &str) -> [IpAddr; 2] {
    let rows = world.sites.root.ask("/v1/instances").unwrap();
    let mut rows = rows.as_array().unwrap().iter();
    let row = rows.find(|row| row["service"] == service).unwrap();
    ["instance_ip", "instance_ip_v6"].map(|field| row[field].as_str().unwrap().parse().unwrap())
}

/// Asks the node API of the first gateway.
fn ask(world: &World, method: &str, path: &str, body: &Value) -> Answer {
    let socket = &world.sites.gateways[0].node_socket;
    http::request(socket, method, path, Some(&body.to_string()), LIMIT).unwrap()
}

/// The body of `/api/register` for a subnet of each family that nobody else has, which the root gives to whoever asks.
fn free_subnet(world: &World) -> Value {
    let token = std::fs::read_to_string(world.sites.scratch.path().join("token")).unwrap();
    let program = Program::new(tools::find("curl").unwrap())
        .args(["-sS", "--fail-with-body", "-H"])
        .arg(format!("Authorization: Bearer {}", token.trim()))
        .arg("http://192.168.78.1:10099/api/net/subnet");
    let said = world.sites.clusters[0].namespace.succeed(&program).unwrap();
    let said: Value = serde_json::from_str(&said).unwrap();
    let [v4, v6] = ["subnet_addr", "subnet_addr_v6"].map(|field| said[field].as_str().unwrap());
    json!({"subnetwork": format!("{v4}/26"), "subnetwork_v6": format!("{v6}/120")})
}

/// Starts everybody; the first gateway gets its subnet from its node engine alone, which is told which one.
fn start(world: &mut World) -> Value {
    let sites = &mut world.sites;
    let own = "[gateway]\nsubnet_by_caller = true\n";
    let configured = sites.gateways[0]
        .role
        .configure(|text| text.replace("[gateway]\n", own));
    configured.unwrap();
    sites.root.ready().unwrap();
    sites.clusters[0].ready().unwrap();
    sites.gateways[0].role.start().unwrap();
    sites.gateways[1].role.ready().unwrap();
    let registration = free_subnet(world);
    let gateway = &world.sites.gateways[0];
    let status = wait_for("the node API", LIMIT, || {
        let status = gateway.role.ask("/v1/status");
        let status = status.map_err(|error| error.to_string())?;
        let is_there = gateway.node_socket.exists();
        is_there
            .then_some(status)
            .ok_or_else(|| "no socket".to_owned())
    })
    .unwrap();
    let has_subnet = status.to_string().contains("10.18.");
    assert!(!has_subnet, "nobody gave it one: {status}");
    for _ in 0..2 {
        let answer = ask(world, "POST", "/api/register", &registration);
        assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    }
    world.sites.gateways[0].role.ready().unwrap();
    world.sites.apply(&services()).unwrap();
    registration
}

#[test]
#[ignore = "needs root"]
fn registers_deploys_is_called_and_undeploys() {
    let mut world = World::built("node-engine", &one_site());
    let registration = start(&mut world);
    let other = free_subnet(&world);
    assert_eq!(ask(&world, "POST", "/api/register", &other).status, 409);

    world.schedule(ECHO, 0);
    let instance_ip = instance_ip(&world, ECHO);
    let service_ip = ECHO_IP.map(|ip| ip.parse::<IpAddr>().unwrap());
    let entry = |kind: &str, ip: IpAddr| json!({"IpType": kind, "Address": ip});
    let container = Container::run(&world, "engine-echo");
    let unknown = [
        entry("Nearest", service_ip[0]),
        entry("instance", instance_ip[0]),
    ];
    let answer = container.ask_to_deploy(&world, ECHO, &unknown);
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.body.contains("`Nearest`"), "{answer:?}");
    let addresses: Vec<Value> = (service_ip.iter().map(|ip| entry("RR", *ip)))
        .chain(instance_ip.iter().map(|ip| entry("instance", *ip)))
        .collect();
    let answer = container.ask_to_deploy(&world, ECHO, &addresses);
    assert_eq!(answer.status, 200, "{answer:?}");
    let deployed: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(deployed["serviceName"], ECHO);
    let ns_ip: Ipv4Addr = deployed["nsAddress"].as_str().unwrap().parse().unwrap();
    let subnet: Subnet = registration["subnetwork"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(subnet.contains(ns_ip.into()), "{ns_ip} of {subnet}");

    // From the other node and from beside it, by each address that the node engine said.
    for gateway in [1, 0] {
        let caller = world.caller(gateway);
        for to in [service_ip, instance_ip].concat() {
            wait_for("the instance to answer", HEARD, || {
                let answer =
                    tcp(&caller.namespace, to).map_err(|error| format!("{to}: {error}"))?;
                (answer.name == "engine-echo")
                    .then_some(())
                    .ok_or(answer.name)
            })
            .unwrap();
        }
        world.sites.detach(gateway, &caller.attached).unwrap();
    }

    let body = json!({"serviceName": ECHO});
    let caller = world.caller(1);
    tcp(&caller.namespace, service_ip[0]).unwrap();
    let answer = ask(&world, "DELETE", "/api/container", &body);
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    for to in [service_ip, instance_ip].concat() {
        wait_for("nobody to answer", HEARD, || {
            match tcp_impatient(&caller.namespace, to) {
                Err(_) => Ok(()),
                Ok(answer) => Err(format!("{to}: {answer:?}")),
            }
        })
        .unwrap();
    }
    assert_eq!(ask(&world, "DELETE", "/api/container", &body).status, 404);
    let rows = world.sites.gateways[0].role.ask("/v1/instances").unwrap();
    let mut rows = rows.as_array().unwrap().iter();
    let is_here = |row: &Value| row["service"] == ECHO && row["ns_ip"].is_string();
    assert_eq!(rows.find(|row| is_here(row)), None);

    // Its place is free for the next one.
    let container = Container::run(&world, "engine-next");
    let answer = container.ask_to_deploy(&world, ECHO, &addresses);
    assert_eq!(answer.status, 200, "{answer:?}");
    wait_for("the next one to answer", HEARD, || {
        let answer = tcp(&caller.namespace, service_ip[0]).map_err(|error| error.to_string())?;
        (answer.name == "engine-next")
            .then_some(())
            .ok_or(answer.name)
    })
    .unwrap();
    world.check();
}
