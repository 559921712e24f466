//! Clusters that asked for what did not exist hear when it does, once and for a short time.

use super::*;

fn asks(root: &mut Root, cluster: &str, key: &str, now_s: u64) {
    let command = Command::Query {
        key: Key::parse(key).unwrap(),
        caller: Caller {
            cluster_id: Some(cluster.to_owned()),
            address: None,
        },
    };
    let applied = root.apply(&command, now_s);
    assert_eq!(applied.reply, Reply::json(&serde_json::Map::new()));
    assert_eq!(applied.changes, [], "no interest");
}

fn told(root: &mut Root, command: &Command, now_s: u64) -> Vec<(String, String)> {
    let effects = root.apply(command, now_s).effects.into_iter();
    let told = effects.map(|effect| match effect {
        Effect::Notify { cluster, update } => (cluster, update.job_name.to_string()),
        Effect::NoInstanceLeft { job } => panic!("{job}"),
    });
    told.collect()
}

#[test]
fn who_asked_for_a_service_hears_when_it_is_created() {
    const NAME: &str = "demo.default.a.test";
    let mut root = root();
    asks(&mut root, "c1", NAME, 1000);
    asks(&mut root, "c2", "demo.default.other.test", 1000);
    // Oakestra's cluster does not say who it is, and asks for every packet anew.
    root.apply(&query(NAME, "192.0.2.2"), 1000);
    let create = deploy(ID, descriptor("a"));
    let expected = [("c1".to_owned(), NAME.to_owned())];
    assert_eq!(told(&mut root, &create, 1002), expected);
    let delete = Command::ServiceDelete { id: ID.to_owned() };
    assert_eq!(told(&mut root, &delete, 1003), []);
    assert_eq!(told(&mut root, &create, 1004), [], "once");
}

#[test]
fn who_asked_for_an_address_hears_when_an_instance_has_it_unless_that_is_long_ago() {
    let mut root = root();
    root.apply(&deploy(ID, descriptor("a")), 1000);
    asks(&mut root, "c1", "10.30.0.2", 1000);
    asks(&mut root, "c2", "10.30.0.3", 1000);
    let attach = |number| instance(ID, number, "c2", Some(&format!("r{number}")));
    let expected = [("c1".to_owned(), "demo.default.a.test".to_owned())];
    assert_eq!(told(&mut root, &attach(0), 1005), expected);
    assert_eq!(told(&mut root, &attach(1), 1060), []);
}
