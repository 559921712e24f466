//! The admin interface over a real socket, asked by the real client.

use super::*;
use crate::client::{Call, Client, ClientError, Endpoint, Role};
use sluice_managers::SecretFile;
use sluice_memory::Accounts;
use sluice_tables::publish::InstanceUpdate;
use sluice_tables::{Placement, Policy, Reach, TunnelFormat, Writer};
use sluice_wire::{AddressPlan, DropReason, Dual, InstanceIp, Ip, NsIp, ServiceIp};
use std::path::Path;
use tokio::sync::watch;

/// A gateway with one service of two instances: number 0 here, number 1 on a peer.
struct Gateway {
    client: Client,
    accounts: Arc<[Arc<Accounts>]>,
    state: watch::Sender<GatewayState>,
    commands: mpsc::Receiver<Command>,
    directory: Directory,
}

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sluice-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn ip(text: &str) -> Ip {
    text.parse().unwrap()
}

fn writer() -> Writer {
    let mut writer = Writer::new(
        AddressPlan::oakestra(),
        Dual::both(ip("10.18.0.1"), ip("fc00::1")),
    );
    let service = writer.upsert_service(
        "a.b.web.d",
        &[(
            Policy::RoundRobin,
            Dual::both(
                ServiceIp::new(ip("10.30.1.0")),
                ServiceIp::new(ip("fdff:2000::1")),
            ),
        )],
    );
    let peer = writer.upsert_peer(ip("192.0.2.7"), 50104, TunnelFormat::Plain, 1420);
    let slots = [(0, Placement::Local), (1, Placement::Peer(peer))].map(|(number, placement)| {
        writer.upsert_instance(InstanceUpdate {
            service,
            number,
            instance_ip: Dual {
                v4: Some(InstanceIp::new(Ip::v4([
                    10,
                    30,
                    0,
                    u8::try_from(number).unwrap() + 1,
                ]))),
                v6: None,
            },
            ns_ip: Dual {
                v4: Some(NsIp::new(Ip::v4([
                    10,
                    18,
                    u8::try_from(number).unwrap(),
                    2,
                ]))),
                v6: None,
            },
            placement,
            reach: Reach::Any,
        })
    });
    writer.set_candidates(service, &slots);
    writer.publish();
    writer
}

async fn gateway(name: &str) -> Gateway {
    let directory = Directory::new(name);
    let socket = directory.0.join("admin.sock");
    let (state, state_seen) = watch::channel(GatewayState {
        node_id: "0123456789abcdef01234567".into(),
        not_ready: "no node subnet yet".into(),
        ..GatewayState::default()
    });
    let (send_commands, commands) = mpsc::channel(4);
    let accounts: Arc<[Arc<Accounts>]> = [Arc::default(), Arc::default()].into();
    let view = GatewayView {
        state: state_seen,
        publisher: writer().publisher(),
        accounts: Arc::clone(&accounts),
        early: Arc::new(Arc::default),
        commands: send_commands,
        now_s: || 100,
        flows: Arc::new(|limit| {
            let row = FlowRow {
                protocol: "tcp".into(),
                direction: "outbound".into(),
                caller: "10.30.0.1:40000".into(),
                dialled: "10.30.1.0:80".into(),
                instance: "10.30.0.2".into(),
                state: "open".into(),
                offloaded: false,
                idle_s: 3,
            };
            (vec![row; limit.min(5)], 5)
        }),
        hardware: Arc::new(|| json!({ "interface": "eth0" })),
        names: crate::dns::Watcher::default(),
        key_file: Arc::new(tokio::sync::Mutex::new(SecretFile::new(
            directory.0.join("node.key"),
            "make a new one",
        ))),
        trace: Arc::new(|filter| {
            if filter.port != Some(80) {
                return Err("another trace runs".into());
            }
            let (send, records) = mpsc::channel(8);
            for (packet, stage, last) in
                [(1, "parse", false), (1, "encap", true), (2, "parse", true)]
            {
                let record = TraceRecord {
                    packet,
                    at_ns: 1,
                    direction: "outbound".into(),
                    stage: stage.into(),
                    decided: "ok".into(),
                    last,
                };
                send.try_send(record).unwrap();
            }
            Ok(records)
        }),
    };
    let server = AdminSocket::bind(&socket).await.unwrap();
    tokio::spawn(server.serve(router(view)));
    Gateway {
        client: client(&socket),
        accounts,
        state,
        commands,
        directory,
    }
}

fn client(socket: &Path) -> Client {
    Client {
        role: Role::Gateway,
        endpoint: Endpoint::Unix(socket.to_owned()),
    }
}

async fn text(gateway: &Gateway, path: &str) -> Result<String, ClientError> {
    let mut text = String::new();
    gateway
        .client
        .lines(Call::read(path), |line| {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
            true
        })
        .await?;
    Ok(text)
}

