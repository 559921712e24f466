//! What a network device can do and is told to do, by generic netlink: offloads (`ethtool`) and XDP modes (`netdev`).
//!
//! Layouts are those of `include/uapi/linux/ethtool_netlink.h` and `netdev.h`; unlike nf_tables, numbers have the
//! machine's byte order.

use super::netlink::{NetlinkError, generic};
use super::nft::attribute::{Attributes, native, read, text};
use rustix::io::Errno;

/// One offload switch of a device, as `ethtool -k` lists it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Offload {
    /// The kernel's name, like `tx-tcp-segmentation`.
    pub(crate) name: String,
    pub(crate) on: bool,
    /// Whether somebody asked for it; it is off all the same while another one that it needs is off.
    pub(crate) wanted: bool,
    /// Whether it can be switched.
    pub(crate) changeable: bool,
}

/// What a driver offers to XDP programs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct XdpModes {
    /// Programs run in the driver, before the kernel makes a packet buffer.
    pub(crate) native: bool,
    /// AF_XDP without copying (`NETDEV_XDP_ACT_XSK_ZEROCOPY`).
    pub(crate) zero_copy: bool,
    /// The card computes checksums that an AF_XDP frame's metadata asks for (`NETDEV_XSK_FLAGS_TX_CHECKSUM`).
    pub(crate) tx_checksum: bool,
}

/// What a driver offers to XDP programs and to AF_XDP, in the bits of linux/netdev.h. Older kernels do not tell: then a word
/// is 0.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct XdpFeatures {
    /// `enum netdev_xdp_act`; since Linux 6.3.
    pub(crate) actions: u64,
    /// `enum netdev_xdp_rx_metadata`: what a program can read of a received frame; since Linux 6.6.
    pub(crate) rx_metadata: u64,
    /// `enum netdev_xsk_flags`: what a frame to send can ask for; since Linux 6.8.
    pub(crate) tx_metadata: u64,
}

impl XdpFeatures {
    /// Of a reply to `DEVICE_GET`; `None` when it says nothing about XDP.
    fn of(reply: &[u8]) -> Option<Self> {
        let word = |wanted: u16| {
            let mut attributes = body(reply);
            let (_, value) = attributes.find(|(kind, _)| *kind == wanted)?;
            native(value)
        };
        Some(Self {
            actions: word(3)?,
            rx_metadata: word(5).unwrap_or(0),
            tx_metadata: word(6).unwrap_or(0),
        })
    }

    /// Names of what a program can read of a received frame.
    pub(crate) fn rx_metadata_names(self) -> Vec<&'static str> {
        names(self.rx_metadata, &["timestamp", "hash", "vlan-tag"])
    }

    /// Names of what a frame to send can ask for.
    pub(crate) fn tx_metadata_names(self) -> Vec<&'static str> {
        names(self.tx_metadata, &["timestamp", "checksum", "launch-time"])
    }
}

