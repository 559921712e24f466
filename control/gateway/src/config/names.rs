//! The meaning of `[names]`.

use super::check::{Check, quoted};
use super::{ConfigError, NameServer, RawNames};
use crate::dns::PORT;
use sluice_proto::dns::Zones;
use std::net::{IpAddr, SocketAddr};

impl Check<'_> {
    pub(super) fn names(&self, raw: &RawNames) -> Result<NameServer, ConfigError> {
        let suffix = Some(raw.suffix.as_str()).filter(|suffix| !suffix.is_empty());
        let zones = Zones::new(suffix).map_err(|_| {
            self.value(
                "names.suffix",
                quoted(&raw.suffix),
                "labels of letters, digits and `-` that do not end in \"local\", like \"svc.example\"; or \"\"",
            )
        })?;
        let upstream = raw.upstream.iter().map(|text| {
            let bare = text.parse::<IpAddr>();
            let with_port = || bare.map(|ip| SocketAddr::new(ip, PORT)).ok();
            text.parse().ok().or_else(with_port).ok_or_else(|| {
                let expected = "a list of addresses, each with a port or without, like \"192.0.2.53\" or \"[2001:db8::53]:5353\"";
                self.value("names.upstream", quoted(text), expected)
            })
        });
        Ok(NameServer {
            enabled: raw.enabled,
            suffix: suffix.map(str::to_owned),
            zones,
            upstream: upstream.collect::<Result<_, _>>()?,
        })
    }
}
