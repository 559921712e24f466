//! Deployment descriptors: the thesis's YAML v0.2 (section 3.6.3) and Oakestra's SLA v2.0, read into one [`ServiceSpec`].
//!
//! Three steps: text, then a tree of keys and values, then checked values. What is refused is named by file, key and
//! value, with what was expected.

mod field;
mod sla;
mod thesis;

pub use field::DescriptorError;

use crate::names::ServiceName;
use field::Field;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sluice_wire::{Dual, Family, Ip};

/// Longest descriptor, in bytes.
pub const DESCRIPTOR_LENGTH_MAX: usize = 1 << 20;
/// Most addresses that one instance range may reserve.
pub const RANGE_LENGTH_MAX: u32 = 4096;

/// What the network needs to know of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceSpec {
    pub name: ServiceName,
    /// Port mappings as in OAKESTRA-WIRE section 1.4; empty: none.
    pub port: String,
    /// The round robin ServiceIPs that the developer chose.
    pub round_robin: Dual<Ip>,
    /// The closest ServiceIPs that the developer chose.
    pub closest: Dual<Ip>,
    /// InstanceIPs that the developer chose.
    pub instances: Vec<InstanceRange>,
    /// The whole descriptor in the form that Oakestra's system manager gives the root.
    pub descriptor: Map<String, Value>,
}

/// Instances `from..to` have the addresses `first`, `first + 1`, ... (thesis 3.6.3: "a contiguous set of `to - from` IPs",
/// so `to` itself is not in it).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct InstanceRange {
    pub from: u32,
    pub to: u32,
    #[serde(with = "crate::message::text::address")]
    pub first_v4: Option<Ip>,
    #[serde(with = "crate::message::text::address")]
    pub first_v6: Option<Ip>,
}

impl InstanceRange {
    /// The addresses of instance `number`, if it is in the range.
    #[must_use]
    pub fn addresses(&self, number: u32) -> Option<Dual<Ip>> {
        if !(self.from..self.to).contains(&number) {
            return None;
        }
        let offset = u128::from(number - self.from);
        Some(Dual {
            v4: self.first_v4.map(|first| first.offset(offset)),
            v6: self.first_v6.map(|first| first.offset(offset)),
        })
    }
}

/// Reads a descriptor file; an SLA may describe many services. `file` names it in errors.
///
/// # Errors
/// Names file, key, value and what was expected.
pub fn parse(file: &str, text: &str) -> Result<Vec<ServiceSpec>, DescriptorError> {
    if text.len() > DESCRIPTOR_LENGTH_MAX {
        return Err(DescriptorError::Syntax {
            file: file.to_owned(),
            problem: format!("{} bytes; a descriptor has at most 1 MiB", text.len()),
        });
    }
    let value = tree(file, text)?;
    let root = Field::root(file, &value);
    root.map()?;
    match (root.optional("sla_version"), root.optional("api_version")) {
        (Some(_), None) => sla::parse(&root),
        (None, Some(_)) => Ok(vec![thesis::parse(&root)?]),
        _ => {
            Err(root.error("either `sla_version: v2.0` (Oakestra) or `api_version: v0.2` (thesis)"))
        }
    }
}

/// Reads the descriptor that Oakestra's system manager gives the root service manager (OAKESTRA-WIRE sections 3.2 and 5). Unknown
/// keys are kept: they are for other parts of Oakestra.
///
/// # Errors
/// Names key, value and what was expected.
pub fn from_deployment(descriptor: &Value) -> Result<ServiceSpec, DescriptorError> {
    let root = Field::root("deployment_descriptor", descriptor);
    let map = root.map()?;
    for key in ["microservice_name", "microservice_namespace"] {
        if let Some(field) = root.optional(key) {
            field.name_part()?;
        }
    }
    let name = name_of(&root, ["app_name", "app_ns", "service_name", "service_ns"])?;
    let mut spec = ServiceSpec {
        name,
        port: port_of(&root)?,
        round_robin: Dual {
            v4: ip_of(&root, "RR_ip", Family::V4)?,
            v6: ip_of(&root, "RR_ip_v6", Family::V6)?,
        },
        closest: Dual::default(),
        instances: Vec::new(),
        descriptor: map.clone(),
    };
    if let Some(addresses) = root.present("addresses") {
        sla::addresses(&addresses, &mut spec)?;
    }
    Ok(spec)
}

fn tree(file: &str, text: &str) -> Result<Value, DescriptorError> {
    let syntax = |problem: String| DescriptorError::Syntax {
        file: file.to_owned(),
        problem,
    };
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|error| syntax(error.to_string()));
    }
    // Through YAML's own tree, which refuses a key that is given twice.
    let yaml: serde_norway::Value =
        serde_norway::from_str(text).map_err(|error| syntax(error.to_string()))?;
    serde_json::to_value(yaml).map_err(|error| syntax(error.to_string()))
}

fn name_of(root: &Field<'_>, keys: [&str; 4]) -> Result<ServiceName, DescriptorError> {
    let mut parts = [""; 4];
    for (part, key) in parts.iter_mut().zip(keys) {
        *part = root.required(key)?.name_part()?;
    }
    let [app, app_ns, service, service_ns] = parts;
    ServiceName::of_parts(app, app_ns, service, service_ns)
        .map_err(|error| root.error(&error.to_string()))
}

fn ip_of(parent: &Field<'_>, key: &str, family: Family) -> Result<Option<Ip>, DescriptorError> {
    parent
        .present(key)
        .map(|field| field.ip(family))
        .transpose()
}

/// `port`, a number or a list of mappings as text; `""` when missing.
fn port_of(parent: &Field<'_>) -> Result<String, DescriptorError> {
    parent
        .present("port")
        .map_or_else(|| Ok(String::new()), |field| field.port_mappings())
}

/// Reads a range from `from`, `to` and the given address keys.
fn range_of(
    field: &Field<'_>,
    key_v4: &str,
    key_v6: &str,
) -> Result<InstanceRange, DescriptorError> {
    field.only(&["from", "to", key_v4, key_v6])?;
    let from = field.required("from")?.number()?;
    let to_field = field.required("to")?;
    let to = to_field.number()?;
    if to <= from {
        return Err(to_field.error(&format!("a number above `from`, which is {from}")));
    }
    if to - from > RANGE_LENGTH_MAX {
        return Err(to_field.error(&format!("at most {RANGE_LENGTH_MAX} instances in a range")));
    }
    let range = InstanceRange {
        from,
        to,
        first_v4: ip_of(field, key_v4, Family::V4)?,
        first_v6: ip_of(field, key_v6, Family::V6)?,
    };
    if range.first_v4.is_none() && range.first_v6.is_none() {
        return Err(field.error(&format!("`{key_v4}`, the address of instance {from}")));
    }
    Ok(range)
}

/// An instance number has its addresses from one range.
fn add_range(
    range: InstanceRange,
    field: &Field<'_>,
    spec: &mut ServiceSpec,
) -> Result<(), DescriptorError> {
    let mut others = spec.instances.iter();
    if let Some(other) = others.find(|other| range.from < other.to && other.from < range.to) {
        let number = range.from.max(other.from);
        return Err(field.error(&format!(
            "instance numbers of no other range; instance {number} is in the one from {} to {}, too",
            other.from, other.to
        )));
    }
    spec.instances.push(range);
    Ok(())
}

#[cfg(test)]
mod tests;
