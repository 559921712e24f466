//! The established-flow offload: the programs of `bpf/offload.c` attached, their maps written and read.
//!
//! Programs are attached by bpf_link: the kernel detaches them when this process is gone, unless they are pinned. What each map means is said in
//! `bpf/flow.h`; which flows are put there, and when they are taken out, is decided by control.

pub mod abi;

use crate::af_xdp::Mac;
use crate::bpf::pins::Links;
use crate::bpf::{self, BpfError, OBJECT, Verdict};
use abi::{Binding, FlowKey, FlowState, Grounds, Lease, Peer, Redirects, Settings};
use aya::maps::{Array, HashMap, Map, MapError, PerCpuArray};
use aya::programs::links::FdLink;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader, Pod, TestRun as _};
use sluice_wire as wire;
use std::collections::BTreeMap;
use std::path::Path;

pub(crate) const OUTBOUND: &str = "sluice_outbound";
const DECAP: &str = "sluice_decap";
pub(crate) const INBOUND: &str = "sluice_inbound";

/// `enum flow_counter`.
const COUNTERS: usize = 5;

/// The maps of `bpf/flow.h`, taken out of the object that the programs are in.
const MAPS: [&str; 6] = [
    "flow_bindings",
    "flow_states",
    "instance_versions",
    "flow_peers",
    "flow_lease",
    "flow_counters",
];

/// What the programs are told when they are loaded.
#[derive(Clone, Copy, Debug)]
pub struct OffloadSettings {
    pub tunnel_port: u16,
    /// The index and the Ethernet address of the device behind which local instances are.
    pub uplink: (u32, Mac),
    /// 1 or more.
    pub flows_max: u32,
}

/// Frames and layer-3 bytes since the programs were loaded.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counted {
    pub received: u64,
    pub received_bytes: u64,
    pub forwarded: u64,
    pub forwarded_bytes: u64,
    /// Of flows whose rows changed between the two halves of the inbound side.
    pub dropped: u64,
}

/// One flow as the programs need it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    pub id: u32,
    pub generation: u32,
    outbound: (FlowKey, Binding),
    inbound: (FlowKey, Binding),
}

impl Entry {
    /// A flow whose outbound packets come as `forward` and leave as `sent`, and whose inbound ones come as `reverse` and are
    /// delivered as `forward` reversed, as long as `grounds` hold.
    #[must_use]
    pub fn new(
        forward: &wire::FlowKey,
        sent: &wire::FlowKey,
        reverse: &wire::FlowKey,
        grounds: &Grounds,
    ) -> Self {
        Self {
            id: grounds.id,
            generation: grounds.generation,
            outbound: (
                FlowKey::outbound(forward),
                Binding::new(forward, sent, grounds),
            ),
            inbound: (
                FlowKey::inbound(reverse),
                Binding::new(reverse, &forward.reversed(), grounds),
            ),
        }
    }

    /// The same with the outer source port of its outbound packets, and the Ethernet address of its local instance, which
    /// only XDP needs.
    #[must_use]
    pub const fn by(mut self, lane: u16, mac: Mac) -> Self {
        self.outbound.1 = self.outbound.1.on_lane(lane).to_mac(mac);
        self.inbound.1 = self.inbound.1.to_mac(mac);
        self
    }

    /// The Ethernet address that inbound packets are delivered to by XDP.
    #[must_use]
    pub const fn mac(&self) -> Mac {
        self.inbound.1.mac()
    }

    /// The same, its inbound packets going straight into the namespace of the local instance: through the veth pair whose
    /// end on the host is `device`, and whose other end has the Ethernet address `mac`.
    #[must_use]
    pub const fn through(mut self, device: u32, mac: Mac) -> Self {
        self.inbound.1 = self.inbound.1.through(device, mac);
        self
    }

    /// What it rests on.
    #[must_use]
    pub const fn grounds(&self) -> &Grounds {
        self.outbound.1.grounds()
    }
}

/// The maps of the flows, and the programs where AF_XDP links have none. Dropping it detaches them.
#[derive(Debug)]
pub struct Offload {
    maps: BTreeMap<&'static str, Map>,
    redirects: Redirects,
    longest_inbound: u32,
    /// `None` when the links of AF_XDP hold them.
    programs: Option<Ebpf>,
    links: Links,
}

