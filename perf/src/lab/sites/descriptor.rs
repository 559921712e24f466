//! Service descriptors in Oakestra's form, for `sluice apply`.

/// A microservice of a descriptor in Oakestra's form.
#[derive(Clone, Copy, Debug)]
pub struct Microservice<'a> {
    pub name: &'a str,
    pub namespace: &'a str,
    /// Round-robin addresses; none = the root chooses.
    pub rr_ip: Option<[&'a str; 2]>,
}

impl<'a> Microservice<'a> {
    /// A microservice of what is measured: in the namespace `perf`, its addresses chosen by the root.
    #[must_use]
    pub const fn measured(name: &'a str) -> Self {
        Self {
            name,
            namespace: "perf",
            rr_ip: None,
        }
    }
}

/// A service descriptor (SLA v2.0) with these microservices.
#[must_use]
pub fn descriptor(app: &str, app_namespace: &str, microservices: &[Microservice<'_>]) -> String {
    let services: Vec<serde_json::Value> = microservices
        .iter()
        .map(|service| {
            let mut value = serde_json::json!({
                "microserviceID": "",
                "microservice_name": service.name,
                "microservice_namespace": service.namespace,
                "virtualization": "container",
                "code": "none",
                "memory": 0, "vcpus": 0, "storage": 0, "port": "",
            });
            if let Some([v4, v6]) = service.rr_ip {
                value["addresses"] = serde_json::json!({"rr_ip": v4, "rr_ip_v6": v6});
            }
            value
        })
        .collect();
    serde_json::json!({
        "sla_version": "v2.0",
        "customerID": "demo",
        "applications": [{
            "applicationID": "",
            "application_name": app,
            "application_namespace": app_namespace,
            "application_desc": "",
            "microservices": services,
        }],
    })
    .to_string()
}
