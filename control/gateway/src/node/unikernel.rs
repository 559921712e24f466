//! Unikernels: a namespace of our own making, with a bridge and a tap device for the guest and its address translated.
//!
//! The guest always has 192.168.1.2 behind the bridge's 192.168.1.1/30; outside it is the instance's NsIP. Only IPv4
//! reaches the guest, as with Oakestra; the namespace itself answers on its NsIPv6.

use std::fs::OpenOptions;

use rustix::ioctl::{IntegerSetter, Setter, ioctl, opcode};
use sluice_proto::alloc::Reading;
use sluice_wire::{Ip, Subnet};

use super::attach::{Attachment, Request};
use super::devices::Devices;
use super::namespace::{Namespace, Workload};
use super::nft::{BaseChain, Batch, Hook, Rule, TableFamily};
use super::{NodeError, NodeNet, present, sysctl};

const BRIDGE: &str = "virbr0";
const TAP: &str = "tap0";
const BRIDGE_ADDRESS: Ip = Ip::v4([192, 168, 1, 1]);
const GUEST: Ip = Ip::v4([192, 168, 1, 2]);
const GUEST_NETWORK: Ip = Ip::v4([192, 168, 1, 0]);
const GUEST_LENGTH: u8 = 30;
const TABLE: &str = "sluice-guest";

impl NodeNet {
    /// Makes the namespace `<service>.instance.<n>`, attaches it and prepares the guest's network in it. The guest is
    /// started there by whoever asked.
    ///
    /// # Errors
    /// Names what stands in the way; nothing is left of the attempt.
    pub fn attach_unikernel(
        &mut self,
        request: Request,
        now: &Reading,
    ) -> Result<Attachment, NodeError> {
        let instance = request.instance.clone();
        let name = format!("{}.instance.{}", instance.service, instance.instance_number);
        if let Some(known) = self
            .attachments()
            .iter()
            .find(|known| known.instance == instance)
        {
            return Err(NodeError::AlreadyAttached(known.instance.clone()));
        }
        // A leftover of a crash; nobody has it attached.
        Namespace::delete_named(&name)?;
        let workload = Workload {
            namespace: Namespace::create_named(&name)?,
            process: None,
        };
        let attached = self
            .attach_inner(request, &workload, Some(name.clone()), now)
            .cloned();
        let attachment = match attached {
            Ok(attachment) => attachment,
            Err(error) => {
                Namespace::delete_named(&name)?;
                return Err(error);
            }
        };
        let mtu = self.wiring.mtu;
        let wired = workload
            .namespace
            .run(|| wire_guest(&attachment, mtu))
            .map_err(NodeError::from)
            .flatten();
        if let Err(error) = wired {
            self.detach(&instance, now)?;
            return Err(error);
        }
        Ok(attachment)
    }
}

fn wire_guest(attachment: &Attachment, mtu: u32) -> Result<(), NodeError> {
    sysctl::forwarding()?;
    let mut devices = Devices::open()?;
    devices.create_bridge(BRIDGE, [0x52, 0xb1, 192, 168, 1, 1], mtu)?;
    let bridge = present(&mut devices, BRIDGE)?;
    devices.set_up(bridge.index, None, None)?;
    devices.add_address(bridge.index, BRIDGE_ADDRESS, GUEST_LENGTH, true)?;
    create_tap(TAP).map_err(|source| NodeError::Guest {
        instance: attachment.instance.clone(),
        source,
    })?;
    let tap = present(&mut devices, TAP)?;
    devices.set_port(tap.index, bridge.index, false)?;
    devices.set_up(tap.index, Some(mtu), None)?;
    let Some(address) = attachment.ns_address else {
        return Ok(());
    };
    let guests = Subnet::new(GUEST_NETWORK, GUEST_LENGTH)
        .unwrap_or_else(|_| unreachable!("the guest network is valid"));
    let mut batch = Batch::new();
    batch.fresh_table(TableFamily::Ip, TABLE);
    for (name, hook, priority) in [
        ("prerouting", Hook::Prerouting, -100),
        ("postrouting", Hook::Postrouting, 100),
    ] {
        let chain = BaseChain {
            name,
            kind: "nat",
            hook,
            priority,
            policy_drop: false,
        };
        batch.chain(TableFamily::Ip, TABLE, &chain);
    }
    let inward = Rule::new()
        .in_device(&attachment.instance_device)
        .destination_is_local()
        .translate_destination_address(GUEST);
    batch.append(TableFamily::Ip, TABLE, "prerouting", &inward);
    let outward = Rule::new()
        .out_device(&attachment.instance_device)
        .source_in(guests)
        .translate_source_address(address.into());
    batch.append(TableFamily::Ip, TABLE, "postrouting", &outward);
    batch.commit("translating the guest's address")?;
    Ok(())
}

/// `struct ifreq` as far as `TUNSETIFF` reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// A tap device that outlives the descriptor, for the guest's monitor to open. By ioctl: netlink cannot make one.
fn create_tap(name: &str) -> std::io::Result<()> {
    const IFF_TAP: u16 = 0x0002;
    const IFF_NO_PI: u16 = 0x1000;
    const SET_INTERFACE: u32 = opcode::write::<i32>(b'T', 202);
    const SET_PERSISTENT: u32 = opcode::write::<i32>(b'T', 203);
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: IFF_TAP | IFF_NO_PI,
        rest: [0; 22],
    };
    for (to, from) in request.name.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // SAFETY: TUNSETIFF takes a pointer to `struct ifreq`, whose 40 bytes `InterfaceRequest` has.
    let interface = unsafe { Setter::<SET_INTERFACE, InterfaceRequest>::new(request) };
    // SAFETY: the opcode and its argument belong together, see the line above.
    unsafe { ioctl(&tun, interface) }?;
    // SAFETY: TUNSETPERSIST takes its argument by value.
    let persistent = unsafe { IntegerSetter::<SET_PERSISTENT>::new_usize(1) };
    // SAFETY: the opcode and its argument belong together, see the line above.
    unsafe { ioctl(&tun, persistent) }?;
    Ok(())
}
