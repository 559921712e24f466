//! The offload with AF_XDP links: which devices take redirected frames, and by which Ethernet addresses.

use crate::node::devices::{LinkState, Outlet};
use crate::node::nic;
use sluice_link::af_xdp::{Hop, Mac, Neighbour, Redirected};
use sluice_link::offload::Offload;
use sluice_link::offload::abi::Redirects;
use sluice_wire::Ip;
use std::collections::BTreeMap;

/// `NETDEV_XDP_ACT_NDO_XMIT` of linux/netdev.h: others' XDP programs may redirect to the device.
const TAKES_REDIRECTED: u64 = 1 << 2;

/// The two devices between which frames are redirected, and who is behind them.
#[derive(Debug)]
pub(in crate::gateway) struct Redirect {
    service: (String, u32),
    underlay: (String, u32),
    /// Why TCP does not go in super-frames, if it does not.
    joined: Result<(), String>,
    takes: Redirects,
    hops: BTreeMap<Ip, Hop>,
    neighbours: BTreeMap<Ip, Neighbour>,
    /// Of the service side's device when it was opened.
    mtu: u32,
}

impl Redirect {
    /// Between these devices, and the flows' maps. `port` is the other end of `service` if that is a veth.
    pub(in crate::gateway) fn between(
        service: &LinkState,
        underlay: &LinkState,
        port: Option<&str>,
        redirected: Redirected,
    ) -> (Self, Offload) {
        // A veth's end takes redirected frames while the other one looks for frames to join.
        if let Some(port) = port
            && let Err(error) = nic::set_offloads(port, &[("rx-gro".to_owned(), true)])
        {
            tracing::debug!(%error, "datagrams are delivered by tc");
        }
        let redirect = Self {
            service: (service.name.clone(), service.index),
            underlay: (underlay.name.clone(), underlay.index),
            joined: redirected.joined.map_err(|error| error.to_string()),
            takes: Redirects::default(),
            hops: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            mtu: service.mtu,
        };
        (redirect, redirected.offload)
    }

    /// What may be done within XDP now. Of a device that does not say it is believed that it takes frames.
    pub(super) fn look(&mut self) -> Redirects {
        let takes = |index| {
            nic::xdp_features(index)
                .is_ok_and(|it| it.is_none_or(|has| has.actions & TAKES_REDIRECTED != 0))
        };
        self.takes = Redirects {
            out: takes(self.underlay.1),
            inn: takes(self.service.1),
            joined: self.joined.is_ok(),
        };
        self.takes
    }

    /// Whether anything changed.
    pub(super) fn set_ways(
        &mut self,
        neighbours: BTreeMap<Ip, Neighbour>,
        hops: BTreeMap<Ip, Hop>,
    ) -> bool {
        let is_new = self.neighbours != neighbours || self.hops != hops;
        self.neighbours = neighbours;
        self.hops = hops;
        is_new
    }

    /// The way to a node, if its next hop is known.
    pub(super) fn hop(&self, node: Ip) -> Option<(Outlet, Hop)> {
        let hop = *self.hops.get(&node)?;
        let outlet = Outlet {
            device: self.underlay.1,
            source: hop.source,
        };
        Some((outlet, hop))
    }

    /// The Ethernet address of a local instance.
    pub(super) fn neighbour(&self, instance: Ip) -> Option<Mac> {
        self.neighbours.get(&instance).map(|way| way.mac)
    }

    /// Bytes of a packet that every local instance can be sent.
    pub(super) fn longest_inbound(&self) -> u16 {
        let narrowest = self.neighbours.values().map(|way| way.mtu).min();
        narrowest.unwrap_or_else(|| u16::try_from(self.mtu).unwrap_or(u16::MAX))
    }

    /// Which device, by its name, and how frames of either kind go.
    pub(super) fn text(&self) -> String {
        let ((service, _), (underlay, _)) = (&self.service, &self.underlay);
        let way = |taken| if taken { "XDP" } else { "tc" };
        let mut text = format!(
            "{service} to {underlay} by {}, back by {}",
            way(self.takes.out),
            way(self.takes.inn)
        );
        match &self.joined {
            Ok(()) => text.push_str(", TCP super-frames by tc"),
            Err(reason) => text.push_str(&format!(", no TCP super-frames: {reason}")),
        }
        text
    }
}
