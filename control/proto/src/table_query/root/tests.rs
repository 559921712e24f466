//! What the root answers, whom it tells, and that its store is its state.

mod absences;
mod migration;
mod nodes;
mod revocation;
mod subnets;

use super::*;
use crate::message::{InstanceStatus, NodeKey, ServiceIpEntry};
use serde_json::json;
use sluice_wire::{Dual, Family};

const ID: &str = "64b8f0c9d2a1e3f405162738";

fn root() -> Root {
    let mut root = Root::new(&AddressPlan::oakestra());
    for (id, address) in [("c1", "192.0.2.1"), ("c2", "192.0.2.2")] {
        let registration = ClusterRegistration {
            cluster_id: id.to_owned(),
            cluster_address: address.to_owned(),
            cluster_port: 10110,
        };
        said(
            &mut root,
            Command::ClusterRegister(registration),
            200,
            "cluster registered",
        );
    }
    root
}

fn said(root: &mut Root, command: Command, status: u16, text: &str) -> Applied {
    let applied = root.apply(&command, 1000);
    assert_eq!(
        applied.reply,
        Reply::text(status, text),
        "answer to {command:?}"
    );
    applied
}

fn descriptor(service: &str) -> Value {
    json!({"app_name": "demo", "app_ns": "default", "service_name": service, "service_ns": "test",
           "microservice_name": service, "microservice_namespace": "test", "port": "80", "code": "nginx"})
}

fn deploy(id: &str, descriptor: Value) -> Command {
    Command::ServiceDeploy(ServiceDeploy {
        id: id.to_owned(),
        deployment_descriptor: descriptor,
    })
}

fn instance(id: &str, number: i64, cluster: &str, request: Option<&str>) -> Command {
    Command::InstanceDeploy(InstanceDeploy {
        id: id.to_owned(),
        instance_number: number,
        cluster_id: cluster.to_owned(),
        request_id: request.map(str::to_owned),
        migrate: false,
    })
}

fn caller(address: &str) -> Caller {
    Caller {
        cluster_id: None,
        address: Some(address.to_owned()),
    }
}

fn query(name: &str, address: &str) -> Command {
    Command::Query {
        key: Key::parse(name).unwrap(),
        caller: caller(address),
    }
}

fn status(id: &str, number: u32) -> Command {
    Command::Status(NetDeployStatus {
        job_id: id.to_owned(),
        instances: vec![InstanceStatus {
            instance_number: number,
            namespace_ip: Some(Ip::v4([10, 18, 0, 2])),
            namespace_ip_v6: "fc00::2".parse().ok(),
            host_ip: Some(Ip::v4([192, 0, 2, 9])),
            host_port: 50103,
            worker_id: None,
            epoch: 0,
            public_key: None,
            answers_probes: false,
        }],
        cluster_id: None,
    })
}

/// One service from its descriptor to its end, in Oakestra's words.
#[test]
fn a_services_life_in_oakestras_words() {
    let mut root = root();
    let name = "demo.default.nginx.test";
    let again = deploy(ID, descriptor("nginx"));
    said(&mut root, again.clone(), 200, "Instance info added");
    said(&mut root, again, 200, "Instance info added");
    said(
        &mut root,
        instance(ID, 0, "c1", None),
        200,
        "Instance info added",
    );
    let applied = root.apply(&query(name, "::ffff:192.0.2.2"), 1000);
    let Body::Json(job) = applied.reply.body else {
        panic!("a job")
    };
    assert_eq!(job["_id"], ID);
    assert_eq!(job["code"], "nginx");
    assert_eq!(
        job["service_ip_list"],
        json!([{"IpType": "RR", "Address": "10.30.0.1", "Address_v6": "fdff:2000::1"}])
    );
    assert_eq!(job["instance_list"][0]["instance_ip"], "10.30.0.2");
    assert!(job["instance_list"][0].get("namespace_ip").is_none());
    let applied = said(&mut root, status(ID, 0), 200, "Status updated");
    let told: Vec<_> = applied
        .effects
        .iter()
        .map(|effect| match effect {
            Effect::Notify { cluster, update } => (cluster.as_str(), update.kind),
            Effect::NoInstanceLeft { .. } => panic!("one runs"),
        })
        .collect();
    let kind = UpdateKind::Deployment;
    assert_eq!(told, [("c1", kind), ("c2", kind)], "deployed there; asked");
    let delete = Command::ServiceDelete { id: ID.to_owned() };
    said(
        &mut root,
        delete.clone(),
        400,
        "There are services still deployed",
    );
    let end = Command::InstanceDelete {
        id: ID.to_owned(),
        number: -1,
        epoch: None,
        cluster_id: None,
    };
    let applied = said(&mut root, end, 200, "Instance info cleared");
    assert!(applied.effects.contains(&Effect::NoInstanceLeft {
        job: name.parse().unwrap()
    }));
    let remove = Command::InterestRemove {
        job: name.parse().unwrap(),
        caller: caller("192.0.2.2"),
    };
    said(&mut root, remove, 200, "deregistered");
    said(&mut root, delete, 200, "Job removed successfully");
    assert_eq!(root.jobs().count(), 0);
}

