//! A cluster manager whose broker is another process.

use super::*;
use crate::BrokerConfig;
use crate::broker::Broker;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A broker of its own, on which nobody is a manager; its address, what stops it, and its task.
async fn start_broker(listen: SocketAddr) -> (SocketAddr, watch::Sender<bool>, JoinHandle<()>) {
    let (stop, stopped) = watch::channel(false);
    let (listener, address) = crate::http::bind(listen).await.unwrap();
    let broker = Broker::new(crate::credential::BrokerAccess::default());
    (address, stop, tokio::spawn(broker.serve(listener, stopped)))
}

/// Waits until the manager says so.
async fn broker_connected(cluster: &Caller, wanted: bool) {
    let wait = async {
        while cluster.get("/v1/status").await["broker_connected"] != wanted {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
}

/// The broker goes away and comes back; the manager and a node find it again.
#[tokio::test]
async fn an_external_broker_may_vanish_and_return() {
    let (address, stop, task) = start_broker(anywhere()).await;
    let root_files = Directory::new();
    let root = start_root(root_config(root_files.path())).await;
    apply(&Caller::new(root.address)).await;
    let files = Directory::new();
    let mut config = cluster_config(files.path(), "site", root.address);
    config.broker = BrokerConfig::External {
        address: address.to_string(),
        login: None,
    };
    let running = start_cluster(config).await;
    let cluster = Caller::new(running.address);
    broker_connected(&cluster, true).await;
    let mut node = Node::join(address, FIRST, JOB).await;
    assert_eq!(node.query("", "10.30.50.2").await["app_name"], JOB);
    stop.send(true).unwrap();
    task.await.unwrap();
    broker_connected(&cluster, false).await;
    let (_, stop, task) = start_broker(address).await;
    broker_connected(&cluster, true).await;
    let mut node = Node::join(address, FIRST, JOB).await;
    assert_eq!(node.query("", "10.30.50.2").await["app_name"], JOB);
    running.end().await;
    root.end().await;
    stop.send(true).unwrap();
    task.await.unwrap();
}

/// Mosquitto on a free port of this machine, killed with its guard.
struct Mosquitto {
    process: std::process::Child,
    address: SocketAddr,
    _files: Directory,
}

impl Mosquitto {
    fn start(address: SocketAddr) -> Self {
        let text = format!(
            "listener {} {}\nallow_anonymous true\n",
            address.port(),
            address.ip()
        );
        Self::start_with(&text, Directory::new(), address)
    }

    /// With the configuration and the access list that are shipped, and these users.
    fn start_guarded(address: SocketAddr, users: &[(&str, &Token)]) -> Self {
        let files = Directory::new();
        let shipped = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../mosquitto");
        let passwords = files.path().join("passwords");
        std::fs::write(&passwords, "").unwrap();
        for (user, password) in users {
            let added = program("mosquitto_passwd")
                .args(["-b".as_ref(), passwords.as_os_str()])
                .args([user, password.secret()])
                .status();
            assert!(added.unwrap().success());
        }
        let conf = std::fs::read_to_string(shipped.join("mosquitto.conf")).unwrap();
        let listener = format!("user root\nlistener {} {}", address.port(), address.ip());
        let mut text = conf.clone();
        for (there, here) in [
            ("listener 10003", listener.as_str()),
            (
                "/etc/mosquitto/sluice.acl",
                shipped.join("sluice.acl").to_str().unwrap(),
            ),
            (
                "password_file /etc/mosquitto/sluice.passwd",
                &format!("password_file {}", passwords.display()),
            ),
        ] {
            assert!(text.contains(there), "{there}");
            text = text.replace(there, here);
        }
        Self::start_with(&text, files, address)
    }

    fn start_with(text: &str, files: Directory, address: SocketAddr) -> Self {
        let config = files.path().join("mosquitto.conf");
        std::fs::write(&config, text).unwrap();
        let process = program("mosquitto")
            .arg("-c")
            .arg(&config)
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        Self {
            process,
            address,
            _files: files,
        }
    }
}

fn program(name: &str) -> std::process::Command {
    let mut command = std::process::Command::new(sluice_perf::lab::tools::find(name).unwrap());
    command.env("LD_LIBRARY_PATH", sluice_perf::lab::tools::library_path());
    command
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
#[ignore = "needs root"]
async fn mosquitto_may_be_the_broker_and_may_be_killed() {
    let (listener, address) = crate::http::bind("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    drop(listener);
    let mosquitto = Mosquitto::start(address);
    let root_files = Directory::new();
    let root = start_root(root_config(root_files.path())).await;
    apply(&Caller::new(root.address)).await;
    let files = Directory::new();
    let mut config = cluster_config(files.path(), "site", root.address);
    config.broker = BrokerConfig::External {
        address: mosquitto.address.to_string(),
        login: None,
    };
    let running = start_cluster(config).await;
    let cluster = Caller::new(running.address);
    broker_connected(&cluster, true).await;
    let mut server = Node::join(address, FIRST, JOB).await;
    attach(&mut server, "10.18.0.2", "fc00::2").await;
    let mut client = Node::join(address, SECOND, JOB).await;
    while client.query("", "10.30.50.2").await["instance_list"][0]["host_port"] != 50103 {}
    drop(mosquitto);
    broker_connected(&cluster, false).await;
    let _mosquitto = Mosquitto::start(address);
    broker_connected(&cluster, true).await;
    let mut client = Node::join(address, SECOND, JOB).await;
    let answer = client.query("", "10.30.50.2").await;
    assert_eq!(answer["instance_list"][0]["host_port"], 50103);
    running.end().await;
    root.end().await;
}

/// By the access list that is shipped, a node speaks and hears for itself only, whatever its client id is.
#[tokio::test]
#[ignore = "needs root"]
async fn mosquitto_binds_a_node_to_its_topics() {
    let (listener, address) = crate::http::bind(anywhere()).await.unwrap();
    drop(listener);
    let secrets = Directory::new();
    let nodes = crate::NodeCredentials::of_manager(secrets.path()).unwrap();
    let (first, second) = (nodes.of(FIRST), nodes.of(SECOND));
    let manager = Token::new("correct-horse").unwrap();
    let users = [
        ("sluice-cluster", &manager),
        (FIRST, &first),
        (SECOND, &second),
    ];
    let _mosquitto = Mosquitto::start_guarded(address, &users);
    let root_files = Directory::new();
    let root = start_root(root_config(root_files.path())).await;
    apply(&Caller::new(root.address)).await;
    let files = Directory::new();
    let mut config = cluster_config(files.path(), "site", root.address);
    config.broker = BrokerConfig::External {
        address: address.to_string(),
        login: Some(("sluice-cluster".to_owned(), manager.clone())),
    };
    let running = start_cluster(config).await;
    let cluster = Caller::new(running.address);
    broker_connected(&cluster, true).await;
    let mut one = Node::join_as(address, FIRST, Some((FIRST, &first)), JOB).await;
    // With the client id of the other, which does not end its connection.
    let mut two = Node::join_as(address, SECOND, Some((FIRST, &second)), JOB).await;
    one.subscribe("nodes/+/net/#").await;
    two.subscribe("#").await;
    let question = json!({"sname": "", "sip": "10.30.50.2"}).to_string();
    let request = |id: &str| format!("nodes/{id}/net/tablequery/request");
    let result = |id: &str| format!("nodes/{id}/net/tablequery/result");
    // In the other's name: nobody hears that.
    one.say_on(&request(SECOND), "{}").await;
    one.say_on(&format!("jobs/{JOB}/updates_available"), "{}")
        .await;
    two.say_on("nodes/x/net/subnet", "{}").await;
    two.say("tablequery/request", question.clone()).await;
    let heard = two.topics_until(&result(SECOND)).await;
    assert_eq!(heard, [request(SECOND), result(SECOND)].into());
    one.say("tablequery/request", question).await;
    let heard = one.topics_until(&result(FIRST)).await;
    assert_eq!(heard, [request(FIRST), result(FIRST)].into());
    running.end().await;
    root.end().await;
}

/// A way to a broker that can be cut: what goes by it ends then, and nothing can begin.
struct Way {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Way {
    async fn open(listen: SocketAddr, broker: SocketAddr) -> Self {
        let (listener, address) = crate::http::bind(listen).await.unwrap();
        let task = tokio::spawn(Self::carry(listener, broker));
        Self { address, task }
    }

    async fn carry(listener: TcpListener, broker: SocketAddr) {
        let mut under_way = tokio::task::JoinSet::new();
        while let Ok((mut near, _)) = listener.accept().await {
            under_way.spawn(async move {
                let mut far = TcpStream::connect(broker).await?;
                tokio::io::copy_bidirectional(&mut near, &mut far).await
            });
        }
    }

    async fn cut(self) -> SocketAddr {
        self.task.abort();
        let _ = self.task.await;
        self.address
    }
}

/// Nodes that are connected all the time do not know that their manager was not, and would go on with what they have.
#[tokio::test]
async fn what_changed_while_the_manager_was_away_from_its_broker_is_told_when_it_is_back() {
    let (broker, stop, task) = start_broker(anywhere()).await;
    let way = Way::open(anywhere(), broker).await;
    let root_files = Directory::new();
    let root = start_root(root_config(root_files.path())).await;
    let root_caller = Caller::new(root.address);
    apply(&root_caller).await;
    let files = Directory::new();
    let mut config = cluster_config(files.path(), "site", root.address);
    config.broker = BrokerConfig::External {
        address: way.address.to_string(),
        login: None,
    };
    let running = start_cluster(config).await;
    let cluster = Caller::new(running.address);
    broker_connected(&cluster, true).await;
    let mut node = Node::join(broker, FIRST, JOB).await;
    assert_eq!(node.query("", "10.30.50.2").await["app_name"], JOB);
    let address = way.cut().await;
    broker_connected(&cluster, false).await;
    let path = format!("/v1/services/{JOB}");
    assert_eq!(root_caller.text(Method::DELETE, &path, "").await.0, 200);
    // The root tells the manager by another way.
    let told = async { while cluster.get("/v1/services").await != json!([]) {} };
    tokio::time::timeout(PATIENCE, told).await.unwrap();
    let _way = Way::open(address, broker).await;
    let update = node.hear(&format!("jobs/{JOB}/updates_available")).await;
    assert!(
        update["revision"].is_array() || update["type"].is_string(),
        "{update}"
    );
    assert_eq!(node.query("", "10.30.50.2").await["app_name"], "");
    running.end().await;
    root.end().await;
    stop.send(true).unwrap();
    task.await.unwrap();
}
