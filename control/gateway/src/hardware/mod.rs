//! The NICs, towards other nodes and towards hosts: which profile fits, applied at start, undone at removal, read back from the kernel for status.

mod apply;
mod device;
mod ethtool;
mod interrupts;
mod knob;
mod memory;
mod sysfs;

pub use apply::ApplyError;
pub use memory::MemoryError;

use crate::config::{Config, LinkKind, ProfileChoice};
use crate::node::netlink::NetlinkError;
use apply::{Applied, Wanted};
use device::Device;
use knob::Knobs;
use memory::Side;
use serde_json::{Value, json};
use sluice_hw_profiles::{
    Catalog, CatalogError, Facts, FactsError, Link, LinkChoice, Place, Profile, Settings, link_for,
};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why nothing can be said about the NIC.
#[derive(Debug, Error)]
pub enum HardwareError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Facts(#[from] FactsError),
    #[error("no interface `{0}`; `ip link` lists those there are; see `hardware.interface`")]
    NoInterface(String),
    #[error(
        "which interface is the underlay? There is no default route; set `hardware.interface` or `gateway.node_address`"
    )]
    NoUnderlay,
    #[error("no interface has the node's address {0}; set `hardware.interface`")]
    NobodysAddress(IpAddr),
    #[error("`hardware.profile` = \"{name}\": there is no such profile; there are {known}")]
    NoProfile { name: String, known: String },
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// A profile for an interface of this machine, and why it is that one.
#[derive(Clone, Debug)]
pub struct Choice {
    pub facts: Facts,
    /// `None` when the configuration wants none.
    pub profile: Option<Profile>,
    pub why: String,
    /// What the machine allows; what runs is the configuration's.
    pub link: LinkChoice,
}

/// All profiles: the shipped ones and those of `hardware.profiles_dir`.
///
/// # Errors
/// When a file there is no profile.
pub fn catalog(config: &Config) -> Result<Catalog, HardwareError> {
    Ok(Catalog::with_directory(&config.hardware.profiles_dir)?)
}

/// Looks at an interface, or at the underlay when none is named, and chooses the profile that the configuration wants.
///
/// # Errors
/// When there is no such interface or profile.
pub fn choose(config: &Config, interface: Option<&str>) -> Result<Choice, HardwareError> {
    let device = look(config, interface)?;
    chosen(config, device.facts)
}

fn look(config: &Config, interface: Option<&str>) -> Result<Device, HardwareError> {
    match interface {
        Some(interface) => Device::look(interface),
        None => Device::look(&device::underlay(config)?),
    }
}

fn chosen(config: &Config, facts: Facts) -> Result<Choice, HardwareError> {
    let catalog = catalog(config)?;
    let detected = catalog.detect(&facts);
    // Without a profile to follow, what is known of the machine still decides about the link.
    let link = |profile: &Profile| link_for(profile, &facts);
    let (profile, why, link) = match &config.hardware.profile {
        ProfileChoice::Auto => (
            Some(detected.profile.clone()),
            detected.why,
            link(detected.profile),
        ),
        ProfileChoice::None => (
            None,
            "`hardware.profile` is \"none\"".to_owned(),
            link(detected.profile),
        ),
        ProfileChoice::Named(_) => {
            let profile = named(config, &catalog)?.unwrap_or(detected.profile);
            let why = "`hardware.profile` names it".to_owned();
            (Some(profile.clone()), why, link(profile))
        }
    };
    Ok(Choice {
        facts,
        profile,
        why,
        link,
    })
}

/// The profile that the configuration names, if it names one.
fn named<'a>(config: &Config, catalog: &'a Catalog) -> Result<Option<&'a Profile>, HardwareError> {
    let ProfileChoice::Named(name) = &config.hardware.profile else {
        return Ok(None);
    };
    let found = catalog.named(name).ok_or_else(|| {
        let known: Vec<&str> = catalog.profiles().map(|it| it.name.as_str()).collect();
        HardwareError::NoProfile {
            name: name.clone(),
            known: known.join(", "),
        }
    });
    found.map(Some)
}

impl Choice {
    /// The settings in force with that link: the profile's, the configuration's over them, without those to keep.
    #[must_use]
    pub fn settings(&self, config: &Config, link: Link) -> Settings {
        let mut settings = self
            .profile
            .as_ref()
            .map_or_else(Settings::default, |it| match link {
                Link::AfXdp => it.set.overlaid(&it.set_af_xdp),
                Link::Tun => it.set.clone(),
            });
        settings = settings.overlaid(&config.hardware.set);
        for &key in &config.hardware.keep {
            settings.unset(key);
        }
        settings
    }

    /// For `-o json`.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "interface": self.facts.interface,
            "driver": self.facts.driver,
            "pci": self.facts.pci.map(|id| id.to_string()),
            "model": self.facts.model,
            "machine": self.facts.machine,
            "profile": self.profile.as_ref().map(|profile| profile.name.as_str()),
            "why": self.why,
            "recommended_link": self.link.link.name(),
            "recommended_why": self.link.why,
            "zero_copy": self.link.zero_copy,
            "xdp_features": self.facts.kernel.xdp_features.map(|bits| format!("{bits:#x}")),
        })
    }
}

/// The interfaces of a running gateway: the underlay, and the one towards hosts that are instances.
#[derive(Debug)]
pub struct Hardware {
    underlay: Nic,
    service: Option<Nic>,
}

/// An interface: what was wanted of it, and how to look at it again.
#[derive(Debug)]
struct Nic {
    /// Where it is written what it had before.
    memory: PathBuf,
    found: Result<Found, String>,
}

#[derive(Debug)]
struct Found {
    device: Device,
    choice: Choice,
    link: Link,
    applied: Applied,
}