/// Gives `loader` what the programs of the offload are told.
pub(crate) fn prepare<'a>(loader: &mut EbpfLoader<'a>, globals: &'a Settings, flows_max: u32) {
    loader
        .override_global("offload_settings", globals, true)
        .map_max_entries("flow_bindings", flows_max.saturating_mul(2))
        .map_max_entries("flow_states", flows_max);
}

impl Offload {
    /// Loads the programs that go with a TUN link; nothing is attached, and nothing believed before
    /// [`Offload::set_lease`].
    ///
    /// # Errors
    /// Without privilege, or on a kernel that refuses them.
    pub fn load(settings: &OffloadSettings) -> Result<Self, BpfError> {
        let globals = Settings::new(settings.tunnel_port, settings.uplink);
        let mut loader = EbpfLoader::new();
        prepare(&mut loader, &globals, settings.flows_max);
        let mut ebpf = loader.load(OBJECT)?;
        load_classifiers(&mut ebpf)?;
        xdp(&mut ebpf)?.load().map_err(|source| BpfError::Verify {
            program: DECAP,
            source,
        })?;
        let mut offload = Self::fed_to(&mut ebpf)?;
        offload.programs = Some(ebpf);
        Ok(offload)
    }

    /// The maps of programs that are held elsewhere. They are believed from [`Offload::set_lease`] on.
    pub(crate) fn fed_to(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        let maps = MAPS.into_iter().map(|name| {
            let map = ebpf.take_map(name).ok_or(BpfError::Missing(name))?;
            Ok((name, map))
        });
        Ok(Self {
            maps: maps.collect::<Result<_, BpfError>>()?,
            redirects: Redirects::default(),
            longest_inbound: u32::MAX,
            programs: None,
            links: Links::default(),
        })
    }

    /// Takes up what comes in on the uplink, whose name and index are `device`.
    ///
    /// # Errors
    /// On Linux before 6.6, which cannot attach by bpf_link there.
    pub fn attach_uplink(&mut self, device: (&str, u32)) -> Result<(), BpfError> {
        let link = attach_classifier(self.programs()?, OUTBOUND, device, TcAttachType::Ingress)?;
        self.links.hold(link)
    }

    /// Takes up what comes in on an underlay device.
    ///
    /// # Errors
    /// When its driver has no XDP, another XDP program is there, or as for [`Offload::attach_uplink`].
    pub fn attach_underlay(&mut self, device: (&str, u32)) -> Result<(), BpfError> {
        // In this order nothing is unwrapped that nobody takes further.
        let link = attach_classifier(self.programs()?, INBOUND, device, TcAttachType::Ingress)?;
        self.links.hold(link)?;
        let program = xdp(self.programs()?)?;
        let link = bpf::attach_xdp(program, DECAP, device.1, XdpMode::Driver);
        // Dropped in the other order: XDP first.
        let attached = link.and_then(|link| self.links.hold_first(link));
        if attached.is_err() {
            self.links.drop_last();
        }
        attached
    }

    /// What is attached now and later stays so when this process is killed: pinned in `dir`, an empty directory of a BPF
    /// file system.
    ///
    /// # Errors
    /// When the kernel refuses; what could not be pinned is detached.
    pub fn survive(&mut self, dir: &Path) -> Result<(), BpfError> {
        self.links.survive(dir)
    }

    /// What may be done within XDP, from the next [`Offload::set_lease`] on.
    pub const fn set_redirects(&mut self, redirects: Redirects) {
        self.redirects = redirects;
    }

    /// Bytes of the longest packet that the service side takes, from the next [`Offload::set_lease`] on; at first, any.
    pub fn set_longest_inbound(&mut self, bytes: u16) {
        self.longest_inbound = u32::from(bytes);
    }

    /// Entries are believed until then; while `paused`, none is.
    ///
    /// # Errors
    /// When the kernel refuses the write, which it has no reason to.
    pub fn set_lease(&mut self, until_ns: u64, paused: bool) -> Result<(), BpfError> {
        let lease = Lease::new(until_ns, paused, self.redirects, self.longest_inbound);
        self.set("flow_lease", 0, lease)
    }

