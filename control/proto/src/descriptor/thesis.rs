//! The thesis's YAML descriptor v0.2 (section 3.6.3): one service per file.

use super::field::{DescriptorError, Field};
use super::{ServiceSpec, add_range, ip_of, name_of, port_of, range_of};
use serde_json::{Map, Value, json};
use sluice_wire::{Dual, Family};

/// The keys of the thesis's example; those that the network does not use belong to the scheduler.
const KEYS: [&str; 12] = [
    "api_version",
    "app_name",
    "app_ns",
    "service_name",
    "service_ns",
    "image",
    "image_runtime",
    "port",
    "addresses",
    "cluster_location",
    "node",
    "requirements",
];

pub(super) fn parse(root: &Field<'_>) -> Result<ServiceSpec, DescriptorError> {
    let version = root.required("api_version")?;
    if version.text()? != "v0.2" {
        return Err(version.error("`v0.2`"));
    }
    root.only(&KEYS)?;
    let name = name_of(root, ["app_name", "app_ns", "service_name", "service_ns"])?;
    let mut spec = ServiceSpec {
        name,
        port: port_of(root)?,
        round_robin: Dual::default(),
        closest: Dual::default(),
        instances: Vec::new(),
        descriptor: Map::new(),
    };
    if let Some(addresses) = root.present("addresses") {
        // The `_v6` keys are ours: the thesis has IPv4 only.
        addresses.only(&[
            "RR_ip",
            "RR_ip_v6",
            "Closest_ip",
            "Closest_ip_v6",
            "Instances",
        ])?;
        spec.round_robin = Dual {
            v4: ip_of(&addresses, "RR_ip", Family::V4)?,
            v6: ip_of(&addresses, "RR_ip_v6", Family::V6)?,
        };
        spec.closest = Dual {
            v4: ip_of(&addresses, "Closest_ip", Family::V4)?,
            v6: ip_of(&addresses, "Closest_ip_v6", Family::V6)?,
        };
        if let Some(instances) = addresses.present("Instances") {
            for range in instances.one_or_items()? {
                let addresses = range_of(&range, "address_from", "address_from_v6")?;
                add_range(addresses, &range, &mut spec)?;
            }
        }
    }
    spec.descriptor = deployment(root.map()?, &spec);
    Ok(spec)
}

/// The same in Oakestra's terms.
fn deployment(source: &Map<String, Value>, spec: &ServiceSpec) -> Map<String, Value> {
    let mut descriptor = Map::new();
    let [app, app_ns, service, service_ns] = spec.name.parts();
    for (key, value) in [
        ("app_name", app),
        ("app_ns", app_ns),
        ("service_name", service),
        ("service_ns", service_ns),
        ("microservice_name", service),
        ("microservice_namespace", service_ns),
        ("port", &spec.port),
    ] {
        descriptor.insert(key.to_owned(), value.into());
    }
    for (from, to) in [
        ("image", "code"),
        ("image_runtime", "virtualization"),
        ("cluster_location", "cluster_location"),
        ("node", "node"),
        ("requirements", "requirements"),
    ] {
        if let Some(value) = source.get(from) {
            descriptor.insert(to.to_owned(), value.clone());
        }
    }
    for (key, ip) in [
        ("RR_ip", spec.round_robin.v4),
        ("RR_ip_v6", spec.round_robin.v6),
    ] {
        if let Some(ip) = ip {
            descriptor.insert(key.to_owned(), ip.to_string().into());
        }
    }
    let text = |ip: Option<sluice_wire::Ip>| ip.map(|ip| ip.to_string());
    let instances: Vec<Value> = spec
        .instances
        .iter()
        .map(|range| {
            json!({"from": range.from, "to": range.to,
                   "start": text(range.first_v4), "start_v6": text(range.first_v6)})
        })
        .collect();
    descriptor.insert(
        "addresses".to_owned(),
        json!({"rr_ip": text(spec.round_robin.v4), "rr_ip_v6": text(spec.round_robin.v6),
               "closest_ip": text(spec.closest.v4), "closest_ip_v6": text(spec.closest.v6),
               "instances": instances}),
    );
    descriptor
}
