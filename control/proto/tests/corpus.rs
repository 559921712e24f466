//! Every parser over its corpus, and over whatever a fuzzer finds: no panic, and what is read survives being written.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sluice_proto::message::{self, Topic};
use sluice_proto::{ServiceName, descriptor};
use std::fmt::Debug;
use std::path::Path;

/// The inputs of a folder of `fuzz-corpus`, in name order.
fn corpus(kind: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz-corpus")
        .join(kind);
    let mut inputs: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| {
            let path = entry.expect("a readable folder").path();
            let name = path
                .file_name()
                .expect("a file")
                .to_string_lossy()
                .into_owned();
            (name, std::fs::read(&path).expect("a readable file"))
        })
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty());
    inputs
}

fn survives<T: DeserializeOwned + Serialize + PartialEq + Debug>(bytes: &[u8]) -> bool {
    let Ok(read) = message::read::<T>("message", bytes) else {
        return false;
    };
    let written = message::write(&read);
    assert_eq!(
        message::read::<T>("message", &written).expect("our own"),
        read
    );
    true
}

/// How many of our messages the bytes are.
fn messages(bytes: &[u8]) -> usize {
    [
        survives::<message::TableQueryRequest>(bytes),
        survives::<message::TableQueryResult>(bytes),
        survives::<message::SubnetRequest>(bytes),
        survives::<message::SubnetResult>(bytes),
        survives::<message::Deployed>(bytes),
        survives::<message::Undeployed>(bytes),
        survives::<message::InterestRemove>(bytes),
        survives::<message::UpdatesAvailable>(bytes),
        survives::<message::InstanceRequest>(bytes),
        survives::<message::InstanceResult>(bytes),
        survives::<message::Job>(bytes),
        survives::<message::JobUpdate>(bytes),
        survives::<message::NetDeployment>(bytes),
        survives::<message::ClusterRegistration>(bytes),
        survives::<message::NetDeployStatus>(bytes),
        survives::<message::ServiceDeploy>(bytes),
        survives::<message::InstanceDeploy>(bytes),
        survives::<message::InstanceDeployed>(bytes),
        survives::<message::SubnetGrant>(bytes),
    ]
    .into_iter()
    .filter(|read| *read)
    .count()
}

#[test]
fn the_corpus_is_read_or_refused_without_panic() {
    for (name, bytes) in corpus("messages") {
        let refused = ["deep.json", "empty", "not-utf8"].contains(&name.as_str());
        assert_eq!(messages(&bytes) == 0, refused, "{name}");
    }
    for (name, bytes) in corpus("topics") {
        let text = String::from_utf8(bytes).unwrap();
        let refused = ["wildcard", "no-node"].contains(&name.as_str());
        assert_eq!(Topic::parse(&text).is_err(), refused, "{name}");
    }
    for (name, bytes) in corpus("names") {
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(
            ServiceName::parse(&text).is_ok(),
            name == "mixed-case",
            "{name}"
        );
    }
    for (name, bytes) in corpus("descriptors") {
        let text = String::from_utf8(bytes).unwrap();
        let accepted = ["thesis.yaml", "sla.json"].contains(&name.as_str());
        let specs = descriptor::parse(&name, &text);
        assert_eq!(specs.is_ok(), accepted, "{name}: {specs:?}");
    }
}

#[test]
fn any_bytes_are_messages_or_named_errors() {
    bolero::check!().for_each(|bytes: &[u8]| {
        messages(bytes);
    });
}

/// Corpus entries with bytes changed: closer to what a broken peer sends than random bytes are.
#[test]
fn damaged_messages_and_descriptors_are_read_or_refused() {
    let messages_corpus = corpus("messages");
    let descriptors = corpus("descriptors");
    bolero::check!()
        .with_type::<(u8, Vec<(u16, u8)>)>()
        .for_each(|(which, damage)| {
            let damaged = |inputs: &[(String, Vec<u8>)]| {
                let mut bytes = inputs[usize::from(*which) % inputs.len()].1.clone();
                for (at, byte) in damage {
                    let length = bytes.len().max(1);
                    if let Some(target) = bytes.get_mut(usize::from(*at) % length) {
                        *target = *byte;
                    }
                }
                bytes
            };
            messages(&damaged(&messages_corpus));
            let text = damaged(&descriptors);
            let _ = descriptor::parse("damaged", &String::from_utf8_lossy(&text));
        });
}