impl Hardware {
    /// Chooses the profiles and makes their settings for that link; with `fastpath.link` "auto" for the one that the
    /// machine allows. What an interface or kernel refuses is a warning in the log and in
    /// status; the gateway runs without it.
    ///
    /// # Errors
    /// When the operator's profiles cannot be used, or the configuration names one that there is not.
    pub fn start(config: &Config, link: Link) -> Result<Self, HardwareError> {
        let state_dir = &config.gateway.state_dir;
        let service = match config.fastpath.service.lan() {
            Some(lan) => Some(Nic::start(config, link, Some(lan), Side::Service)?),
            None => {
                // It may have been one before.
                apply::undo(&Side::Service.file(state_dir))?;
                None
            }
        };
        Ok(Self {
            underlay: Nic::start(config, link, None, Side::Underlay)?,
            service,
        })
    }

    /// What is wanted and what the kernel has now, for status. Takes a few system calls for each setting.
    #[must_use]
    pub fn status(&self) -> Value {
        let mut answer = self.underlay.status();
        if let Some(service) = &self.service {
            answer["service"] = service.status();
        }
        answer
    }

    /// Takes settings back when the profile says that they end with the process.
    pub fn stop(&self) {
        self.underlay.stop();
        if let Some(service) = &self.service {
            service.stop();
        }
    }
}

impl Nic {
    fn start(
        config: &Config,
        link: Link,
        interface: Option<&str>,
        side: Side,
    ) -> Result<Self, HardwareError> {
        let memory = side.file(&config.gateway.state_dir);
        let found = match Self::set_up(config, link, interface, &memory) {
            Ok(found) => Ok(found),
            Err(error @ (HardwareError::Catalog(_) | HardwareError::NoProfile { .. })) => {
                return Err(error);
            }
            Err(error) => {
                tracing::warn!(%error, "no hardware profile");
                Err(error.to_string())
            }
        };
        Ok(Self { memory, found })
    }

    fn set_up(
        config: &Config,
        link: Link,
        interface: Option<&str>,
        memory: &Path,
    ) -> Result<Found, HardwareError> {
        // Before the interface is asked for: a wrong file or name must not wait for it.
        let catalog = catalog(config)?;
        named(config, &catalog)?;
        let device = look(config, interface)?;
        let choice = chosen(config, device.facts.clone())?;
        // A machine that cannot run AF_XDP must not be set up for it.
        let link = match config.fastpath.link {
            LinkKind::Auto => choice.link.link,
            LinkKind::AfXdp | LinkKind::Tun => link,
        };
        let wanted: Vec<Wanted> = choice
            .settings(config, link)
            .entries()
            .filter(|(key, _)| key.place() == Place::Interface)
            .map(|(key, value)| Wanted {
                key,
                value,
                by: match config.hardware.set.text(key) {
                    Some(_) => "configuration",
                    None => "profile",
                },
            })
            .collect();
        let cores = worker_cores(config);
        let applied = apply::apply(&device, wanted, &cores, memory)?;
        let profile = choice.profile.as_ref().map(|it| it.name.as_str());
        let interface = &device.facts.interface;
        tracing::info!(interface, profile, why = choice.why, "hardware profile");
        Ok(Found {
            device,
            choice,
            link,
            applied,
        })
    }

    fn status(&self) -> Value {
        let found = match &self.found {
            Ok(found) => found,
            Err(error) => return json!({ "error": error }),
        };
        let mut answer = found.choice.json();
        answer["link"] = found.link.name().into();
        match self.read_back(found) {
            Ok(rows) => answer["settings"] = rows.into(),
            Err(error) => answer["error"] = error.to_string().into(),
        }
        answer
    }

    fn read_back(&self, found: &Found) -> Result<Vec<Value>, ApplyError> {
        let knobs = Knobs::new(&found.device)?;
        let memory = memory::Memory::read(&self.memory)?;
        let row = |wanted: &Wanted| {
            let actual = knobs.read(wanted.key);
            let as_wanted = actual.as_ref() == Ok(&wanted.value);
            let why = match (&actual, found.applied.refused.get(&wanted.key)) {
                _ if as_wanted => None,
                (_, Some(why)) => Some(why.clone()),
                (Err(why), None) => Some(why.0.clone()),
                (Ok(_), None) => Some("changed by somebody else since the start".to_owned()),
            };
            let before = memory.changed.get(wanted.key.name());
            json!({
                "setting": wanted.key.name(),
                "wanted": wanted.value,
                "actual": actual.ok(),
                "before": before.map(|changed| &changed.before),
                "by": wanted.by,
                "as_wanted": as_wanted,
                "why": why,
            })
        };
        Ok(found.applied.wanted.iter().map(row).collect())
    }

    fn stop(&self) {
        let Ok(found) = &self.found else {
            return;
        };
        if found
            .choice
            .profile
            .as_ref()
            .is_some_and(|it| it.undo_at_stop)
            && let Err(error) = apply::undo(&self.memory)
        {
            tracing::warn!(%error, "settings of the interface stay");
        }
    }
}

/// Takes back what a gateway with that state directory has set.
///
/// # Errors
/// When it cannot be read what that was.
pub fn remove(state_dir: &Path) -> Result<(), ApplyError> {
    for side in Side::ALL {
        apply::undo(&side.file(state_dir))?;
    }
    Ok(())
}

/// The cores on which workers run: the configured ones, or the first that the process may use.
fn worker_cores(config: &Config) -> Vec<usize> {
    let fastpath = &config.fastpath;
    if fastpath.cores.is_empty() {
        let mut cores = sluice_worker::cores();
        cores.truncate(fastpath.workers);
        cores
    } else {
        fastpath.cores.clone()
    }
}