#[tokio::test]
async fn the_tables_show_what_was_published() {
    let gateway = gateway("tables").await;
    let read = async |path: &str| gateway.client.json(Call::read(path)).await.unwrap();
    let instances = read("/v1/instances").await;
    assert_eq!(instances[0]["node"], "here");
    assert_eq!(instances[0]["instance_ip"], "10.30.0.1");
    assert_eq!(instances[1]["node"], "192.0.2.7:50104");
    assert_eq!(instances[1]["instance"], 1);
    assert_eq!(instances[1]["used_s_ago"], Value::Null);
    assert_eq!(
        read("/v1/peers").await,
        json!([{"node": "192.0.2.7:50104", "format": "plain", "mtu": 1420, "instances": 1}])
    );
    let tables = read("/v1/tables").await;
    assert_eq!(tables["services"][0]["candidates"], json!([0, 1]));
    assert_eq!(
        tables["services"][0]["service_ips"][0]["service_ip"],
        "10.30.1.0"
    );
    assert_eq!(tables["services"][0]["service_ips"][0]["known"], true);
    let flows = read("/v1/flows?limit=2").await;
    assert_eq!(
        (&flows["total"], flows["flows"].as_array().unwrap().len()),
        (&json!(5), 2)
    );
    let status = read("/v1/status").await;
    assert_eq!(status["instances_local"], 1);
    assert_eq!(status["instances_remote"], 1);
    assert_eq!(status["ready"], false);
}

#[tokio::test]
async fn health_and_readiness_differ() {
    let gateway = gateway("health").await;
    assert_eq!(text(&gateway, "/healthz").await.unwrap(), "ok\n");
    let error = text(&gateway, "/readyz").await.unwrap_err();
    assert!(error.to_string().contains("no node subnet yet"), "{error}");
    gateway.state.send_modify(|state| state.not_ready.clear());
    assert_eq!(text(&gateway, "/readyz").await.unwrap(), "ready\n");
}

/// Drops and metrics come from the same counters, and follow them.
#[tokio::test]
async fn drops_and_metrics_follow_the_accounts() {
    let gateway = gateway("metrics").await;
    gateway.accounts[1].engine.drop_frame(DropReason::TooBig);
    gateway.accounts[0].underlay.received.add(7);
    let drops = gateway.client.json(Call::read("/v1/drops")).await.unwrap();
    let too_big = drops
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["reason"] == "too-big")
        .unwrap();
    assert_eq!(too_big["count"], 1);
    assert_eq!(too_big["per_worker"], json!([0, 1]));
    let per_link = json!({"service": 0, "underlay": 0, "engine": 1});
    assert_eq!(too_big["per_link"], per_link);
    assert_eq!(too_big["cure"], DropReason::TooBig.cure());
    let shown = text(&gateway, "/metrics").await.unwrap();
    for line in [
        "sluice_frames_received_total{worker=\"0\",link=\"underlay\"} 7",
        "sluice_drops_total{worker=\"1\",link=\"engine\",reason=\"too-big\"} 1",
        "sluice_instances{placement=\"local\"} 1",
        "sluice_ready 0",
        "sluice_flows 5",
    ] {
        assert!(shown.contains(line), "{line} is missing in\n{shown}");
    }
    let status = gateway.client.json(Call::read("/v1/status")).await.unwrap();
    let worker = &status["workers"][0];
    assert_eq!(worker["received"], 7);
    assert_eq!(worker["per_link"]["underlay"]["received"], 7);
    assert_eq!(worker["per_link"]["service"]["received"], 0);
    gateway.accounts[0].service.received.add(1);
    let shown = text(&gateway, "/metrics").await.unwrap();
    assert!(
        shown.contains("sluice_frames_received_total{worker=\"0\",link=\"service\"} 1"),
        "{shown}"
    );
}

#[tokio::test]
async fn attach_reaches_the_core_and_its_answer_the_caller() {
    let mut gateway = gateway("attach").await;
    let client = gateway.client.clone();
    let body = AttachBody {
        service: "a.b.web.d".into(),
        pid: Some(7),
        ..AttachBody::default()
    };
    let call = tokio::spawn(async move { client.json(Call::post("/v1/attach", &body)).await });
    let Some(Command::Attach(attach, reply)) = gateway.commands.recv().await else {
        panic!("an attach command");
    };
    assert_eq!(attach.target, AttachTarget::Pid(7));
    let attached = Attached {
        instance: InstanceName {
            service: attach.service,
            instance_number: 2,
        },
        instance_ip: Some(Ipv4Addr::new(10, 30, 0, 3)),
        instance_ip_v6: None,
        ns_address: Some(Ipv4Addr::new(10, 18, 0, 3)),
        ns_address_v6: None,
        kept_address: Some(Ipv4Addr::new(10, 18, 9, 4)),
        kept_address_v6: None,
        name_server: Some(Ipv4Addr::new(10, 18, 0, 1)),
        name_server_v6: None,
    };
    reply.send(Ok(attached)).unwrap();
    let answer: AttachAnswer = serde_json::from_value(call.await.unwrap().unwrap()).unwrap();
    assert_eq!(answer.instance_number, 2);
    assert_eq!(answer.ns_ip, Some(Ipv4Addr::new(10, 18, 0, 3)));
    assert_eq!(answer.kept_ip, Some(Ipv4Addr::new(10, 18, 9, 4)));
    assert_eq!(answer.name_server, Some(Ipv4Addr::new(10, 18, 0, 1)));
}