/// The name of each bit that is set, from the lowest on.
fn names(bits: u64, of_bits: &[&'static str]) -> Vec<&'static str> {
    let named = (0..).zip(of_bits);
    named
        .filter_map(|(bit, name)| (bits >> bit & 1 != 0).then_some(*name))
        .collect()
}

const CONTROLLER: u16 = 16;
const REQUEST_ACKNOWLEDGED: u16 = 1 | 4;

const GET_FAMILY: u8 = 3;
const FEATURES_GET: u8 = 11;
const FEATURES_SET: u8 = 12;
const DEVICE_GET: u8 = 1;

/// `NETDEV_XDP_ACT_BASIC` and `NETDEV_XDP_ACT_XSK_ZEROCOPY`.
const XDP_BASIC: u64 = 1;
const XDP_ZERO_COPY: u64 = 8;
/// `NETDEV_XSK_FLAGS_TX_CHECKSUM`.
const TX_CHECKSUM: u64 = 2;

/// The offloads of a device of the caller's namespace.
///
/// # Errors
/// When there is no such device, or the kernel (before 5.7) does not answer.
pub(crate) fn offloads(device: &str) -> Result<Vec<Offload>, NetlinkError> {
    let what = format!("reading the offloads of {device}");
    let request = message(
        family("ethtool")?,
        FEATURES_GET,
        &Attributes::new().nested(1, &Attributes::new().text(2, device)),
    );
    let mut found = Vec::new();
    generic(&request, &what, |reply| {
        let attribute = |wanted: u16| {
            body(reply)
                .find(|(kind, _)| *kind == wanted)
                .map(|(_, value)| set_bits(value))
                .unwrap_or_default()
        };
        let (wanted, active, fixed) = (attribute(3), attribute(4), attribute(5));
        // The first set lists every feature with its name; the others only those that are set.
        let all = body(reply).find(|(kind, _)| *kind == 2);
        for (name, changeable) in all.map(|(_, value)| bits(value)).unwrap_or_default() {
            found.push(Offload {
                on: active.contains(&name),
                wanted: wanted.contains(&name),
                changeable: changeable && !fixed.contains(&name),
                name,
            });
        }
    })?;
    Ok(found)
}

/// Switches offloads by name; the others stay. The kernel may still keep one off that depends on another.
///
/// # Errors
/// When there is no such device or offload, or the caller may not.
pub(crate) fn set_offloads(device: &str, wanted: &[(String, bool)]) -> Result<(), NetlinkError> {
    let mut bits = Attributes::new();
    for (name, on) in wanted {
        let bit = Attributes::new().text(2, name);
        bits = bits.nested(1, &if *on { bit.bytes(3, &[]) } else { bit });
    }
    let attributes = Attributes::new()
        .nested(1, &Attributes::new().text(2, device))
        .nested(3, &Attributes::new().nested(3, &bits));
    generic(
        &message(family("ethtool")?, FEATURES_SET, &attributes),
        &format!("setting offloads of {device}"),
        |_| (),
    )
}

/// The XDP modes of a driver; `None` where the kernel (before 6.3) does not tell.
///
/// # Errors
/// When there is no such device.
pub(crate) fn xdp_modes(index: u32) -> Result<Option<XdpModes>, NetlinkError> {
    Ok(xdp_features(index)?.map(|features| XdpModes {
        native: features.actions & XDP_BASIC != 0,
        zero_copy: features.actions & XDP_ZERO_COPY != 0,
        tx_checksum: features.tx_metadata & TX_CHECKSUM != 0,
    }))
}

/// All that a driver offers to XDP programs; `None` as for [`xdp_modes`].
///
/// # Errors
/// When there is no such device.
pub(crate) fn xdp_features(index: u32) -> Result<Option<XdpFeatures>, NetlinkError> {
    let id = match family("netdev") {
        Err(error) if error.errno() == Some(Errno::NOENT) => return Ok(None),
        other => other?,
    };
    let request = message(id, DEVICE_GET, &Attributes::new().native_u32(1, index));
    let mut found = None;
    generic(&request, "reading the XDP modes of a device", |reply| {
        found = XdpFeatures::of(reply);
    })?;
    Ok(found)
}

/// The number the kernel gave a family of messages.
pub(crate) fn family(name: &str) -> Result<u16, NetlinkError> {
    let what = format!("asking for the netlink family {name}");
    let mut id = None;
    let request = message(CONTROLLER, GET_FAMILY, &Attributes::new().text(2, name));
    generic(&request, &what, |reply| {
        id = body(reply)
            .find(|(kind, _)| *kind == 1)
            .and_then(|(_, value)| value.try_into().ok())
            .map(u16::from_ne_bytes);
    })?;
    id.ok_or(NetlinkError::Answer { what })
}

/// A request with sequence number 1, to be acknowledged.
pub(crate) fn message(family: u16, command: u8, attributes: &Attributes) -> Vec<u8> {
    let body = attributes.as_bytes();
    let length = u32::try_from(20 + body.len()).unwrap_or(u32::MAX);
    let mut out = length.to_ne_bytes().to_vec();
    out.extend_from_slice(&family.to_ne_bytes());
    out.extend_from_slice(&REQUEST_ACKNOWLEDGED.to_ne_bytes());
    out.extend_from_slice(&1_u32.to_ne_bytes());
    out.extend_from_slice(&[0; 4]);
    // The command, its version, and two reserved bytes.
    out.extend_from_slice(&[command, 1, 0, 0]);
    out.extend_from_slice(body);
    out
}

/// After the netlink header (16 bytes) comes genlmsghdr (4 bytes), then attributes.
pub(crate) fn body(reply: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    read(reply.get(20..).unwrap_or_default())
}

/// The named bits of a bit set, each with whether it is set.
fn bits(set: &[u8]) -> Vec<(String, bool)> {
    // Without a mask, a bit is listed because it is set.
    let listed_is_set = read(set).any(|(kind, _)| kind == 1);
    let Some((_, bits)) = read(set).find(|(kind, _)| *kind == 3) else {
        return Vec::new();
    };
    read(bits)
        .filter_map(|(_, bit)| {
            let name = read(bit).find(|(kind, _)| *kind == 2)?.1;
            let value = read(bit).any(|(kind, _)| kind == 3);
            Some((text(name)?, listed_is_set || value))
        })
        .collect()
}

fn set_bits(set: &[u8]) -> Vec<String> {
    bits(set)
        .into_iter()
        .filter_map(|(name, set)| set.then_some(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attributes as Linux 6.18 sends them for a driver with everything, and Linux 6.3 for any: index, padding, words.
    #[test]
    fn features_are_read_by_name_and_missing_words_are_none() {
        let word = |value: u64| value.to_ne_bytes();
        let old = Attributes::new().native_u32(1, 7).bytes(3, &word(0x5));
        let new = Attributes::new()
            .native_u32(1, 7)
            .bytes(3, &word(0x7f))
            .native_u32(4, 17)
            .bytes(5, &word(0x5))
            .bytes(6, &word(0x2));
        let features = |attributes| XdpFeatures::of(&message(0, DEVICE_GET, attributes));
        let older = features(&old).unwrap();
        assert_eq!((older.actions, older.tx_metadata_names().len()), (5, 0));
        let newer = features(&new).unwrap();
        assert_eq!(newer.actions, 0x7f);
        assert_eq!(newer.rx_metadata_names(), ["timestamp", "vlan-tag"]);
        assert_eq!(newer.tx_metadata_names(), ["checksum"]);
        assert_eq!(features(&Attributes::new().native_u32(1, 7)), None);
    }

    #[test]
    fn a_bit_is_set_by_its_flag_or_by_being_listed() {
        let bit = |name: &str, set: bool| {
            let bit = Attributes::new().text(2, name);
            if set { bit.bytes(3, &[]) } else { bit }
        };
        let listed = Attributes::new()
            .nested(1, &bit("rx-gro", true))
            .nested(1, &bit("rx-lro", false));
        let masked = Attributes::new().nested(3, &listed);
        assert_eq!(set_bits(masked.as_bytes()), ["rx-gro"]);
        let unmasked = Attributes::new().bytes(1, &[]).nested(3, &listed);
        assert_eq!(set_bits(unmasked.as_bytes()), ["rx-gro", "rx-lro"]);
    }
}
