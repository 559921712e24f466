//! What control does for AF_XDP links: opens them, tells them neighbours and next hops, reads what they lost.

use super::Error;
use crate::admin_api::SocketRow;
use crate::config::Fastpath;
use crate::node::devices::LinkState;
use crate::node::hops::{Hops, Way};
use crate::node::netlink::NetlinkError;
use crate::node::nic;
use sluice_hw_profiles::Settings;
use sluice_link::af_xdp::{
    self, BusyPoll, Device, Hop, Mac, Neighbour, Pair, QueueSettings, Redirected, XdpControl,
    XdpLinks, XdpOffload, XdpSettings,
};
use sluice_link::bpf::{SourceLimit, TALLIES};
use sluice_link::sys::xsk::Missed;
use sluice_memory::{Account, Pages};
use sluice_wire::{DropReason, Dual, Ip, Subnet};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The source prefixes that share one limit: an IPv4 address, and the network an IPv6 host can choose addresses from.
const LIMIT_LENGTH_V4: u8 = 32;
const LIMIT_LENGTH_V6: u8 = 64;
/// Frames one busy-polling call takes from the device, when nothing else is said.
const BUSY_POLL_BUDGET: u32 = 64;
/// Next hops are confirmed every so many seconds.
const CONFIRM_S: u32 = 5;

pub(super) struct XdpSide {
    control: XdpControl,
    /// MAC addresses of instances that have a device of ours.
    macs: BTreeMap<Ip, Mac>,
    /// Of the uplink before them.
    uplink_mtu: u16,
    /// The service side, when it is a LAN.
    lan: Option<Lan>,
    hops: Hops,
    ways: BTreeMap<Ip, Way>,
    own: Vec<Ip>,
    seconds: u32,
    is_over: bool,
}

/// The hosts behind the service side's device, where the kernel has them.
struct Lan {
    hops: Hops,
    hosts: Vec<Ip>,
    ways: BTreeMap<Ip, Way>,
}

impl Lan {
    /// Asks the others whether they are still there.
    fn probe(&mut self) {
        let ways = self.ways.values().filter(|way| !way.is_static);
        let next: BTreeSet<Ip> = ways.map(|way| way.next).collect();
        for ip in next {
            if let Err(error) = self.hops.probe(ip) {
                tracing::debug!(%error, "a host cannot be asked");
            }
        }
    }

    /// Asks for the hosts that are not known to be anywhere. The kernel repeats a question itself, and then gives up.
    fn seek(&mut self) {
        for host in self
            .hosts
            .iter()
            .filter(|host| !self.ways.contains_key(host))
        {
            if let Err(error) = self.hops.seek(*host) {
                tracing::debug!(%host, %error, "a host cannot be looked for");
            }
        }
    }
}

impl XdpSide {
    pub(super) fn open(
        config: &Fastpath,
        (service, is_lan): (LinkState, bool),
        service_ranges: Dual<Subnet>,
        underlay: LinkState,
        sockets: &Settings,
        offload: Option<XdpOffload>,
    ) -> Result<(Self, Vec<Pair>, Option<Redirected>), Error> {
        let xdp = &config.xdp;
        let over = |device| Hops::over(device).map_err(crate::node::NodeError::from);
        let lan = is_lan.then(|| over(service.clone())).transpose()?;
        let uplink_mtu = u16::try_from(service.mtu).unwrap_or(u16::MAX);
        let XdpLinks {
            pairs,
            control,
            offload,
        } = af_xdp::open(&XdpSettings {
            service: device(service)?,
            underlay: device(underlay.clone())?,
            service_ranges,
            tunnel_port: config.tunnel_port,
            workers: config.workers,
            queue: queue_settings(sockets),
            // On the bridge each port admits its own instance's frames only.
            guard_sources: is_lan,
            native: xdp.native,
            pages: if sockets.xsk_hugepages == Some(true) {
                Pages::Large
            } else {
                Pages::Small
            },
            blocked: xdp.blocked_sources.clone(),
            source_limit: (xdp.source_rate > 0).then_some(SourceLimit {
                rate: xdp.source_rate,
                burst: xdp.source_burst,
                length_v4: LIMIT_LENGTH_V4,
                length_v6: LIMIT_LENGTH_V6,
            }),
            offload,
        })?;
        let mut side = Self {
            control,
            macs: BTreeMap::new(),
            uplink_mtu,
            lan: lan.map(|hops| Lan {
                hops,
                hosts: Vec::new(),
                ways: BTreeMap::new(),
            }),
            hops: over(underlay)?,
            ways: BTreeMap::new(),
            own: Vec::new(),
            seconds: 0,
            is_over: false,
        };
        side.follow(&[]);
        Ok((side, pairs, offload))
    }

