//! The values of settings: each type can only hold what makes sense, and says what does when it is given something else.

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// A number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Within<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Within<MIN, MAX> {
    /// `None` outside the range.
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        (MIN..=MAX).contains(&number).then_some(Self(number))
    }

    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl<const MIN: u32, const MAX: u32> Serialize for Within<MIN, MAX> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_u32(self.0)
    }
}

impl<'de, const MIN: u32, const MAX: u32> Deserialize<'de> for Within<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let expected = format!("a number from {MIN} to {MAX}");
        number(from, &expected)?
            .and_then(Self::new)
            .ok_or_else(|| Error::custom(format!("expected {expected}")))
    }
}

/// A power of two from `MIN` to `MAX`: the size of a ring that is indexed by masking.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Power2<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Power2<MIN, MAX> {
    /// `None` outside the range, or when it is no power of two.
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        ((MIN..=MAX).contains(&number) && number.is_power_of_two()).then_some(Self(number))
    }

    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl<const MIN: u32, const MAX: u32> Serialize for Power2<MIN, MAX> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_u32(self.0)
    }
}

impl<'de, const MIN: u32, const MAX: u32> Deserialize<'de> for Power2<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let expected = format!("a power of two from {MIN} to {MAX}");
        number(from, &expected)?
            .and_then(Self::new)
            .ok_or_else(|| Error::custom(format!("expected {expected}")))
    }
}

/// A number that fits; `None` for one that does not.
fn number<'de, D: Deserializer<'de>>(from: D, expected: &str) -> Result<Option<u32>, D::Error> {
    struct Number<'a>(&'a str);
    impl Visitor<'_> for Number<'_> {
        type Value = Option<u32>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<Option<u32>, E> {
            Ok(u32::try_from(value).ok())
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<Option<u32>, E> {
            Ok(u32::try_from(value).ok())
        }
    }
    from.deserialize_any(Number(expected))
}

/// How many queues a device uses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Queues {
    /// One for each worker, as far as the device has them.
    Workers,
    /// 1 to 256.
    Count(Within<1, 256>),
}

const QUEUES_EXPECTED: &str = "\"workers\" or a number from 1 to 256";

impl Serialize for Queues {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Workers => out.serialize_str("workers"),
            Self::Count(count) => count.serialize(out),
        }
    }
}

impl<'de> Deserialize<'de> for Queues {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Queues;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(QUEUES_EXPECTED)
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<Queues, E> {
                match value {
                    "workers" => Ok(Queues::Workers),
                    _ => Err(E::invalid_value(Unexpected::Str(value), &self)),
                }
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Queues, E> {
                u32::try_from(value)
                    .ok()
                    .and_then(Within::new)
                    .map(Queues::Count)
                    .ok_or_else(|| E::invalid_value(Unexpected::Signed(value), &self))
            }
        }
        from.deserialize_any(Either)
    }
}

/// Where the device's interrupts go.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IrqAffinity {
    /// Queue after queue to the workers' cores, in turn: who is interrupted has the cache.
    Workers,
    /// Queue after queue over all cores of the machine, in turn.
    Spread,
}

/// From what the device makes the hash that chooses a receive queue for UDP, which is what tunnels are.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RssHash {
    /// Addresses only: two nodes meet in one queue.
    Addresses,
    /// Addresses and ports: the outer source port, one per worker, spreads a pair of nodes over queues.
    AddressesAndPorts,
}

/// How hashes lead to receive queues.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RssTable {
    /// Every queue gets an equal share: the driver's own default.
    Equal,
}

/// A value as `ethtool`, sysfs and `sluice status` write it.
pub trait SettingText {
    /// Without units; switches are `on` and `off`.
    fn text(&self) -> String;
}

impl SettingText for bool {
    fn text(&self) -> String {
        if *self { "on" } else { "off" }.to_owned()
    }
}

impl<const MIN: u32, const MAX: u32> SettingText for Within<MIN, MAX> {
    fn text(&self) -> String {
        self.0.to_string()
    }
}

impl<const MIN: u32, const MAX: u32> SettingText for Power2<MIN, MAX> {
    fn text(&self) -> String {
        self.0.to_string()
    }
}

impl SettingText for Queues {
    fn text(&self) -> String {
        match self {
            Self::Workers => "workers".to_owned(),
            Self::Count(count) => count.text(),
        }
    }
}

impl SettingText for IrqAffinity {
    fn text(&self) -> String {
        match self {
            Self::Workers => "workers",
            Self::Spread => "spread",
        }
        .to_owned()
    }
}

impl SettingText for RssHash {
    fn text(&self) -> String {
        match self {
            Self::Addresses => "addresses",
            Self::AddressesAndPorts => "addresses_and_ports",
        }
        .to_owned()
    }
}

impl SettingText for RssTable {
    fn text(&self) -> String {
        match self {
            Self::Equal => "equal".to_owned(),
        }
    }
}
