//! Keys that are revoked at the root and at a cluster manager, over real sockets and restarts.

use super::*;

const KEY: &str = "//////////////////////////////////////////8=";
const REVOKED: &str = "/v1/revoked_keys";

fn body() -> String {
    json!({ "public_key": KEY }).to_string()
}

fn of_key() -> String {
    let key = KEY.replace('/', "%2F").replace('=', "%3D");
    format!("{REVOKED}?public_key={key}")
}

/// Says that the node's instance runs behind the key.
async fn run_behind_key(node: &Node, number: u64) {
    let deployed = json!({"appname": JOB, "status": "DEPLOYED", "instance_number": number, "nsip": "10.18.0.2",
        "nsipv6": "fc00::2", "host_port": "50103", "host_ip": "192.0.2.1", "public_key": KEY});
    node.say("service/deployed", deployed.to_string()).await;
}

/// Asks until the first row's key is this.
async fn shows(node: &mut Node, key: Value) {
    let wait = async {
        while node.query(JOB, "").await["instance_list"][0]["public_key"] != key {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
}

fn refused() -> u64 {
    let text = crate::admin::recorder().unwrap().render();
    let mut lines = text.lines();
    let line = lines.find(|line| line.starts_with("sluice_cluster_revoked_total "));
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn a_key_revoked_at_the_root_counts_nowhere() {
    let mut system = System::start(2).await;
    apply(&system.root()).await;
    let mut server = Node::join(system.broker(0), FIRST, JOB).await;
    let (number, _) = attach(&mut server, "10.18.0.2", "fc00::2").await;
    let mut client = Node::join(system.broker(1), SECOND, JOB).await;
    run_behind_key(&server, number).await;
    shows(&mut client, json!(KEY)).await;
    let answer = system.root().call(Method::POST, REVOKED, body()).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    // Far away, and where the node is.
    shows(&mut client, Value::Null).await;
    shows(&mut server, Value::Null).await;
    assert_eq!(
        system.root().get(REVOKED).await,
        json!([{"public_key": KEY, "by": "root"}])
    );
    let before = refused();
    run_behind_key(&server, number).await;
    let counted = async {
        while refused() == before {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.unwrap();
    // The manager keeps the list, whether or not it can ask the root.
    let (files, config, running) = system.clusters.remove(0);
    running.end().await;
    let running = start_cluster(config.clone()).await;
    let manager = Caller::new(running.address);
    assert_eq!(
        manager.get(REVOKED).await,
        json!([{"public_key": KEY, "by": "root"}])
    );
    system.clusters.insert(0, (files, config, running));
    // What the root revoked is the root's to allow.
    assert_eq!(manager.text(Method::DELETE, &of_key(), "").await.0, 404);
    let allowed = system.root().text(Method::DELETE, &of_key(), "").await;
    assert_eq!(allowed.0, 200, "{allowed:?}");
    assert_eq!(
        system.root().text(Method::DELETE, &of_key(), "").await.0,
        404
    );
    let gone = async { while manager.get(REVOKED).await != json!([]) {} };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    let mut server = Node::join(system.broker(0), FIRST, JOB).await;
    run_behind_key(&server, number).await;
    shows(&mut server, json!(KEY)).await;
    system.end().await;
}

#[tokio::test]
async fn a_key_revoked_at_a_cluster_manager_does_not_count_there() {
    let system = System::start(1).await;
    apply(&system.root()).await;
    let mut server = Node::join(system.broker(0), FIRST, JOB).await;
    let (number, _) = attach(&mut server, "10.18.0.2", "fc00::2").await;
    run_behind_key(&server, number).await;
    shows(&mut server, json!(KEY)).await;
    let manager = Caller::new(system.clusters[0].2.address);
    let answer = manager.call(Method::POST, REVOKED, body()).await;
    let said: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(said, json!({"public_key": KEY, "withdrawn": 1}));
    shows(&mut server, Value::Null).await;
    assert_eq!(
        manager.get(REVOKED).await,
        json!([{"public_key": KEY, "by": "cluster"}])
    );
    assert_eq!(system.root().get(REVOKED).await, json!([]));
    for wrong in ["{", r#"{"public_key": "x"}"#] {
        assert_eq!(manager.text(Method::POST, REVOKED, wrong).await.0, 400);
    }
    assert_eq!(manager.text(Method::DELETE, &of_key(), "").await.0, 200);
    run_behind_key(&server, number).await;
    shows(&mut server, json!(KEY)).await;
    system.end().await;
}
