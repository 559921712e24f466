//! Everything that the managers acknowledged, and the comparison with what the root knows.

use crate::orchestrator;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long an address rests between two owners (`root.address_rest_s`, and `root.subnet_rest_s` in this test).
const REST: Duration = Duration::from_secs(86_400);

/// Service and instance number.
pub(crate) type Instance = (String, u32);

#[derive(Default)]
struct State {
    held: BTreeMap<IpAddr, String>,
    /// Since its owner began to give it back.
    resting: BTreeMap<IpAddr, Instant>,
    instances: BTreeMap<Instance, Vec<IpAddr>>,
    services: BTreeMap<String, Vec<IpAddr>>,
    /// First addresses of subnets that came back.
    returned: BTreeSet<IpAddr>,
    addresses: u64,
    subnets: u64,
}

impl State {
    fn take(&mut self, ips: &[IpAddr], owner: &str) {
        assert!(!ips.is_empty(), "{owner} was given no address");
        for ip in ips {
            if let Some(other) = self.held.insert(*ip, owner.to_owned()) {
                panic!("{ip} was given to {owner}, and belongs to {other}");
            }
            if let Some(since) = self.resting.remove(ip) {
                let rested = since.elapsed();
                assert!(
                    rested >= REST,
                    "{ip} was given to {owner} after {rested:?}, and rests for {REST:?}"
                );
            }
        }
    }

    fn rest(&mut self, ips: &[IpAddr]) {
        for ip in ips {
            self.held.remove(ip);
            self.resting.insert(*ip, Instant::now());
        }
    }
}

#[derive(Default)]
pub(crate) struct Ledger(Mutex<State>);

impl Ledger {
    pub(crate) fn service(&self, name: &str, ips: Vec<IpAddr>) {
        let mut state = self.0.lock().unwrap();
        state.take(&ips, name);
        state.addresses += ips.len() as u64;
        state.services.insert(name.to_owned(), ips);
    }

    /// Before the request leaves: it may be done and not be answered.
    pub(crate) fn service_ends(&self, name: &str) {
        let mut state = self.0.lock().unwrap();
        let ips = state.services.remove(name).unwrap();
        state.rest(&ips);
    }

    pub(crate) fn instance(&self, instance: Instance, ips: Vec<IpAddr>) {
        let mut state = self.0.lock().unwrap();
        state.take(&ips, &format!("{} {}", instance.0, instance.1));
        state.addresses += ips.len() as u64;
        let other = state.instances.insert(instance, ips);
        assert_eq!(other, None, "the number was given twice");
    }

    /// Before the request leaves: it may be done and not be answered.
    pub(crate) fn instance_ends(&self, instance: &Instance) {
        let mut state = self.0.lock().unwrap();
        let ips = state.instances.remove(instance).unwrap();
        state.rest(&ips);
    }

    pub(crate) fn subnet(&self, owner: &str, networks: &[IpAddr]) {
        let mut state = self.0.lock().unwrap();
        state.take(networks, owner);
        state.subnets += 1;
    }

    /// Before the node says so.
    pub(crate) fn subnet_ends(&self, networks: &[IpAddr]) {
        let mut state = self.0.lock().unwrap();
        state.rest(networks);
        state.returned.insert(networks[0]);
    }

    /// The root knows exactly what was acknowledged. No request may be open.
    pub(crate) fn compare(&self, root: SocketAddr) {
        let state = self.0.lock().unwrap();
        let rows = |path| orchestrator::rows(root, path);
        let instances: BTreeMap<Instance, Vec<IpAddr>> = rows("/v1/instances")
            .iter()
            .map(|row| {
                let number = u32::try_from(row["instance"].as_u64().unwrap()).unwrap();
                let name = row["service"].as_str().unwrap().to_owned();
                ((name, number), ips(row, &["instance_ip", "instance_ip_v6"]))
            })
            .collect();
        assert_eq!(
            instances, state.instances,
            "known to the root; acknowledged"
        );
        let services: Vec<String> = rows("/v1/services")
            .iter()
            .map(|row| row["service"].as_str().unwrap().to_owned())
            .collect();
        let acknowledged: Vec<String> = state.services.keys().cloned().collect();
        assert_eq!(sorted(services), acknowledged, "known; acknowledged");
        // The cluster tells the root by itself what it has acknowledged to nodes.
        orchestrator::until(|| {
            let nodes = rows("/v1/nodes");
            let resting = nodes.iter().filter(|row| row["state"] == "resting");
            let firsts: BTreeSet<IpAddr> = resting.map(|row| ips(row, &["subnet_v4"])[0]).collect();
            (firsts == state.returned).then_some(())
        });
    }

    pub(crate) fn summary(&self) -> String {
        let state = self.0.lock().unwrap();
        let (addresses, subnets) = (state.addresses, state.subnets);
        let returned = state.returned.len();
        format!("{addresses} addresses, {subnets} subnets, {returned} of them returned")
    }
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

/// The addresses in these fields of a row, without the absent ones.
pub(crate) fn ips(row: &serde_json::Value, fields: &[&str]) -> Vec<IpAddr> {
    fields
        .iter()
        .filter_map(|field| row[*field].as_str())
        .map(|text| text.parse().unwrap())
        .collect()
}
