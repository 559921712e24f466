//! Which cluster is calling: by what it says in the query, or by the source address, as Oakestra's versions differ.

use serde::Deserialize;
use sluice_proto::table_query::root::{Caller, Root};
use std::net::{IpAddr, SocketAddr};

/// How a request may name its cluster: ours say `cluster_id`, Oakestra's branches `cluster_ip`, or `cluster_address`
/// and `cluster_name`; its release says nothing and is known by its source address.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Named {
    pub(crate) cluster_id: Option<String>,
    cluster_ip: Option<String>,
    cluster_address: Option<String>,
    cluster_name: Option<String>,
    /// Of a subnet request: a repetition gets the same subnet.
    pub(crate) request_id: Option<String>,
    /// Extension, with the deletion of an instance: which instance of that number.
    pub(crate) epoch: Option<u64>,
    /// Extension, with the return of a subnet: which giving of it.
    pub(crate) grant_id: Option<u64>,
}

impl Named {
    /// Who this is, for a request from `source`.
    pub(crate) fn caller(self, root: &Root, source: IpAddr) -> Caller {
        // A name is an id only if a cluster registered with it; in Oakestra it may be another text.
        let name = self
            .cluster_name
            .filter(|name| root.cluster(name).is_some());
        let said = self.cluster_ip.or(self.cluster_address);
        Caller {
            cluster_id: self.cluster_id.or(name),
            address: Some(match said {
                Some(address) => canonical(&address),
                None => source.to_canonical().to_string(),
            }),
        }
    }
}

/// The address at which a cluster that registers can be called: what it says, or where it calls from when it does not
/// know.
pub(crate) fn registered_address(said: &str, source: IpAddr) -> String {
    let address = canonical(said);
    let unspecified = address
        .parse::<IpAddr>()
        .is_ok_and(|ip| ip.is_unspecified());
    if address.is_empty() || unspecified {
        source.to_canonical().to_string()
    } else {
        address
    }
}

/// `host:port`, with brackets around IPv6.
pub(crate) fn authority(address: &str, port: u16) -> String {
    match address.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, port).to_string(),
        Err(_) => format!("{address}:{port}"),
    }
}

/// An address in the one text by which it is compared; anything else as it is.
fn canonical(address: &str) -> String {
    let bare = address.trim().trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().to_string(),
        Err(_) => bare.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_proto::message::ClusterRegistration;
    use sluice_proto::table_query::root::Command;
    use sluice_wire::AddressPlan;

    fn caller(query: serde_json::Value, source: &str) -> (Option<String>, Option<String>) {
        let mut root = Root::new(&AddressPlan::oakestra());
        root.apply(
            &Command::ClusterRegister(ClusterRegistration {
                cluster_id: "known".to_owned(),
                cluster_address: "192.0.2.1".to_owned(),
                cluster_port: 10110,
            }),
            0,
        );
        let named: Named = serde_json::from_value(query).unwrap();
        let caller = named.caller(&root, source.parse().unwrap());
        (caller.cluster_id, caller.address)
    }

    #[test]
    fn all_forms_of_naming_a_cluster_are_understood() {
        use serde_json::json;
        let address = |text: &str| Some(text.to_owned());
        for (query, source, expected) in [
            (json!({}), "192.0.2.1", (None, address("192.0.2.1"))),
            (json!({}), "::ffff:192.0.2.1", (None, address("192.0.2.1"))),
            (json!({}), "2001:DB8::1", (None, address("2001:db8::1"))),
            (
                json!({"cluster_id": "x"}),
                "192.0.2.9",
                (address("x"), address("192.0.2.9")),
            ),
            (
                json!({"cluster_ip": "::ffff:192.0.2.1"}),
                "192.0.2.9",
                (None, address("192.0.2.1")),
            ),
            (
                json!({"cluster_address": "[2001:db8::1]", "cluster_name": "Berlin"}),
                "192.0.2.9",
                (None, address("2001:db8::1")),
            ),
            (
                json!({"cluster_address": "c.example", "cluster_name": "known"}),
                "192.0.2.9",
                (address("known"), address("c.example")),
            ),
        ] {
            assert_eq!(caller(query.clone(), source), expected, "{query}");
        }
    }

    #[test]
    fn a_cluster_that_does_not_know_its_address_is_where_it_calls_from() {
        let source: IpAddr = "::ffff:198.51.100.7".parse().unwrap();
        for (said, address) in [
            ("", "198.51.100.7"),
            ("0.0.0.0", "198.51.100.7"),
            ("[::]", "198.51.100.7"),
            ("192.0.2.1", "192.0.2.1"),
            ("c.example", "c.example"),
        ] {
            assert_eq!(registered_address(said, source), address, "{said}");
        }
        assert_eq!(authority("2001:db8::1", 1), "[2001:db8::1]:1");
        assert_eq!(authority("c.example", 1), "c.example:1");
    }
}