#[test]
fn refusals_have_oakestras_status() {
    let mut root = root();
    said(
        &mut root,
        deploy("xyz", descriptor("a")),
        400,
        "Invalid _id",
    );
    let broken = root.apply(&deploy(ID, json!({"app_name": "demo"})), 0);
    assert_eq!(broken.reply.status, 400);
    assert!(broken.changes.is_empty());
    said(&mut root, status(ID, 0), 404, "Job not found");
    said(
        &mut root,
        query("a.b.c.d", "198.51.100.1"),
        400,
        "Invalid cluster address, is the cluster registered?",
    );
    let unknown = root.apply(&query("a.b.c.d", "192.0.2.1"), 0);
    assert_eq!(
        (unknown.reply.status, unknown.reply.bytes()),
        (200, b"{}".to_vec())
    );
    assert!(
        unknown.changes.is_empty(),
        "no interest in what does not exist"
    );
    said(
        &mut root,
        instance(ID, 0, "c1", None),
        200,
        "Instance info added",
    );
    let remove = Command::InterestRemove {
        job: "a.b.c.d".parse().unwrap(),
        caller: caller("198.51.100.1"),
    };
    said(&mut root, remove, 404, "Cluster not registered");
}

#[test]
fn a_chosen_address_that_is_taken_is_named() {
    let mut root = root();
    let mut first = descriptor("a");
    first["RR_ip"] = json!("10.30.50.2");
    said(
        &mut root,
        deploy(ID, first.clone()),
        200,
        "Instance info added",
    );
    let other = "64b8f0c9d2a1e3f405162739";
    let mut second = descriptor("b");
    second["RR_ip"] = json!("10.30.50.2");
    said(
        &mut root,
        deploy(other, second.clone()),
        500,
        "10.30.50.2 is taken: it is the round robin address of demo.default.a.test",
    );
    second["RR_ip"] = json!("10.31.0.1");
    let outside = root.apply(&deploy(other, second), 1000);
    assert_eq!(outside.reply.status, 500);
    first["RR_ip"] = json!("10.30.50.3");
    said(
        &mut root,
        deploy(ID, first),
        400,
        "the round robin address of demo.default.a.test is 10.30.50.2, not 10.30.50.3; delete the service first",
    );
    said(
        &mut root,
        deploy(other, descriptor("a")),
        400,
        &format!("demo.default.a.test is deployed already, as {ID}"),
    );
}