    /// The programs stay attached when this process is killed, pinned in that directory.
    pub(super) fn survive(&mut self, dir: &Path) -> Result<(), Error> {
        Ok(self
            .control
            .programs
            .survive(dir)
            .map_err(af_xdp::XskError::from)?)
    }

    /// A device is no longer the one that was opened.
    pub(super) const fn is_over(&self) -> bool {
        self.is_over
    }

    pub(super) fn set_neighbours(&mut self, neighbours: BTreeMap<Ip, Mac>) {
        if neighbours != self.macs {
            self.macs = neighbours;
            self.publish_neighbours();
        }
    }

    pub(super) fn set_hosts(&mut self, hosts: Vec<Ip>) {
        if let Some(lan) = &mut self.lan {
            lan.hosts = hosts;
            lan.seek();
        }
    }

    pub(super) fn answers(&self, host: Ip) -> bool {
        self.lan
            .as_ref()
            .is_some_and(|lan| lan.ways.contains_key(&host))
    }

    /// Where all local instances are that are known.
    pub(super) fn neighbours(&self) -> BTreeMap<Ip, Neighbour> {
        let hosts = self.lan.iter().flat_map(|lan| &lan.ways);
        let neighbour = |mac, mtu| Neighbour { mac, mtu };
        (self.macs.iter())
            .map(|(&ip, &mac)| (ip, neighbour(mac, self.uplink_mtu)))
            .chain(hosts.map(|(&ip, way)| (ip, neighbour(way.hop.mac, way.hop.mtu))))
            .collect()
    }

    /// The longest IP packet that every local instance's link takes, bytes.
    pub(super) fn service_mtu(&self) -> u16 {
        let neighbours = self.neighbours();
        let least = neighbours.values().map(|neighbour| neighbour.mtu).min();
        least.unwrap_or(self.uplink_mtu)
    }

    fn publish_neighbours(&mut self) {
        let rows = self.neighbours().into_iter().collect();
        self.control.neighbours.publish(rows);
    }

    /// Reads the kernel's tables and publishes what is new.
    pub(super) fn follow(&mut self, nodes: &[Ip]) {
        if let Err(error) = self.try_follow(nodes) {
            // What was known stays in force; the next change tries again.
            tracing::warn!(%error, "reading routes and neighbours");
        }
    }

    fn try_follow(&mut self, nodes: &[Ip]) -> Result<(), NetlinkError> {
        let lan_is_same = match &mut self.lan {
            Some(lan) => lan.hops.look_again()?,
            None => true,
        };
        if !lan_is_same || !self.hops.look_again()? {
            // Programs and sockets are the old device's, and headers name its address: only a new start helps.
            self.control.hops.publish(std::iter::empty().collect());
            self.is_over = true;
            return Ok(());
        }
        let own = self.hops.own_addresses()?;
        if own != self.own {
            match self.control.programs.set_own_addresses(&own) {
                Ok(()) => self.own = own,
                Err(error) => tracing::warn!(%error, "telling the XDP program our addresses"),
            }
        }
        if let Some(lan) = &mut self.lan {
            let ways = lan.hops.resolve(&lan.hosts)?;
            if ways != lan.ways {
                tracing::debug!(?ways, "hosts on the LAN changed");
                lan.ways = ways;
                self.publish_neighbours();
            }
        }
        let ways = self.hops.resolve(nodes)?;
        if ways != self.ways {
            tracing::debug!(?ways, "next hops changed");
            self.ways = ways;
            self.control
                .hops
                .publish(self.next_hops().into_iter().collect());
        }
        Ok(())
    }

    /// The next hops that are known.
    pub(super) fn next_hops(&self) -> BTreeMap<Ip, Hop> {
        self.ways
            .iter()
            .map(|(&node, way)| (node, way.hop))
            .collect()
    }

