//! Oakestra's SLA v2.0 (OAKESTRA-WIRE section 5): applications with microservices.

use super::field::{DescriptorError, Field};
use super::{ServiceSpec, add_range, ip_of, name_of, port_of, range_of};
use serde_json::{Map, Value, json};
use sluice_wire::{Dual, Family};

const ENVELOPE_KEYS: [&str; 4] = ["sla_version", "customerID", "applications", "args"];

const APPLICATION_KEYS: [&str; 6] = [
    "applicationID",
    "application_name",
    "application_namespace",
    "application_desc",
    "microservices",
    "userId",
];

/// Keys of a microservice. All but names, `port` and `addresses` are for the scheduler and the node.
const SERVICE_KEYS: [&str; 39] = [
    "microserviceID",
    "microservice_name",
    "microservice_namespace",
    "virtualization",
    "description",
    "code",
    "image",
    "state",
    "port",
    "addresses",
    "cmd",
    "args",
    "env",
    "environment",
    "arch",
    "memory",
    "vcpus",
    "vcpu",
    "vgpus",
    "vgpu",
    "vtpus",
    "vtpu",
    "vram",
    "bandwidth_in",
    "bandwidth_out",
    "storage",
    "volumes",
    "added_files",
    "privileged",
    "one_shot",
    "backup",
    "target_node",
    "constraints",
    "connectivity",
    "sla_violation_strategy",
    "status",
    "expose",
    "requirements",
    "migration",
];

pub(super) fn parse(root: &Field<'_>) -> Result<Vec<ServiceSpec>, DescriptorError> {
    let version = root.required("sla_version")?;
    if version.text()? != "v2.0" {
        return Err(version.error("`v2.0`"));
    }
    root.only(&ENVELOPE_KEYS)?;
    let mut specs: Vec<ServiceSpec> = Vec::new();
    for application in root.required("applications")?.items()? {
        application.only(&APPLICATION_KEYS)?;
        let app = application.required("application_name")?.name_part()?;
        let app_ns = application.required("application_namespace")?.name_part()?;
        let Some(services) = application.present("microservices") else {
            continue;
        };
        for service in services.items()? {
            let spec = microservice(&service, app, app_ns)?;
            if specs.iter().any(|other| other.name == spec.name) {
                let field = service.required("microservice_name")?;
                return Err(field.error("a name that no other microservice of the file has"));
            }
            specs.push(spec);
        }
    }
    if specs.is_empty() {
        let applications = root.required("applications")?;
        return Err(applications.error("at least one application with a microservice"));
    }
    Ok(specs)
}

fn microservice(
    service: &Field<'_>,
    app: &str,
    app_ns: &str,
) -> Result<ServiceSpec, DescriptorError> {
    service.only(&SERVICE_KEYS)?;
    for key in ["virtualization", "code"] {
        service.required(key)?;
    }
    let name = service.required("microservice_name")?.name_part()?;
    let namespace = service.required("microservice_namespace")?.name_part()?;
    let mut descriptor: Map<String, Value> = service.map()?.clone();
    for (key, value) in [
        ("app_name", app),
        ("app_ns", app_ns),
        ("service_name", name),
        ("service_ns", namespace),
    ] {
        descriptor.insert(key.to_owned(), json!(value));
    }
    let value = Value::Object(descriptor);
    // The name's parts were checked with their own keys above; this joins them.
    let joined = Field::root("service name", &value);
    let mut spec = ServiceSpec {
        name: name_of(
            &joined,
            ["app_name", "app_ns", "service_name", "service_ns"],
        )?,
        port: port_of(service)?,
        round_robin: Dual::default(),
        closest: Dual::default(),
        instances: Vec::new(),
        descriptor: Map::new(),
    };
    if let Some(addresses_field) = service.present("addresses") {
        addresses(&addresses_field, &mut spec)?;
    }
    if let Value::Object(mut map) = value {
        // Oakestra's system manager copies the chosen addresses to these keys.
        for (key, ip) in [
            ("RR_ip", spec.round_robin.v4),
            ("RR_ip_v6", spec.round_robin.v6),
        ] {
            if let Some(ip) = ip {
                map.insert(key.to_owned(), ip.to_string().into());
            }
        }
        spec.descriptor = map;
    }
    Ok(spec)
}

/// Reads the group `addresses` into a spec. Addresses that the spec has already stay.
pub(super) fn addresses(field: &Field<'_>, spec: &mut ServiceSpec) -> Result<(), DescriptorError> {
    field.only(&[
        "rr_ip",
        "rr_ip_v6",
        "closest_ip",
        "closest_ip_v6",
        "instances",
    ])?;
    let rr_v4 = ip_of(field, "rr_ip", Family::V4)?;
    let rr_v6 = ip_of(field, "rr_ip_v6", Family::V6)?;
    spec.round_robin.v4 = spec.round_robin.v4.or(rr_v4);
    spec.round_robin.v6 = spec.round_robin.v6.or(rr_v6);
    spec.closest = Dual {
        v4: ip_of(field, "closest_ip", Family::V4)?,
        v6: ip_of(field, "closest_ip_v6", Family::V6)?,
    };
    if let Some(instances) = field.present("instances") {
        for range in instances.items()? {
            add_range(range_of(&range, "start", "start_v6")?, &range, spec)?;
        }
    }
    Ok(())
}