/// Every kind of holder, each by name: other services, the descriptor itself, who had it a moment ago, nodes.
#[test]
fn every_collision_of_a_descriptor_is_named() {
    let mut root = root();
    let other = "64b8f0c9d2a1e3f405162739";
    let subnet = Command::Subnet {
        caller: caller("192.0.2.1"),
        request_id: None,
    };
    root.apply(&subnet, 1000);
    let mut first = descriptor("a");
    first["addresses"] = json!({"rr_ip": "10.30.5.1", "closest_ip": "10.30.5.2",
        "instances": [{"from": 0, "to": 3, "start": "10.30.6.1"}]});
    said(&mut root, deploy(ID, first), 200, "Instance info added");
    root.apply(&instance(ID, 7, "c1", None), 1000);
    let given = root.job_by_id(ID).unwrap().instance_list[0]
        .instance_ip
        .unwrap();
    let outside = "is outside 10.30.0.0/16, the range of ServiceIPs and InstanceIPs";
    let range = |start: &str| json!({"instances": [{"from": 0, "to": 2, "start": start}]});
    for (addresses, expected) in [
        (
            json!({"rr_ip": "10.30.5.2"}),
            "10.30.5.2 is taken: it is the closest address of demo.default.a.test".to_owned(),
        ),
        (
            json!({"closest_ip": "10.30.6.3"}),
            "10.30.6.3 is taken: it is instance 2 of demo.default.a.test".to_owned(),
        ),
        (
            json!({"rr_ip": given.to_string()}),
            format!("{given} is taken: it is instance 7 of demo.default.a.test"),
        ),
        (
            range("10.30.5.0"),
            "10.30.5.1 is taken: it is the round robin address of demo.default.a.test".to_owned(),
        ),
        (
            range("10.30.255.255"),
            format!("10.31.0.0 {outside}: it is in 10.16.0.0/12, the range of nodes' subnets"),
        ),
        (
            json!({"rr_ip": "10.18.0.5"}),
            format!(
                "10.18.0.5 {outside}: it is in 10.18.0.0/26, the subnet of a node of cluster c1"
            ),
        ),
        (
            json!({"rr_ip": "10.18.0.70"}),
            format!("10.18.0.70 {outside}: it is in 10.16.0.0/12, the range of nodes' subnets"),
        ),
        (
            json!({"rr_ip": "10.30.9.1", "closest_ip": "10.30.9.1"}),
            "10.30.9.1 is taken: it is the round robin address of demo.default.b.test".to_owned(),
        ),
    ] {
        let mut second = descriptor("b");
        second["addresses"] = addresses;
        let applied = said(&mut root, deploy(other, second), 500, &expected);
        assert!(applied.changes.is_empty(), "all or nothing");
    }
    let delete =
        |root: &mut Root, command| assert_eq!(root.apply(&command, 1000).reply.status, 200);
    let instances = Command::InstanceDelete {
        id: ID.to_owned(),
        number: -1,
        epoch: None,
        cluster_id: None,
    };
    delete(&mut root, instances);
    delete(&mut root, Command::ServiceDelete { id: ID.to_owned() });
    let mut second = descriptor("b");
    second["RR_ip"] = json!("10.30.5.1");
    said(
        &mut root,
        deploy(other, second),
        500,
        "10.30.5.1 was the round robin address of demo.default.a.test a short time ago and rests for another 86400 s",
    );
}

#[test]
fn an_attached_instance_is_given_once_per_request() {
    let mut root = root();
    said(
        &mut root,
        deploy(ID, descriptor("a")),
        200,
        "Instance info added",
    );
    let first = root.apply(&instance(ID, -1, "c1", Some("r1")), 1000);
    let again = root.apply(&instance(ID, -1, "c1", Some("r1")), 1000);
    assert_eq!(first.reply, again.reply);
    let second = root.apply(&instance(ID, -1, "c1", Some("r2")), 1000);
    let Body::Json(body) = second.reply.body else {
        panic!("an instance")
    };
    assert_eq!(
        (&body["instance_number"], &body["epoch"]),
        (&json!(1), &json!(2))
    );
    let late = Command::InstanceDelete {
        id: ID.to_owned(),
        number: 1,
        epoch: Some(1),
        cluster_id: None,
    };
    let applied = said(&mut root, late, 200, "Instance info cleared");
    assert!(
        applied.changes.is_empty(),
        "another instance of that number"
    );
    let taken = root.apply(&instance(ID, 1, "c1", Some("r3")), 1000);
    assert_eq!(taken.reply.status, 409);
}

#[test]
fn a_reserved_range_gives_its_instances_their_addresses() {
    let mut root = root();
    let mut descriptor = descriptor("a");
    descriptor["addresses"] = json!({"instances": [{"from": 0, "to": 2, "start": "10.30.7.1"}]});
    said(
        &mut root,
        deploy(ID, descriptor),
        200,
        "Instance info added",
    );
    for (number, expected) in [(0, "10.30.7.1"), (1, "10.30.7.2"), (2, "10.30.0.2")] {
        root.apply(&instance(ID, number, "c1", None), 1000);
        let job = root.job_by_id(ID).unwrap();
        let entry = job.instance_list.last().unwrap();
        assert_eq!(entry.instance_ip.unwrap().to_string(), expected);
        assert_eq!(entry.instance_ip_v6.unwrap().family(), Family::V6);
    }
}