    /// Keeps the kernel's knowledge of the next hops in use from growing old. Called once a second.
    pub(super) fn confirm(&mut self) {
        self.seconds += 1;
        if let Some(lan) = &mut self.lan {
            lan.seek();
        }
        if !self.seconds.is_multiple_of(CONFIRM_S) {
            return;
        }
        let next: BTreeSet<Ip> = self.ways.values().map(|way| way.next).collect();
        for ip in next {
            if let Err(error) = self.hops.confirm(ip) {
                tracing::debug!(%error, "a next hop cannot be confirmed");
            }
        }
        if let Some(lan) = &mut self.lan {
            lan.probe();
        }
    }

    /// The lines of `sluice status`.
    pub(super) fn links(&self) -> Vec<String> {
        self.control
            .sides
            .iter()
            .map(|side| {
                let Missed {
                    no_buffer,
                    ring_full,
                    refused,
                    ..
                } = side.missed();
                match (no_buffer + ring_full, refused) {
                    (0, 0) => side.to_string(),
                    (lost, 0) => format!("{side}, {lost} missed"),
                    (lost, _) => format!("{side}, {lost} missed, {refused} refused"),
                }
            })
            .collect()
    }

    /// The sockets, read back from them.
    pub(super) fn sockets(&self) -> Vec<SocketRow> {
        self.control
            .sides
            .iter()
            .map(|side| {
                let Missed {
                    no_buffer,
                    ring_full,
                    refused,
                    fill_empty,
                } = side.missed();
                let polling = side.busy_polling().ok();
                let features = nic::xdp_features(side.device.index).ok().flatten();
                let features = features.unwrap_or_default();
                SocketRow {
                    device: side.device.name.clone(),
                    mode: side.mode.to_string(),
                    binding: side.binding.to_string(),
                    queues: side.queues,
                    ring: side.ring_entries,
                    busy_poll_us: polling.map(|(microseconds, _)| microseconds),
                    prefer_busy_poll: polling.map(|(_, is_preferred)| is_preferred),
                    page_bytes: side.page_bytes,
                    tx_metadata: features.tx_metadata_names(),
                    rx_metadata: features.rx_metadata_names(),
                    no_buffer,
                    ring_full,
                    refused,
                    fill_empty,
                }
            })
            .collect()
    }

    /// Puts what never came to a worker into `account`: frames that the programs dropped, and frames they steered to a
    /// socket that had no room for them.
    pub(super) fn count(&self, account: &Account) {
        let Ok(tallies) = self.control.programs.tallies() else {
            return;
        };
        for (reason, frames) in TALLIES.into_iter().zip(tallies) {
            account.set_dropped(reason, frames);
        }
        let mut missed = Missed::default();
        for side in &self.control.sides {
            let Missed {
                no_buffer,
                ring_full,
                ..
            } = side.missed();
            missed.no_buffer += no_buffer;
            missed.ring_full += ring_full;
        }
        account.set_dropped(DropReason::PoolEmpty, missed.no_buffer);
        account.set_dropped(DropReason::LinkFull, missed.ring_full);
        account
            .received
            .set(tallies.iter().sum::<u64>() + missed.no_buffer + missed.ring_full);
    }
}

/// What the hardware profile and the configuration say about the sockets.
fn queue_settings(sockets: &Settings) -> QueueSettings {
    let usual = QueueSettings::default();
    let microseconds = sockets.busy_poll_us.map_or(0, |it| it.get());
    QueueSettings {
        ring_entries: sockets.xsk_ring.map_or(usual.ring_entries, |it| it.get()),
        zero_copy: sockets.xsk_zero_copy.unwrap_or(usual.zero_copy),
        busy_poll: (microseconds > 0 && sockets.prefer_busy_poll == Some(true)).then(|| BusyPoll {
            microseconds,
            budget: sockets
                .busy_poll_budget
                .map_or(BUSY_POLL_BUDGET, |it| it.get()),
        }),
        batch: sockets
            .xsk_batch
            .map_or(usual.batch, |it| it.get() as usize),
    }
}

fn device(link: LinkState) -> Result<Device, Error> {
    let mac = link
        .mac
        .filter(|_| link.up)
        .ok_or_else(|| Error::NoEthernet(link.name.clone()))?;
    Ok(Device {
        name: link.name,
        index: link.index,
        mac,
        mtu: link.mtu,
    })
}
