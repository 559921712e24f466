//! Facts about NIC families and boards, one TOML file each: parsed, checked, and matched with a machine.
//!
//! [`Profile::parse`] gives only valid profiles; [`Catalog`] holds the shipped and the operator's; [`Facts`] says what
//! an interface is; [`Catalog::detect`] picks a profile and [`link_for`] the way packets take, both with reasons.
//! Nothing here changes a device: that is the gateway's.

mod value;
mod settings;
mod profile;
mod catalog;
mod facts;
mod detect;
mod link;

pub use catalog::{Catalog, CatalogError};
pub use detect::Detected;
pub use facts::{Facts, FactsError, Kernel, PciId};
pub use link::{Link, LinkChoice, link_for};
pub use profile::{
    Limits, LinkFacts, Match, Name, PciPattern, Profile, ProfileError, Verified, Xdp, ZeroCopy,
};
pub use settings::{Key, Place, Settings};
pub use value::{IrqAffinity, Power2, Queues, RssHash, RssTable, SettingText, Within};
