//! An orchestrator at the root's REST interface: services and instances come and go, and subnets are taken.

use crate::ledger::{Instance, ips};
use crate::random::Random;
use crate::{PATIENCE, Shared};
use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

const LIVE_MAX: usize = 12;
/// Far longer than a manager takes that is not killed.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(5);

pub(crate) fn work(shared: &Shared, root: SocketAddr, worker: u32, mut random: Random) {
    let mut live: Vec<(Instance, u64)> = Vec::new();
    let mut count = 0;
    let service = Service::new(worker, 0);
    shared.ledger.service(&service.name, service.deploy(root));
    shared.repeat(|| {
        count += 1;
        match random.below(20) {
            0 => {
                let path = format!("/api/net/subnet?request_id=w{worker}-{count}");
                let grant = until_done(root, "GET", &path, "");
                let networks = ips(&grant, &["subnet_addr", "subnet_addr_v6"]);
                shared.ledger.subnet(&path, &networks);
            }
            1 => {
                let short = Service::new(worker, count);
                shared.ledger.service(&short.name, short.deploy(root));
                shared.ledger.service_ends(&short.name);
                short.delete(root);
            }
            choice if live.len() < LIVE_MAX && choice < 12 => {
                let request = json!({"_id": service.id, "instance_number": -1, "cluster_id": "site",
                                     "request_id": format!("w{worker}-{count}")});
                let path = "/api/net/instance/deploy";
                let given = until_done(root, "POST", path, &request.to_string());
                let number = u32::try_from(given["instance_number"].as_u64().unwrap()).unwrap();
                let instance = (service.name.clone(), number);
                let given_ips = ips(&given, &["instance_ip", "instance_ip_v6"]);
                shared.ledger.instance(instance.clone(), given_ips);
                live.push((instance, given["epoch"].as_u64().unwrap()));
            }
            _ if !live.is_empty() => {
                let chosen = random.below(live.len() as u64);
                let (instance, epoch) = live.swap_remove(usize::try_from(chosen).unwrap());
                shared.ledger.instance_ends(&instance);
                let path = format!("/api/net/{}/{}?epoch={epoch}", service.id, instance.1);
                until_done(root, "DELETE", &path, "");
            }
            _ => {}
        }
    });
}

/// A service of this worker's own.
pub(crate) struct Service {
    id: String,
    pub(crate) name: String,
    part: String,
}

impl Service {
    pub(crate) fn new(worker: u32, count: u64) -> Self {
        let part = format!("s{worker}x{count}");
        Self {
            id: format!("{worker:012x}{count:012x}"),
            name: format!("kill.test.{part}.prod"),
            part,
        }
    }

    /// Its ServiceIPs.
    pub(crate) fn deploy(&self, root: SocketAddr) -> Vec<std::net::IpAddr> {
        let request = json!({"_id": self.id, "deployment_descriptor": {
            "app_name": "kill", "app_ns": "test", "service_name": self.part, "service_ns": "prod",
            "microservice_name": self.part, "microservice_namespace": "prod"}});
        until_done(
            root,
            "POST",
            "/api/net/service/deploy",
            &request.to_string(),
        );
        let rows = rows(root, "/v1/services");
        let row = rows.iter().find(|row| row["service"] == *self.name);
        let row = row.unwrap_or_else(|| panic!("{} was acknowledged and is lost", self.name));
        let entries = row["service_ips"].as_array().unwrap();
        let fields = ["service_ip", "service_ip_v6"];
        entries
            .iter()
            .flat_map(|entry| ips(entry, &fields))
            .collect()
    }

    fn delete(&self, root: SocketAddr) {
        let path = format!("/api/net/service/{}", self.id);
        until(|| match call(root, "DELETE", &path, "") {
            // 404: an earlier attempt has done it, and was killed before it could say so.
            Ok((200 | 404, _)) => Some(()),
            Ok((status, text)) => panic!("DELETE {path}: {status} {text}"),
            Err(_) => None,
        });
    }
}

/// The rows of a list of the root's.
pub(crate) fn rows(root: SocketAddr, path: &str) -> Vec<Value> {
    let Value::Array(rows) = until_done(root, "GET", path, "") else {
        panic!("GET {path} is no list");
    };
    rows
}

/// Repeats a request until it is answered with 200; the body, if it is JSON.
fn until_done(root: SocketAddr, method: &str, path: &str, body: &str) -> Value {
    until(|| match call(root, method, path, body) {
        Ok((200, text)) => Some(serde_json::from_str(&text).unwrap_or(Value::Null)),
        Ok((status, text)) => panic!("{method} {path}: {status} {text}"),
        Err(_) => None,
    })
}

pub(crate) fn until<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(began.elapsed() < PATIENCE, "the root does not answer");
        thread::sleep(PAUSE);
    }
}

/// One request. An answer that was cut short is no answer.
fn call(root: SocketAddr, method: &str, path: &str, body: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(root)?;
    stream.set_read_timeout(Some(ANSWER_WAIT))?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {root}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let cut = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let (head, text) = answer.split_once("\r\n\r\n").ok_or_else(cut)?;
    let status = head.get(9..12).and_then(|status| status.parse().ok());
    let expected = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.parse::<usize>().ok())?
    });
    match (status, expected) {
        (Some(status), Some(expected)) if text.len() == expected => Ok((status, text.to_owned())),
        _ => Err(cut()),
    }
}
