//! What descriptors mean and how they are refused.

use super::*;

const THESIS: &str = "\
api_version: v0.2
app_name: demo
app_ns: default
service_name: service1
service_ns: test
image: docker.io/library/nginx:alpine
image_runtime: docker
port: 80
addresses:
  RR_ip: 172.30.25.3
  Closest_ip: 172.30.25.4
  Instances:
    from: 0
    to: 10
    address_from: 172.30.25.5
cluster_location: hpi
node: vm-20211019-009
requirements:
  cpu: 0 # cores
  memory: 100 # in MB
";

const SLA: &str = r#"{"sla_version":"v2.0","customerID":"Admin","applications":[{
  "applicationID":"","application_name":"clientsrvr","application_namespace":"test","application_desc":"Simple demo",
  "microservices":[
   {"microserviceID":"","microservice_name":"nginx","microservice_namespace":"test","virtualization":"container",
    "cmd":["x"],"memory":100,"vcpus":1,"vgpus":0,"vtpus":0,"bandwidth_in":0,"bandwidth_out":0,"storage":0,
    "code":"docker.io/library/nginx:latest","state":"","port":"8080:80/tcp;53/udp",
    "addresses":{"rr_ip":"10.30.30.30","rr_ip_v6":"fdff:2000::30","closest_ip":"","instances":[{"from":"0","to":"2","start":"10.30.40.1"}]},
    "added_files":[]},
   {"microserviceID":"","microservice_name":"curl","microservice_namespace":"test","virtualization":"container",
    "code":"docker.io/curlimages/curl:7.82.0","port":"","added_files":[]}]}]}"#;

fn ip(text: &str) -> Ip {
    text.parse().unwrap()
}

#[test]
fn the_thesis_example_is_read() {
    let specs = parse("demo.yaml", THESIS).unwrap();
    let [spec] = specs.as_slice() else {
        panic!("one service")
    };
    assert_eq!(spec.name.to_string(), "demo.default.service1.test");
    assert_eq!(spec.port, "80");
    assert_eq!(spec.round_robin.v4, Some(ip("172.30.25.3")));
    assert_eq!(spec.closest.v4, Some(ip("172.30.25.4")));
    let [range] = spec.instances.as_slice() else {
        panic!("one range")
    };
    assert_eq!(range.addresses(0).unwrap().v4, Some(ip("172.30.25.5")));
    assert_eq!(range.addresses(9).unwrap().v4, Some(ip("172.30.25.14")));
    assert_eq!(range.addresses(10), None);
}

#[test]
fn an_sla_with_two_services_is_read() {
    let specs = parse("sla.json", SLA).unwrap();
    let [nginx, curl] = specs.as_slice() else {
        panic!("two services")
    };
    assert_eq!(nginx.name.to_string(), "clientsrvr.test.nginx.test");
    assert_eq!(
        nginx.round_robin,
        Dual::both(ip("10.30.30.30"), ip("fdff:2000::30"))
    );
    assert_eq!(nginx.closest, Dual::default());
    assert_eq!(nginx.instances[0].to, 2);
    assert_eq!(nginx.descriptor["RR_ip"], "10.30.30.30");
    assert_eq!(curl.port, "");
    assert_eq!(curl.round_robin, Dual::default());
}

/// What one of the two readers wrote, the root's reader understands the same way.
#[test]
fn every_form_becomes_the_same_deployment_descriptor() {
    for (file, text) in [("demo.yaml", THESIS), ("sla.json", SLA)] {
        for spec in parse(file, text).unwrap() {
            let again = from_deployment(&Value::Object(spec.descriptor.clone())).unwrap();
            assert_eq!(again, spec);
        }
    }
}

#[test]
fn errors_name_file_key_value_and_expectation() {
    let error = |from: &str, to: &str| {
        parse("demo.yaml", &THESIS.replace(from, to))
            .unwrap_err()
            .to_string()
    };
    for (from, to, expected) in [
        (
            "v0.2",
            "v0.1",
            "demo.yaml: `api_version` is `v0.1`; expected `v0.2`",
        ),
        (
            "service_ns: test\n",
            "",
            "demo.yaml: `service_ns` is missing",
        ),
        (
            "app_name: demo",
            "app_name: de-mo",
            "demo.yaml: `app_name` is `de-mo`; expected 1 to 30 of the characters a-z, A-Z and 0-9",
        ),
        (
            "RR_ip: 172.30.25.3",
            "RR_ip: 172.30.256.3",
            "demo.yaml: `addresses.RR_ip` is `172.30.256.3`; expected an IPv4 address",
        ),
        (
            "to: 10",
            "to: 0",
            "demo.yaml: `addresses.Instances.to` is `0`; expected a number above `from`, which is 0",
        ),
        (
            "port: 80",
            "port: 80000",
            "demo.yaml: `port` is `80000`; expected host port",
        ),
        ("node: ", "nodes: ", "demo.yaml: unknown key `nodes`; known"),
    ] {
        let error = error(from, to);
        assert!(error.starts_with(expected), "{error}");
    }
    let sla = parse("sla.json", &SLA.replace("\"curl\"", "\"nginx\""))
        .unwrap_err()
        .to_string();
    assert!(
        sla.starts_with(
            "sla.json: `applications[0].microservices[1].microservice_name` is `nginx`; expected"
        ),
        "{sla}"
    );
    for garbage in [
        "",
        "x",
        "[1]",
        "{",
        "a: [",
        "api_version: v0.2\napi_version: v0.2\n",
    ] {
        assert!(parse("x", garbage).is_err(), "{garbage}");
    }
}

#[test]
fn any_text_is_a_descriptor_or_a_named_error() {
    bolero::check!().for_each(|bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(specs) = parse("x", &text) {
            assert!(!specs.is_empty());
        }
    });
}

#[test]
fn an_instance_number_is_in_one_range() {
    let sla = |second: u32| {
        serde_json::json!({"app_name": "demo", "app_ns": "default", "service_name": "a", "service_ns": "test",
            "addresses": {"instances": [{"from": 0, "to": 4, "start": "10.30.7.1"},
                                        {"from": second, "to": 9, "start": "10.30.8.1"}]}})
    };
    assert_eq!(from_deployment(&sla(4)).unwrap().instances.len(), 2);
    let error = from_deployment(&sla(3)).unwrap_err().to_string();
    assert!(error.contains("`addresses.instances[1]`"), "{error}");
    assert!(
        error.ends_with("instance 3 is in the one from 0 to 4, too"),
        "{error}"
    );
}
