//! Instances of services at a gateway: `sluice attach` and `sluice detach`.

use super::super::error::LabError;
use super::super::netns::NetNs;
use super::Sites;
use std::net::IpAddr;

/// What `sluice attach` said.
#[derive(Clone, Debug)]
pub struct Attached {
    pub service: String,
    pub instance_number: u64,
    pub instance_ip: Vec<IpAddr>,
    pub ns_address: Vec<IpAddr>,
    /// Who resolves names for it.
    pub name_server: Vec<IpAddr>,
}

/// What an instance is, for `attach`.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    Pid(u32),
    Namespace(&'a NetNs),
    /// A host on the LAN, by its addresses.
    Host([IpAddr; 2]),
}

impl Sites {
    /// Makes something an instance of a service at a gateway (counted from 0), by `sluice attach`.
    ///
    /// # Errors
    /// With its words when it fails.
    pub fn attach(
        &self,
        gateway: usize,
        service: &str,
        target: Target<'_>,
    ) -> Result<Attached, LabError> {
        let (flag, value) = match target {
            Target::Pid(pid) => ("--pid", pid.to_string()),
            Target::Namespace(namespace) => {
                ("--netns", namespace.path().to_string_lossy().into_owned())
            }
            Target::Host([v4, v6]) => ("--host", format!("{v4},{v6}")),
        };
        let admin = self.gateways[gateway]
            .role
            .admin
            .to_string_lossy()
            .into_owned();
        let text = self.sluice([
            "attach",
            "--service",
            service,
            flag,
            &value,
            "--socket",
            &admin,
            "-o",
            "json",
        ])?;
        attached(&text).ok_or_else(|| LabError::Reply {
            what: "the answer of sluice attach".to_owned(),
            text,
        })
    }

    /// The reverse, for one instance.
    ///
    /// # Errors
    /// With its words when it fails.
    pub fn detach(&self, gateway: usize, attached: &Attached) -> Result<(), LabError> {
        let admin = self.gateways[gateway]
            .role
            .admin
            .to_string_lossy()
            .into_owned();
        let number = attached.instance_number.to_string();
        self.sluice([
            "detach",
            "--service",
            &attached.service,
            "--instance",
            &number,
            "--socket",
            &admin,
        ])
        .map(drop)
    }
}

fn attached(text: &str) -> Option<Attached> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let addresses = |v4: &str, v6: &str| -> Option<Vec<IpAddr>> {
        let of = |key: &str| value.get(key)?.as_str()?.parse().ok();
        Some(vec![of(v4)?, of(v6)?])
    };
    Some(Attached {
        service: value.get("service")?.as_str()?.to_owned(),
        instance_number: value.get("instance_number")?.as_u64()?,
        instance_ip: addresses("instance_ip", "instance_ip_v6")?,
        ns_address: addresses("ns_ip", "ns_ip_v6")?,
        name_server: addresses("name_server", "name_server_v6")?,
    })
}
