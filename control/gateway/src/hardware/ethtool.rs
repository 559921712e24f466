//! Rings, channels and moderation by the ethtool family (Documentation/networking/ethtool-netlink.rst).

use crate::node::netlink::{NetlinkError, generic};
use crate::node::nft::attribute::{Attributes, native};
use crate::node::nic::{body, family, message};
use rustix::io::Errno;

/// The header of every message, and the interface's number in it.
const HEADER: u16 = 1;
const HEADER_DEV_INDEX: u16 = 1;

const RINGS_GET: u8 = 15;
const RINGS_SET: u8 = 16;
const CHANNELS_GET: u8 = 17;
const CHANNELS_SET: u8 = 18;
const COALESCE_GET: u8 = 19;
const COALESCE_SET: u8 = 20;

/// Where a number stands: in which message, as which attribute.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Number {
    get: u8,
    set: u8,
    attribute: u16,
    /// The attribute with the device's maximum.
    max: Option<u16>,
    /// One byte wide, as switches are; else four.
    byte: bool,
}

impl Number {
    /// The message that sets it.
    pub(super) const fn message(self) -> u8 {
        self.set
    }

    const fn ring(attribute: u16, max: u16) -> Self {
        Self {
            get: RINGS_GET,
            set: RINGS_SET,
            attribute,
            max: Some(max),
            byte: false,
        }
    }

    const fn coalesce(attribute: u16, byte: bool) -> Self {
        Self {
            get: COALESCE_GET,
            set: COALESCE_SET,
            attribute,
            max: None,
            byte,
        }
    }

    pub(super) const RX_RING: Self = Self::ring(6, 2);
    pub(super) const TX_RING: Self = Self::ring(9, 5);
    pub(super) const RX_USECS: Self = Self::coalesce(2, false);
    pub(super) const TX_USECS: Self = Self::coalesce(6, false);
    pub(super) const ADAPTIVE_RX: Self = Self::coalesce(11, true);
    pub(super) const ADAPTIVE_TX: Self = Self::coalesce(12, true);
}

/// How many queues a device uses and could use.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Channels {
    /// Queue pairs; `None` where the device has separate receive and send queues.
    pub(super) combined: Option<u64>,
    pub(super) rx: u64,
    pub(super) tx: u64,
    pub(super) max: u64,
}

/// The ethtool messages of one interface.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ethtool {
    family: u16,
    index: u32,
}

impl Ethtool {
    /// `None` where the kernel has no such family: before Linux 5.6.
    pub(super) fn open(index: u32) -> Result<Option<Self>, NetlinkError> {
        match family("ethtool") {
            Ok(family) => Ok(Some(Self { family, index })),
            Err(error) if error.errno() == Some(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The number, if the device has it, and its maximum, if there is one.
    pub(super) fn number(
        &self,
        number: Number,
    ) -> Result<(Option<u64>, Option<u64>), NetlinkError> {
        let reply = self.get(number.get)?;
        let of = |kind| find(&reply, kind);
        Ok((of(number.attribute), number.max.and_then(of)))
    }

    /// Sets numbers of one message together: a device may stop for each message.
    pub(super) fn set_numbers(&self, numbers: &[(Number, u32)]) -> Result<(), NetlinkError> {
        let Some((first, _)) = numbers.first() else {
            return Ok(());
        };
        let attributes = numbers
            .iter()
            .fold(self.header(), |attributes, (number, value)| {
                match (number.byte, u8::try_from(*value)) {
                    (true, Ok(value)) => attributes.native_u8(number.attribute, value),
                    _ => attributes.native_u32(number.attribute, *value),
                }
            });
        self.request(first.set, &attributes).map(drop)
    }

    pub(super) fn channels(&self) -> Result<Channels, NetlinkError> {
        let reply = self.get(CHANNELS_GET)?;
        let of = |kind| find(&reply, kind).unwrap_or(0);
        let (rx_max, tx_max, combined_max) = (of(2), of(3), of(5));
        Ok(Channels {
            combined: (combined_max > 0).then(|| of(9)),
            rx: of(6),
            tx: of(7),
            max: if combined_max > 0 {
                combined_max
            } else {
                rx_max.min(tx_max)
            },
        })
    }

    /// `combined` of its queue pairs, or as many receive and send queues as given.
    pub(super) fn set_channels(
        &self,
        combined: bool,
        rx: u32,
        tx: u32,
    ) -> Result<(), NetlinkError> {
        let attributes = if combined {
            self.header().native_u32(9, rx)
        } else {
            self.header().native_u32(6, rx).native_u32(7, tx)
        };
        self.request(CHANNELS_SET, &attributes).map(drop)
    }

    fn header(&self) -> Attributes {
        let header = Attributes::new().native_u32(HEADER_DEV_INDEX, self.index);
        Attributes::new().nested(HEADER, &header)
    }

    /// The numbers of the one reply.
    fn get(&self, command: u8) -> Result<Vec<(u16, u64)>, NetlinkError> {
        self.request(command, &self.header())
    }

    fn request(
        &self,
        command: u8,
        attributes: &Attributes,
    ) -> Result<Vec<(u16, u64)>, NetlinkError> {
        let what = match command {
            RINGS_GET | RINGS_SET => "rings",
            CHANNELS_GET | CHANNELS_SET => "channels",
            _ => "moderation",
        };
        let mut found = Vec::new();
        generic(&message(self.family, command, attributes), what, |reply| {
            found.extend(body(reply).filter_map(|(kind, value)| Some((kind, native(value)?))));
        })?;
        Ok(found)
    }
}

fn find(numbers: &[(u16, u64)], kind: u16) -> Option<u64> {
    numbers
        .iter()
        .find(|(found, _)| *found == kind)
        .map(|(_, value)| *value)
}
