//! Where connections are measured: two gateways, and an instance behind each, in namespaces of this machine or on two hosts.

use super::ends::Ends;
use super::nodes::{HostNodes, Nodes};
use super::pair::Pair;
use super::{Settings, sluice_perf};
use crate::lab::LabError;

/// Both gateways, and what is behind them.
pub(super) struct Ground {
    pub(super) ours: Ends,
    pub(super) nodes: Box<dyn Nodes>,
}

impl Ground {
    /// `part` is the name of what is to be measured.
    pub(super) fn new(settings: &Settings, part: &str) -> Result<Self, LabError> {
        let sluice_perf = sluice_perf()?;
        let Some(places) = &settings.places else {
            let pair = Pair::new(settings, &["client"], &["server"])?;
            let [client, server] =
                [&pair.clients[0], &pair.servers[0]].map(|member| (&member.namespace).into());
            return Ok(Self {
                ours: Ends::new(client, &server, pair.service, &sluice_perf)?,
                nodes: Box::new(pair.sites),
            });
        };
        if !places.has_instances() {
            return Err(LabError::Request(places.no_instances(part)));
        }
        let [client, server] =
            [&places.generator, &places.sink].map(|place| place.host(&places.shell));
        let dialled = places.gateway.call.dialled.into();
        Ok(Self {
            ours: Ends::new(client, &server, dialled, &sluice_perf)?,
            nodes: Box::new(HostNodes::new(places, &settings.sluice)?),
        })
    }
}