    /// Entries made with another version of the instance are not believed from now on.
    ///
    /// # Errors
    /// When the slot is not below [`abi::INSTANCES_MAX`].
    pub fn set_instance_version(&mut self, slot: u32, version: u32) -> Result<(), BpfError> {
        self.set("instance_versions", slot, version)
    }

    /// Writes a peer's row. Entries with its version must not exist yet: a row is not written at one stroke.
    ///
    /// # Errors
    /// When the slot is not below [`abi::PEERS_MAX`].
    pub fn set_peer(&mut self, slot: u32, peer: Peer) -> Result<(), BpfError> {
        self.set("flow_peers", slot, peer)
    }

    /// Installs a flow, or installs it anew.
    ///
    /// # Errors
    /// When there are `flows_max` already.
    pub fn insert(&mut self, entry: &Entry) -> Result<(), BpfError> {
        self.set("flow_states", entry.id, FlowState::new(entry.generation))?;
        let mut bindings = self.bindings()?;
        for (key, binding) in [entry.outbound, entry.inbound] {
            bindings
                .insert(key, binding, 0)
                .map_err(|source| BpfError::Map {
                    map: "flow_bindings",
                    source,
                })?;
        }
        Ok(())
    }

    /// Takes a flow out, both directions at once. What is between the two halves of the inbound side is still delivered,
    /// until [`Offload::remove`].
    ///
    /// # Errors
    /// When the kernel refuses, which it has no reason to.
    pub fn take_out(&mut self, entry: &Entry) -> Result<(), BpfError> {
        self.set("flow_states", entry.id, FlowState::default())
    }

    /// Takes a flow out and clears away what is left of it. A flow with the same key and other grounds stays.
    ///
    /// # Errors
    /// When the kernel refuses; the flow is taken out all the same.
    pub fn remove(&mut self, entry: &Entry) -> Result<(), BpfError> {
        self.take_out(entry)?;
        let mut bindings = self.bindings()?;
        for (key, _) in [entry.outbound, entry.inbound] {
            let removed = match bindings.get(&key, 0) {
                Ok(binding) if binding.grounds() == entry.grounds() => bindings.remove(&key),
                Ok(_) | Err(MapError::KeyNotFound) => Ok(()),
                Err(source) => Err(source),
            };
            removed.map_err(|source| BpfError::Map {
                map: "flow_bindings",
                source,
            })?;
        }
        Ok(())
    }

    /// The state of a flow.
    ///
    /// # Errors
    /// When `id` is not below `flows_max`.
    pub fn state(&self, id: u32) -> Result<FlowState, BpfError> {
        const MAP: &str = "flow_states";
        let failed = |source| BpfError::Map { map: MAP, source };
        let map = self.maps.get(MAP).ok_or(BpfError::Missing(MAP))?;
        let states: Array<_, FlowState> = Array::try_from(map).map_err(failed)?;
        states.get(&id, 0).map_err(failed)
    }

    /// # Errors
    /// When the kernel refuses to read the counters.
    pub fn counted(&self) -> Result<Counted, BpfError> {
        const MAP: &str = "flow_counters";
        let failed = |source| BpfError::Map { map: MAP, source };
        let map = self.maps.get(MAP).ok_or(BpfError::Missing(MAP))?;
        let counters: PerCpuArray<_, u64> = PerCpuArray::try_from(map).map_err(failed)?;
        let mut sums = [0; COUNTERS];
        for (index, sum) in (0..).zip(&mut sums) {
            *sum = counters.get(&index, 0).map_err(failed)?.iter().sum();
        }
        let [
            received,
            received_bytes,
            forwarded,
            forwarded_bytes,
            dropped,
        ] = sums;
        Ok(Counted {
            received,
            received_bytes,
            forwarded,
            forwarded_bytes,
            dropped,
        })
    }