#[test]
fn a_repeated_subnet_request_gets_the_same_subnet() {
    let mut root = root();
    let mut ask = |request: Option<&str>| {
        let command = Command::Subnet {
            caller: caller("192.0.2.1"),
            request_id: request.map(str::to_owned),
        };
        String::from_utf8(root.apply(&command, 0).reply.bytes()).unwrap()
    };
    let first = r#"{"grant_id":1,"subnet_addr":"10.18.0.0","subnet_addr_v6":"fc00::"}"#;
    assert_eq!(ask(Some("c1-1")), first);
    assert_eq!(ask(Some("c1-1")), first);
    assert!(ask(None).contains("10.18.0.64"));
    assert!(
        ask(None).contains("10.18.0.128"),
        "each plain GET takes one"
    );
}

fn rule(from: &str, to: &str) -> Rule {
    Rule {
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
    }
}

/// So that a cluster that did not hear it, or lost its store, can give back what nobody took.
#[test]
fn clusters_are_told_what_nodes_asked_for_until_an_orchestrator_schedules_it() {
    let mut root = root();
    let deployed = "Instance info added";
    said(&mut root, deploy(ID, descriptor("a")), 200, deployed);
    said(&mut root, instance(ID, 0, "c1", None), 200, deployed);
    root.apply(&instance(ID, -1, "c1", Some("r")), 1000);
    let told = |root: &mut Root| {
        let applied = root.apply(&query("demo.default.a.test", "192.0.2.1"), 1000);
        let Body::Json(job) = applied.reply.body else {
            panic!("a job")
        };
        job["attached"].clone()
    };
    assert_eq!(told(&mut root), serde_json::json!([1]));
    said(&mut root, instance(ID, 1, "c1", None), 200, deployed);
    assert_eq!(told(&mut root), Value::Null);
}

/// The rules and the revision that a cluster is told with a job.
fn told(root: &mut Root, name: &str) -> (Value, u64) {
    let Body::Json(job) = root.apply(&query(name, "192.0.2.1"), 1000).reply.body else {
        panic!("a job")
    };
    (job["rules"].clone(), job["revision"].as_u64().unwrap())
}

#[test]
fn a_rule_travels_with_the_jobs_that_it_allows_calls_to() {
    let mut root = root();
    let other = "64b8f0c9d2a1e3f405162739";
    said(
        &mut root,
        deploy(ID, descriptor("a")),
        200,
        "Instance info added",
    );
    said(
        &mut root,
        deploy(other, descriptor("b")),
        200,
        "Instance info added",
    );
    let (a, b) = ("demo.default.a.test", "demo.default.b.test");
    let (_, before) = told(&mut root, a);
    told(&mut root, b);
    let allowed = rule("shop.acme.*.prod", "demo.default.A.*");
    let applied = root.apply(&Command::RuleAdd(allowed.clone()), 1000);
    assert_eq!(applied.reply, Reply::json(&allowed));
    let notice = Effect::Notify {
        cluster: "c1".to_owned(),
        update: JobUpdate {
            job_name: a.parse().unwrap(),
            instance_number: -1,
            kind: UpdateKind::Deployment,
        },
    };
    assert_eq!(
        applied.effects,
        std::slice::from_ref(&notice),
        "nobody else is concerned"
    );
    let (rules, after) = told(&mut root, a);
    assert_eq!(
        rules,
        json!([{"from": "shop.acme.*.prod", "to": "demo.default.a.*"}])
    );
    assert!(after > before, "an answer from before counts as older");
    assert_eq!(told(&mut root, b).0, Value::Null);
    let again = root.apply(&Command::RuleAdd(allowed.clone()), 1000);
    assert!(again.effects.is_empty() && again.changes.is_empty());
    let applied = root.apply(&Command::RuleDelete(allowed.clone()), 1000);
    assert_eq!(applied.effects, [notice]);
    let (rules, last) = told(&mut root, a);
    assert!(rules.is_null() && last > after);
    said(
        &mut root,
        Command::RuleDelete(allowed),
        404,
        "there is no rule `shop.acme.*.prod -> demo.default.a.*`; `sluice rule list` shows those there are",
    );
}