#[tokio::test]
async fn a_bad_request_says_why() {
    let mut gateway = gateway("bad").await;
    for (path, body, expected) in [
        (
            "/v1/attach",
            json!({"service": "a.b.c.d"}),
            "one of `pid`, `netns`, `container` and `host` is needed",
        ),
        (
            "/v1/attach",
            json!({"service": "a.b.c.d", "pid": 1, "netns": "x"}),
            "only one of `pid`, `netns`, `container` and `host` can be given",
        ),
        (
            "/v1/attach",
            json!({"service": "a.b.c.d", "host": ["192.0.2.1", "192.0.2.2"]}),
            "`host` is one address, or one of each family",
        ),
        ("/v1/attach", json!({"pod": 1}), "unknown field `pod`"),
        ("/v1/detach", json!([1, 2]), "bad request"),
        ("/v1/trace", json!({"src": "nowhere"}), "bad request"),
        ("/v1/trace", json!({"port": 81}), "another trace runs"),
    ] {
        let error = gateway
            .client
            .json(Call::post(path, &body))
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains(expected),
            "{path} {body}: {error}"
        );
    }
    assert!(gateway.commands.try_recv().is_err());
    let error = gateway
        .client
        .json(Call::read("/v1/flows?limit=x"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("invalid digit"), "{error}");
    let error = gateway.client.json(Call::read("/v2")).await.unwrap_err();
    assert!(error.to_string().contains("404"), "{error}");
}

#[tokio::test]
async fn a_refusal_of_the_core_keeps_its_words() {
    let mut gateway = gateway("refusal").await;
    let client = gateway.client.clone();
    let body = json!({"service": "a.b.web.d"});
    let call = tokio::spawn(async move { client.json(Call::post("/v1/detach", &body)).await });
    let Some(Command::Detach(detach, reply)) = gateway.commands.recv().await else {
        panic!("a detach command");
    };
    reply
        .send(Err(Refusal::UnknownInstance(detach.service)))
        .unwrap();
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the gateway refused: a.b.web.d is not attached here"
    );
}

/// The core goes on with what is on disk.
#[tokio::test]
async fn a_rotated_key_is_in_its_file_and_in_the_core() {
    let mut gateway = gateway("rotate").await;
    let client = gateway.client.clone();
    let call =
        tokio::spawn(async move { client.json(Call::post("/v1/key/rotate", &json!({}))).await });
    let Some(Command::SetIdentity(identity, reply)) = gateway.commands.recv().await else {
        panic!("a command with the new key");
    };
    reply.send(Ok(())).unwrap();
    let answer = call.await.unwrap().unwrap();
    let file = SecretFile::new(gateway.directory.0.join("node.key"), "make a new one");
    let kept = crate::node_key::identity(&file.read().unwrap().unwrap());
    assert_eq!(kept.public(), identity.public());
    assert_eq!(answer["public_key"], identity.public().to_string());
    assert_eq!(answer["file"], file.path().to_str().unwrap());
}

/// The stream ends by itself when the packets asked for have met their fate.
#[tokio::test]
async fn a_trace_ends_after_its_packets() {
    let gateway = gateway("trace").await;
    let mut stages = Vec::new();
    let body = TraceBody {
        filter: TraceFilter {
            port: Some(80),
            ..TraceFilter::default()
        },
        count: 1,
    };
    gateway
        .client
        .lines(Call::post("/v1/trace", &body), |line| {
            stages.push(serde_json::from_slice::<TraceRecord>(line).unwrap().stage);
            true
        })
        .await
        .unwrap();
    assert_eq!(stages, ["parse", "encap"]);
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_named_with_the_way_out() {
    let client = client(Path::new("/nonexistent/gateway.sock"));
    let error = client.json(Call::read("/v1/status")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the gateway does not answer on /nonexistent/gateway.sock: No such file or directory (os error 2); start it with \
         `sluice gateway`, or say where it is: `--socket PATH`, or `gateway.admin_socket` in the file of `--config`"
    );
}

#[tokio::test]
async fn a_living_socket_is_not_taken_over_and_a_dead_one_is() {
    let directory = Directory::new("socket");
    let path = directory.0.join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let first = AdminSocket::bind(&path).await.unwrap();
    assert!(matches!(
        AdminSocket::bind(&path).await,
        Err(SocketError::InUse { .. })
    ));
    drop(first);
    assert!(!path.exists());
}