    /// Runs the outbound program once on a frame that came in on the uplink (BPF_PROG_TEST_RUN), and returns what became of
    /// both. Nothing is sent: this is for tests.
    ///
    /// # Errors
    /// When the kernel refuses the frame.
    pub fn test_outbound(
        &mut self,
        frame: &[u8],
        uplink: u32,
    ) -> Result<(Verdict, Vec<u8>), BpfError> {
        // `struct __sk_buff`, of which only `ifindex` may be said.
        let mut context = [0; 192];
        context[40..44].copy_from_slice(&uplink.to_ne_bytes());
        let mut out = vec![0; frame.len() + 256];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let result = classifier(self.programs()?, OUTBOUND)?
            .test_run(options)
            .map_err(|source| BpfError::Verify {
                program: OUTBOUND,
                source,
            })?;
        out.truncate(result.data_size_out as usize);
        // `TC_ACT_*` of linux/pkt_cls.h.
        let verdict = match result.return_value.cast_signed() {
            -1 | 0 => Verdict::Pass,
            2 => Verdict::Drop,
            7 => Verdict::Redirect,
            _ => Verdict::Aborted,
        };
        Ok((verdict, out))
    }

    /// Runs the unwrapping program once on a frame of the underlay, and returns what became of both; in front of an
    /// unwrapped frame is the note for its other half, of 8 bytes. Nothing is delivered: this is for tests.
    ///
    /// # Errors
    /// When the kernel refuses the frame.
    pub fn test_decap(&mut self, frame: &[u8]) -> Result<(Verdict, Vec<u8>), BpfError> {
        let mut out = vec![0; frame.len() + 256];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        };
        let result =
            xdp(self.programs()?)?
                .test_run(options)
                .map_err(|source| BpfError::Verify {
                    program: DECAP,
                    source,
                })?;
        out.truncate(result.data_size_out as usize);
        // `enum xdp_action`.
        let verdict = match result.return_value {
            1 => Verdict::Drop,
            2 => Verdict::Pass,
            _ => Verdict::Aborted,
        };
        Ok((verdict, out))
    }

    fn set<T: Pod>(&mut self, map: &'static str, index: u32, value: T) -> Result<(), BpfError> {
        let failed = |source| BpfError::Map { map, source };
        let inner = self.maps.get_mut(map).ok_or(BpfError::Missing(map))?;
        let mut array: Array<_, T> = Array::try_from(inner).map_err(failed)?;
        array.set(index, value, 0).map_err(failed)
    }

    fn bindings(&mut self) -> Result<HashMap<&mut aya::maps::MapData, FlowKey, Binding>, BpfError> {
        const MAP: &str = "flow_bindings";
        let map = self.maps.get_mut(MAP).ok_or(BpfError::Missing(MAP))?;
        HashMap::try_from(map).map_err(|source| BpfError::Map { map: MAP, source })
    }

    fn programs(&mut self) -> Result<&mut Ebpf, BpfError> {
        self.programs.as_mut().ok_or(BpfError::Missing(DECAP))
    }
}

/// Loads what runs in tc.
pub(crate) fn load_classifiers(ebpf: &mut Ebpf) -> Result<(), BpfError> {
    for program in [OUTBOUND, INBOUND] {
        let refused = |source| BpfError::Verify { program, source };
        classifier(ebpf, program)?.load().map_err(refused)?;
    }
    Ok(())
}

/// Attaches a program of tc to the device of that name and index, before all others.
pub(crate) fn attach_classifier(
    ebpf: &mut Ebpf,
    name: &'static str,
    (device, index): (&str, u32),
    side: TcAttachType,
) -> Result<FdLink, BpfError> {
    let failed = |source| BpfError::Attach {
        program: name,
        device: index,
        source,
    };
    let program = classifier(ebpf, name)?;
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program
        .attach_with_options(device, side, first)
        .map_err(failed)?;
    let link = program.take_link(id).map_err(failed)?;
    FdLink::try_from(link).map_err(|_| BpfError::NoLink)
}

fn classifier<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, BpfError> {
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(BpfError::Missing(name))
}

fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp, BpfError> {
    ebpf.program_mut(DECAP)
        .and_then(|program| program.try_into().ok())
        .ok_or(BpfError::Missing(DECAP))
}
