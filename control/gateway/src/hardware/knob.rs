//! Reads and sets one setting of an interface, as text: whichever way the kernel has for it.

use super::device::Device;
use super::ethtool::{Ethtool, Number};
use super::interrupts;
use crate::node::netlink::NetlinkError;
use crate::node::nic::{self, Offload};
use sluice_hw_profiles::Key;
use sluice_link::sys::ethtool::{self as ioctl, FlowType, HASH_ADDRESSES, HASH_PORTS};
use std::io;
use std::path::{Path, PathBuf};

/// Why a setting was not read or made, for people.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Refused(pub(super) String);

impl From<NetlinkError> for Refused {
    fn from(error: NetlinkError) -> Self {
        match error.errno() {
            Some(rustix::io::Errno::OPNOTSUPP) => Self("the driver does not have it".to_owned()),
            _ => Self(error.to_string()),
        }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            // EOPNOTSUPP has two names in std, and one number here.
            Some(95) => Self("the driver does not have it".to_owned()),
            _ => Self(error.to_string()),
        }
    }
}

/// The settings of one interface.
#[derive(Debug)]
pub(super) struct Knobs<'a> {
    device: &'a Device,
    ethtool: Option<Ethtool>,
}

/// How a key is read and set.
enum Way {
    Number(Number),
    /// A [`Number`] that is 0 or 1.
    Switch(Number),
    /// Offloads by the kernel's names: those that the device has are on or off together, as `ethtool -K` does it.
    Features(&'static [&'static str]),
    /// A file below the interface in sysfs.
    File(&'static str),
    FileSwitch(&'static str),
    Channels,
    Hash,
    Table,
    Interrupts,
    /// A socket's; nobody but the link reads it.
    Socket,
}

impl Way {
    /// The ethtool number it is, also of a switch.
    const fn number(&self) -> Option<Number> {
        if let Self::Number(number) | Self::Switch(number) = self {
            Some(*number)
        } else {
            None
        }
    }
}

const fn way(key: Key) -> Way {
    match key {
        Key::Queues => Way::Channels,
        Key::RxRing => Way::Number(Number::RX_RING),
        Key::TxRing => Way::Number(Number::TX_RING),
        Key::AdaptiveRx => Way::Switch(Number::ADAPTIVE_RX),
        Key::AdaptiveTx => Way::Switch(Number::ADAPTIVE_TX),
        Key::RxUsecs => Way::Number(Number::RX_USECS),
        Key::TxUsecs => Way::Number(Number::TX_USECS),
        Key::RxChecksum => Way::Features(&["rx-checksum"]),
        Key::TxChecksum => Way::Features(&[
            "tx-checksum-ipv4",
            "tx-checksum-ip-generic",
            "tx-checksum-ipv6",
        ]),
        Key::Tso => Way::Features(&[
            "tx-tcp-segmentation",
            "tx-tcp6-segmentation",
            "tx-tcp-ecn-segmentation",
            "tx-tcp-accecn-segmentation",
            "tx-tcp-mangleid-segmentation",
        ]),
        Key::Gso => Way::Features(&["tx-generic-segmentation"]),
        Key::Gro => Way::Features(&["rx-gro"]),
        Key::Lro => Way::Features(&["rx-lro"]),
        Key::RxGroHw => Way::Features(&["rx-gro-hw"]),
        Key::RxVlan => Way::Features(&["rx-vlan-hw-parse"]),
        Key::RssHash => Way::Hash,
        Key::RssTable => Way::Table,
        Key::NapiDeferHardIrqs => Way::File("napi_defer_hard_irqs"),
        Key::GroFlushTimeoutNs => Way::File("gro_flush_timeout"),
        Key::ThreadedNapi => Way::FileSwitch("threaded"),
        Key::IrqAffinity => Way::Interrupts,
        Key::XskRing
        | Key::XskBatch
        | Key::XskZeroCopy
        | Key::XskHugepages
        | Key::BusyPollUs
        | Key::BusyPollBudget
        | Key::PreferBusyPoll => Way::Socket,
    }
}

const NOT_HERE: &str = "the interface does not have it";

impl<'a> Knobs<'a> {
    pub(super) fn new(device: &'a Device) -> Result<Self, NetlinkError> {
        Ok(Self {
            device,
            ethtool: Ethtool::open(device.index)?,
        })
    }

    /// The value that the kernel has now.
    pub(super) fn read(&self, key: Key) -> Result<String, Refused> {
        let interface = &self.device.facts.interface;
        match way(key) {
            Way::Number(number) => Ok(self.number(number)?.to_string()),
            Way::Switch(number) => Ok(on_off(self.number(number)? != 0)),
            Way::Features(names) => {
                let offloads = offloads(interface, names)?;
                Ok(features_text(&offloads))
            }
            Way::File(file) => Ok(std::fs::read_to_string(self.file(file)?)?.trim().to_owned()),
            Way::FileSwitch(file) => {
                let text = std::fs::read_to_string(self.file(file)?)?;
                Ok(on_off(text.trim() != "0"))
            }
            Way::Channels => {
                let channels = self.ethtool()?.channels()?;
                Ok(match channels.combined {
                    Some(combined) => combined.to_string(),
                    None if channels.rx == channels.tx => channels.rx.to_string(),
                    None => format!("{}/{}", channels.rx, channels.tx),
                })
            }
            Way::Hash => Ok(hash_text(ioctl::hash_fields(interface, FlowType::UdpV4)?)),
            Way::Table => {
                let table = ioctl::indirection(interface)?;
                let queues = table.iter().max().map_or(1, |max| max + 1);
                // The driver's default, over all queues in use (ethtool_rxfh_indir_default).
                let equal = self
                    .receive_queues()
                    .is_none_or(|in_use| in_use == u64::from(queues))
                    && (0..)
                        .zip(&table)
                        .all(|(at, &queue): (u32, _)| queue == at % queues);
                Ok(if equal {
                    "equal".to_owned()
                } else {
                    table
                        .iter()
                        .map(u32::to_string)
                        .collect::<Vec<_>>()
                        .join(",")
                })
            }
            Way::Interrupts => {
                let found = self.interrupts()?;
                Ok(interrupts::text(Path::new("/proc"), &found)?)
            }
            Way::Socket => Err(Refused(NOT_HERE.to_owned())),
        }
    }

    /// Sets values; those of one ethtool message go together, because a NIC may stop for each. Returns what was
    /// refused, key by key.
    pub(super) fn write(&self, values: &[(Key, String)]) -> Vec<(Key, Refused)> {
        let mut refused = Vec::new();
        let mut rest = values;
        while let Some(((key, value), others)) = rest.split_first() {
            let group: Vec<&(Key, String)> = rest
                .iter()
                .take_while(|other| together(*key, other.0))
                .collect();
            if group.len() > 1 && self.write_group(&group).is_ok() {
                rest = &rest[group.len()..];
                continue;
            }
            if let Err(error) = self.write_one(*key, value) {
                refused.push((*key, error));
            }
            rest = others;
        }
        refused
    }

    fn write_group(&self, group: &[&(Key, String)]) -> Result<(), Refused> {
        let numbers: Option<Vec<(Number, u32)>> = group
            .iter()
            .map(|(key, value)| {
                let number = way(*key).number()?;
                let value = match value.as_str() {
                    "on" => 1,
                    "off" => 0,
                    value => value.parse().ok()?,
                };
                Some((number, value))
            })
            .collect();
        let numbers = numbers.ok_or_else(|| Refused(NOT_HERE.to_owned()))?;
        Ok(self.ethtool()?.set_numbers(&numbers)?)
    }

    fn write_one(&self, key: Key, value: &str) -> Result<(), Refused> {
        let interface = &self.device.facts.interface;
        let on = value == "on";
        let number_of = |text: &str| {
            text.parse::<u32>()
                .map_err(|_| Refused(format!("`{text}` is no number")))
        };
        match way(key) {
            Way::Number(number) => {
                let wanted = number_of(value)?;
                let set = self.ethtool()?.set_numbers(&[(number, wanted)]);
                match (set, self.ethtool()?.number(number)) {
                    (Err(_), Ok((_, Some(max)))) if u64::from(wanted) > max => {
                        Err(Refused(format!("the device takes at most {max}")))
                    }
                    (set, _) => Ok(set?),
                }
            }
            Way::Switch(number) => Ok(self.ethtool()?.set_numbers(&[(number, u32::from(on))])?),
            Way::Features(names) => {
                let wanted: Vec<(String, bool)> = offloads(interface, names)?
                    .into_iter()
                    .filter(|it| it.changeable)
                    .map(|it| {
                        let on = on || value.split('+').any(|name| name == it.name);
                        (it.name, on)
                    })
                    .collect();
                if wanted.is_empty() {
                    return Err(Refused("the driver cannot change it".to_owned()));
                }
                Ok(nic::set_offloads(interface, &wanted)?)
            }
            Way::File(file) => Ok(std::fs::write(self.file(file)?, value)?),
            Way::FileSwitch(file) => Ok(std::fs::write(
                self.file(file)?,
                if on { "1" } else { "0" },
            )?),
            Way::Channels => {
                let (rx, tx) = value.split_once('/').unwrap_or((value, value));
                let (rx, tx) = (number_of(rx)?, number_of(tx)?);
                let channels = self.ethtool()?.channels()?;
                let set = self
                    .ethtool()?
                    .set_channels(channels.combined.is_some(), rx, tx);
                if set.is_err() && u64::from(rx.max(tx)) > channels.max {
                    return Err(Refused(format!(
                        "the device takes at most {}",
                        channels.max
                    )));
                }
                Ok(set?)
            }
            Way::Hash => {
                let fields = hash_fields(value)?;
                ioctl::set_hash_fields(interface, FlowType::UdpV4, fields)?;
                // A device that hashes IPv4 only is right for IPv4.
                if ioctl::hash_fields(interface, FlowType::UdpV6).is_ok() {
                    ioctl::set_hash_fields(interface, FlowType::UdpV6, fields)?;
                }
                Ok(())
            }
            Way::Table => {
                let table: Vec<u32> = match value {
                    "equal" => Vec::new(),
                    table => table.split(',').map(number_of).collect::<Result<_, _>>()?,
                };
                Ok(ioctl::set_indirection(interface, &table)?)
            }
            Way::Interrupts => Ok(interrupts::set(Path::new("/proc"), value)?),
            Way::Socket => Err(Refused(NOT_HERE.to_owned())),
        }
    }

    /// The value that words like `workers` mean on this device.
    pub(super) fn resolve(&self, key: Key, wanted: &str, cores: &[usize]) -> String {
        match (way(key), wanted) {
            (Way::Channels, "workers") => {
                let max = self
                    .ethtool()
                    .and_then(|ethtool| Ok(ethtool.channels()?.max))
                    .unwrap_or(u64::MAX);
                let workers = u64::try_from(cores.len()).unwrap_or(u64::MAX);
                workers.clamp(1, max.max(1)).to_string()
            }
            (Way::Interrupts, word) => match self.interrupts() {
                Ok(found) if word == "workers" => interrupts::in_turn(&found, cores),
                Ok(found) => interrupts::in_turn(&found, &sluice_worker::cores()),
                Err(_) => word.to_owned(),
            },
            _ => wanted.to_owned(),
        }
    }

    fn ethtool(&self) -> Result<&Ethtool, Refused> {
        self.ethtool.as_ref().ok_or_else(|| {
            Refused("this kernel has no ethtool netlink; Linux 5.6 and newer have".to_owned())
        })
    }

    fn number(&self, number: Number) -> Result<u64, Refused> {
        let (value, _) = self.ethtool()?.number(number)?;
        value.ok_or_else(|| Refused(NOT_HERE.to_owned()))
    }

    fn receive_queues(&self) -> Option<u64> {
        let channels = self.ethtool.as_ref()?.channels().ok()?;
        Some(channels.combined.unwrap_or(0) + channels.rx)
    }

    fn interrupts(&self) -> Result<Vec<interrupts::Interrupt>, Refused> {
        let found = interrupts::of(
            self.sysfs()?,
            Path::new("/proc"),
            &self.device.facts.interface,
        );
        if found.is_empty() {
            return Err(Refused(
                "the device has no interrupts of its own".to_owned(),
            ));
        }
        Ok(found)
    }

    fn sysfs(&self) -> Result<&Path, Refused> {
        let sysfs = self.device.sysfs.as_ref().ok_or_else(|| {
            Refused(
                "/sys shows another network namespace, and this process may not open its own (CAP_SYS_ADMIN)"
                    .to_owned(),
            )
        })?;
        Ok(sysfs.path())
    }

    fn file(&self, name: &str) -> Result<PathBuf, Refused> {
        let interface = self.sysfs()?.join("class/net");
        Ok(interface.join(&self.device.facts.interface).join(name))
    }
}

/// Whether one ethtool message sets both.
fn together(a: Key, b: Key) -> bool {
    let message = |key| way(key).number().map(Number::message);
    message(a).is_some() && message(a) == message(b)
}

/// Those of a device's offloads that have one of the names and are not off for ever.
fn offloads(interface: &str, names: &[&str]) -> Result<Vec<Offload>, NetlinkError> {
    let mut found = nic::offloads(interface)?;
    found.retain(|it| names.contains(&it.name.as_str()) && (it.on || it.changeable));
    Ok(found)
}

/// `on`, `off`, or the names of those that are on, so that a mixture can be brought back.
fn features_text(offloads: &[Offload]) -> String {
    let on: Vec<&str> = offloads
        .iter()
        .filter(|it| it.on)
        .map(|it| it.name.as_str())
        .collect();
    if on.is_empty() || on.len() == offloads.len() {
        on_off(!on.is_empty())
    } else {
        on.join("+")
    }
}

fn on_off(on: bool) -> String {
    if on { "on" } else { "off" }.to_owned()
}

fn hash_text(fields: u64) -> String {
    const BOTH: u64 = HASH_ADDRESSES | HASH_PORTS;
    match fields {
        HASH_ADDRESSES => "addresses".to_owned(),
        BOTH => "addresses_and_ports".to_owned(),
        other => format!("{other:#x}"),
    }
}

fn hash_fields(text: &str) -> Result<u64, Refused> {
    match text {
        "addresses" => Ok(HASH_ADDRESSES),
        "addresses_and_ports" => Ok(HASH_ADDRESSES | HASH_PORTS),
        other => other
            .strip_prefix("0x")
            .and_then(|hex| u64::from_str_radix(hex, 16).ok())
            .ok_or_else(|| Refused(format!("`{other}` is no set of packet fields"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_message_sets_goes_together() {
        assert!(together(Key::RxRing, Key::TxRing));
        assert!(together(Key::AdaptiveRx, Key::TxUsecs));
        assert!(!together(Key::TxRing, Key::AdaptiveRx));
        assert!(
            !together(Key::Gro, Key::Gro),
            "each offload is read back alone"
        );
    }

    #[test]
    fn a_mixture_of_offloads_is_said_by_name() {
        let of = |name: &str, on| Offload {
            name: name.to_owned(),
            on,
            wanted: on,
            changeable: true,
        };
        assert_eq!(features_text(&[]), "off");
        assert_eq!(features_text(&[of("a", true), of("b", true)]), "on");
        assert_eq!(features_text(&[of("a", false), of("b", false)]), "off");
        let mixture = [of("a", true), of("b", false), of("c", true)];
        assert_eq!(features_text(&mixture), "a+c");
    }

    #[test]
    fn hashes_are_said_in_words_and_read_back() {
        for fields in [HASH_ADDRESSES, HASH_ADDRESSES | HASH_PORTS, 0, 0x30 | 1] {
            assert_eq!(hash_fields(&hash_text(fields)), Ok(fields));
        }
        assert!(hash_fields("ports").is_err());
    }
}