/// Any commands: the store's records rebuild exactly the state, and no address has two owners.
#[test]
fn the_store_is_the_state() {
    bolero::check!()
        .with_type::<Vec<(u8, u8, u8, u16)>>()
        .for_each(|steps| {
            let mut root = root();
            let mut records: BTreeMap<String, Vec<u8>> = BTreeMap::new();
            let fresh = Root::new(&AddressPlan::oakestra());
            for (id, address) in [("c1", "192.0.2.1"), ("c2", "192.0.2.2")] {
                let cluster = Cluster {
                    address: address.to_owned(),
                    port: 10110,
                };
                records.insert(format!("cluster/{id}"), crate::message::write(&cluster));
            }
            assert_ne!(root, fresh);
            let mut now_s = 0;
            for (verb, which, number, pause) in steps {
                now_s += u64::from(*pause);
                let id = format!("{:024x}", which % 3);
                let service = format!("s{}", which % 4);
                let name: ServiceName = format!("demo.default.{service}.test").parse().unwrap();
                let number = i64::from(number % 4) - 1;
                let cluster = if which % 2 == 0 { "c1" } else { "c2" };
                let caller = caller(if which % 2 == 0 {
                    "192.0.2.1"
                } else {
                    "192.0.2.2"
                });
                let command = match verb % 14 {
                    0 => {
                        let mut descriptor = descriptor(&service);
                        if which & 16 != 0 {
                            descriptor["RR_ip"] = json!(format!("10.30.0.{}", which % 8 + 1));
                        }
                        if which & 32 != 0 {
                            descriptor["addresses"] = json!({"closest_ip": "10.30.0.9",
                                "instances": [{"from": 1, "to": 3, "start": "10.30.0.11"}]});
                        }
                        deploy(&id, descriptor)
                    }
                    1 => Command::ServiceDelete { id },
                    2 | 3 => {
                        let request = format!("r{number}");
                        let request = (which & 8 != 0).then_some(request.as_str());
                        instance(&id, number, cluster, request)
                    }
                    4 => Command::InstanceDelete {
                        id,
                        number,
                        epoch: None,
                        cluster_id: None,
                    },
                    5 => status(&id, u32::try_from(number).unwrap_or(0)),
                    6 => Command::Query {
                        key: Key::Name(name),
                        caller,
                    },
                    7 => Command::InterestRemove { job: name, caller },
                    8 => Command::RuleAdd(rule("*.other.*.*", &format!("*.*.{service}.*"))),
                    9 => Command::RuleDelete(rule("*.other.*.*", &format!("*.*.{service}.*"))),
                    10 => Command::KeyRevoke(NodeKey::from_bytes([*which; 32])),
                    11 => Command::KeyAllow(NodeKey::from_bytes([*which; 32])),
                    12 => Command::SubnetReturn {
                        network: Ip::v4([10, 18, 0, (which % 4) * 64]),
                        grant_id: None,
                        caller,
                    },
                    _ => Command::Subnet {
                        caller,
                        request_id: (number > 0).then(|| number.to_string()),
                    },
                };
                for change in root.apply(&command, now_s).changes {
                    match change {
                        Change::Put { key, value } => records.insert(key, value),
                        Change::Delete { key } => records.remove(&key),
                    };
                }
                let borrowed = records
                    .iter()
                    .map(|(key, value)| (key.as_str(), value.as_slice()));
                let restored = Root::restore(&AddressPlan::oakestra(), borrowed).unwrap();
                assert_eq!(restored, root, "after {command:?}");
                let mut owners = BTreeSet::new();
                for job in root.jobs() {
                    let services = job.service_ip_list.iter().map(ServiceIpEntry::ips);
                    let instances = job.instance_list.iter().map(|entry| Dual {
                        v4: entry.instance_ip,
                        v6: entry.instance_ip_v6,
                    });
                    for ips in services.chain(instances) {
                        for ip in ips.iter() {
                            assert!(owners.insert(ip), "{ip} twice");
                        }
                    }
                }
            }
        });
}
