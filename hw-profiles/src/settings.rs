//! The settings of an interface and of the sockets on it: one list of keys for profiles, overrides and status.

use crate::value::{IrqAffinity, Power2, Queues, RssHash, RssTable, SettingText, Within};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Where a setting takes effect, and where it is read back from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// The kernel's interface: ethtool, sysfs, interrupts.
    Interface,
    /// The AF_XDP sockets of the link.
    Socket,
}

macro_rules! settings {
    ($($(#[$doc:meta])* $place:ident $field:ident $key:ident: $type:ty;)*) => {
        /// Values for an interface. What is not set stays as the kernel has it.
        #[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Settings {
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$type>,)*
        }

        /// Names one of the [`Settings`].
        #[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
        pub enum Key {
            $($(#[$doc])* $key,)*
        }

        impl Key {
            /// All, in the order in which they are applied.
            pub const ALL: &[Self] = &[$(Self::$key),*];

            /// As in files and in status.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$key => stringify!($field),)*
                }
            }

            #[must_use]
            pub const fn place(self) -> Place {
                match self {
                    $(Self::$key => Place::$place,)*
                }
            }
        }

        impl Settings {
            /// The value of `key` as text, when it is set.
            #[must_use]
            pub fn text(&self, key: Key) -> Option<String> {
                match key {
                    $(Key::$key => self.$field.as_ref().map(SettingText::text),)*
                }
            }

            /// These, except where `over` says something else.
            #[must_use]
            pub fn overlaid(&self, over: &Self) -> Self {
                Self {
                    $($field: over.$field.or(self.$field),)*
                }
            }

            /// Without `key`: the kernel's value stays.
            pub fn unset(&mut self, key: Key) {
                match key {
                    $(Key::$key => self.$field = None,)*
                }
            }
        }
    };
}

settings! {
    /// Queue pairs of the device (`ethtool -L`).
    Interface queues Queues: Queues;
    /// Entries of each receive ring (`ethtool -G`).
    Interface rx_ring RxRing: Within<16, 32768>;
    /// Entries of each transmit ring (`ethtool -G`).
    Interface tx_ring TxRing: Within<16, 32768>;
    /// The driver moderates receive interrupts by itself (`ethtool -C adaptive-rx`).
    Interface adaptive_rx AdaptiveRx: bool;
    /// The driver moderates transmit interrupts by itself (`ethtool -C adaptive-tx`).
    Interface adaptive_tx AdaptiveTx: bool;
    /// Receive interrupts wait so long for more packets; microseconds (`ethtool -C rx-usecs`).
    Interface rx_usecs RxUsecs: Within<0, 10000>;
    /// Transmit interrupts wait so long for more packets; microseconds (`ethtool -C tx-usecs`).
    Interface tx_usecs TxUsecs: Within<0, 10000>;
    /// The device checks receive checksums (`ethtool -K rx`).
    Interface rx_checksum RxChecksum: bool;
    /// The device makes transmit checksums (`ethtool -K tx`).
    Interface tx_checksum TxChecksum: bool;
    /// The device cuts TCP super-frames (`ethtool -K tso`).
    Interface tso Tso: bool;
    /// Super-frames stay whole down to the driver (`ethtool -K gso`).
    Interface gso Gso: bool;
    /// The kernel joins received segments (`ethtool -K gro`).
    Interface gro Gro: bool;
    /// The device joins received segments and cannot take them apart again (`ethtool -K lro`).
    Interface lro Lro: bool;
    /// The device joins received segments so that they can be taken apart (`ethtool -K rx-gro-hw`).
    Interface rx_gro_hw RxGroHw: bool;
    /// The device takes VLAN tags out of frames (`ethtool -K rx-vlan-offload`); an XDP program then never sees them.
    Interface rx_vlan RxVlan: bool;
    /// Packet fields that choose the receive queue of UDP (`ethtool -N rx-flow-hash udp4`).
    Interface rss_hash RssHash: RssHash;
    /// How hashes lead to queues (`ethtool -X equal`).
    Interface rss_table RssTable: RssTable;
    /// Polls without packets before interrupts come on again (sysfs `napi_defer_hard_irqs`).
    Interface napi_defer_hard_irqs NapiDeferHardIrqs: Within<0, 1000>;
    /// How long interrupts stay off then; nanoseconds (sysfs `gro_flush_timeout`).
    Interface gro_flush_timeout_ns GroFlushTimeoutNs: Within<0, 1_000_000_000>;
    /// Polling runs in kernel threads of its own instead of in interrupts (sysfs `threaded`).
    Interface threaded_napi ThreadedNapi: bool;
    /// Cores that take the device's interrupts (`/proc/irq`).
    Interface irq_affinity IrqAffinity: IrqAffinity;
    /// Entries of the socket's rings.
    Socket xsk_ring XskRing: Power2<64, 32768>;
    /// Frames per turn of a worker.
    Socket xsk_batch XskBatch: Within<1, 64>;
    /// Hand the socket's memory to the device where the driver can.
    Socket xsk_zero_copy XskZeroCopy: bool;
    /// Socket memory from hugepages where there are some.
    Socket xsk_hugepages XskHugepages: bool;
    /// How long a system call polls the device; microseconds, 0 never (SO_BUSY_POLL).
    Socket busy_poll_us BusyPollUs: Within<0, 10000>;
    /// Packets of one such poll (SO_BUSY_POLL_BUDGET).
    Socket busy_poll_budget BusyPollBudget: Within<1, 1024>;
    /// Polling by the worker comes before interrupts (SO_PREFER_BUSY_POLL).
    Socket prefer_busy_poll PreferBusyPoll: bool;
}

impl Key {
    /// The key of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|key| key.name() == name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Settings {
    /// What is set, in the order in which it is applied.
    pub fn entries(&self) -> impl Iterator<Item = (Key, String)> {
        Key::ALL
            .iter()
            .filter_map(|&key| Some((key, self.text(key)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_override_replaces_one_value_and_leaves_the_others() {
        let of = |text: &str| toml::from_str::<Settings>(text).unwrap();
        let mut both = of("rx_ring = 512\ngro = true\n").overlaid(&of("gro = false\nqueues = 2\n"));
        let shown = |settings: &Settings| {
            settings
                .entries()
                .map(|(key, value)| format!("{key}={value}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(shown(&both), ["queues=2", "rx_ring=512", "gro=off"]);
        both.unset(Key::RxRing);
        assert_eq!(shown(&both), ["queues=2", "gro=off"]);
    }

    #[test]
    fn every_key_is_found_by_its_name() {
        for &key in Key::ALL {
            assert_eq!(Key::named(key.name()), Some(key));
        }
        assert_eq!(Key::named("rx-ring"), None);
    }
}
