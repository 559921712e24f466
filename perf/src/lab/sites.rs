//! Two sites on one machine: a root, cluster managers and gateways, each a real `sluice` process in its own namespace.
//!
//! ```text
//!            root   cluster a   cluster b              management network: a switch, or a delay line
//!     mgmt0 ──┴────────┴──────────┴──┬────────┬──── ...
//!                                gateway 1  gateway 2  ...
//!      eth0 ─────────────────────────┴────────┴──── ...   the wire between the sites: a switch, or one cable
//! ```
//! Services live in further namespaces, which `sluice attach` joins to a gateway.

mod plan;
mod role;
mod network;
mod attach;
mod descriptor;

pub use attach::{Attached, Target};
pub use descriptor::{Microservice, descriptor};
pub use network::ping_round_trip;
pub use role::{Gateway, Role};

use super::delay::DelayLine;
use super::error::LabError;
use super::process::Program;
use super::scratch::Scratch;
use super::wire::Switch;
use network::{Management, lay, manage};
use plan::Plan;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What joins the gateways.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cable {
    Switch,
    /// One veth pair between exactly two gateways.
    Pair,
    /// A delay line, which lets every packet wait so long on its way; [`Sites::line`] changes it.
    Line {
        one_way: Duration,
    },
}

/// The line of a `[tunnel]` section with which nothing is encrypted.
pub const PLAIN: &str = "encrypt = false";

/// What to build.
#[derive(Clone, Debug)]
pub struct Layout {
    /// One cluster manager for each.
    pub clusters: usize,
    /// For each gateway the cluster it belongs to.
    pub gateways: Vec<usize>,
    pub cable: Cable,
    /// Round trip to every manager; none = as fast as the machine.
    pub managers_away: Option<Duration>,
    /// Further lines of the gateways' `[gateway]` section.
    pub gateway: String,
    /// Lines of the gateways' `[fastpath]` section.
    pub fastpath: String,
    /// Lines of the gateways' `[tunnel]` section; empty: encrypted.
    pub tunnel: String,
    pub log_level: String,
}

impl Layout {
    /// Two sites with two gateways each.
    #[must_use]
    pub fn two_sites() -> Self {
        Self {
            clusters: 2,
            gateways: vec![0, 0, 1, 1],
            cable: Cable::Switch,
            managers_away: None,
            gateway: String::new(),
            fastpath: String::new(),
            tunnel: String::new(),
            log_level: "info".to_owned(),
        }
    }

    /// What is measured: one cluster, which all of `gateways` belong to, and nothing logged but warnings. In plain, as what most of
    /// it is measured beside.
    #[must_use]
    pub fn measured(gateways: usize, cable: Cable) -> Self {
        Self {
            clusters: 1,
            gateways: vec![0; gateways],
            cable,
            tunnel: PLAIN.to_owned(),
            log_level: "warn".to_owned(),
            ..Self::two_sites()
        }
    }
}

/// Everything, running.
#[derive(Debug)]
pub struct Sites {
    pub root: Role,
    pub clusters: Vec<Role>,
    pub gateways: Vec<Gateway>,
    /// The wire between the gateways, when it is a switch.
    pub wire: Option<Switch>,
    /// The same, when it is a delay line.
    pub line: Option<DelayLine>,
    _management: Management,
    sluice: PathBuf,
    pub scratch: Scratch,
}

impl Sites {
    /// Builds namespaces and cables, writes configurations, starts every role and waits until all are ready.
    /// `sluice` is the program.
    ///
    /// # Errors
    /// With what went wrong, and the words of the role that failed.
    pub fn new(sluice: &Path, scratch: Scratch, layout: &Layout) -> Result<Self, LabError> {
        let mut sites = Self::built(sluice, scratch, layout)?;
        sites.start()?;
        Ok(sites)
    }

    /// As [`Sites::new`], but nothing is started yet.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn built(sluice: &Path, scratch: Scratch, layout: &Layout) -> Result<Self, LabError> {
        let token = scratch.file("token", &plan::token()?)?;
        let plan = Plan {
            sluice,
            scratch: &scratch,
            token: &token,
            layout,
        };
        let root = plan.root()?;
        let clusters = (0..layout.clusters)
            .map(|index| plan.cluster(index))
            .collect::<Result<Vec<_>, _>>()?;
        let gateways = (0..layout.gateways.len())
            .map(|index| plan.gateway(index))
            .collect::<Result<Vec<_>, _>>()?;
        for gateway in &gateways {
            // What a killed one leaves pinned is gone with its namespace.
            gateway.namespace().mount_bpf()?;
        }
        let hosts = plan::hosts(&root, &clusters, &gateways);
        let management = manage(&hosts, layout.managers_away)?;
        let (wire, line) = lay(&gateways, layout.cable)?;
        Ok(Self {
            root,
            clusters,
            gateways,
            wire,
            line,
            _management: management,
            sluice: sluice.to_owned(),
            scratch,
        })
    }

    /// Where a cluster manager (counted from 0) is on the management network.
    #[must_use]
    pub fn cluster_address(&self, index: usize) -> IpAddr {
        plan::cluster_address(index).into()
    }

    /// Starts every role, managers first, and waits until all are ready.
    ///
    /// # Errors
    /// With the words of the role that failed.
    pub fn start(&mut self) -> Result<(), LabError> {
        self.root.ready()?;
        for cluster in &mut self.clusters {
            cluster.start()?;
        }
        for cluster in &mut self.clusters {
            cluster.ready()?;
        }
        for gateway in &mut self.gateways {
            gateway.role.start()?;
        }
        for gateway in &mut self.gateways {
            gateway.role.ready()?;
        }
        Ok(())
    }

    /// Restarts every gateway with these lines as the last of its `[fastpath]` section, in place of the last ones.
    ///
    /// # Errors
    /// With the words of the one that failed.
    pub fn restart_gateways(&mut self, fastpath: &str) -> Result<(), LabError> {
        self.restart_each(|_| fastpath.to_owned())
    }

    /// The same with lines for each gateway, counted from 0.
    ///
    /// # Errors
    /// With the words of the one that failed.
    pub fn restart_each(&mut self, fastpath: impl Fn(usize) -> String) -> Result<(), LabError> {
        for (index, gateway) in self.gateways.iter_mut().enumerate() {
            let fastpath = fastpath(index);
            gateway.role.configure(|text| {
                let (kept, _) = text.split_once("[fastpath]").unwrap_or((&text, ""));
                format!("{kept}[fastpath]\n{}\n{fastpath}\n", plan::core_of(index))
            })?;
            gateway.role.stop();
            gateway.role.start()?;
        }
        self.gateways
            .iter_mut()
            .try_for_each(|gateway| gateway.role.ready())
    }

    /// Gives every gateway these lines as its `[tunnel]` section, for its next start.
    ///
    /// # Errors
    /// When a configuration cannot be read or written.
    pub fn configure_tunnels(&self, tunnel: &str) -> Result<(), LabError> {
        self.gateways.iter().try_for_each(|gateway| {
            gateway.role.configure(|text| {
                let (before, rest) = text.split_once("[tunnel]").unwrap_or((&text, ""));
                let (_, after) = rest.split_once("[fastpath]").unwrap_or_default();
                format!("{before}[tunnel]\n{tunnel}\n[fastpath]{after}")
            })
        })
    }

    /// Stops the root and all cluster managers.
    pub fn stop_managers(&mut self) {
        self.root.stop();
        self.clusters.iter_mut().for_each(Role::stop);
    }

    /// Starts them again and waits until they are ready.
    ///
    /// # Errors
    /// With the words of the one that failed.
    pub fn start_managers(&mut self) -> Result<(), LabError> {
        self.root.ready()?;
        self.clusters.iter_mut().try_for_each(Role::ready)
    }

    /// Runs `sluice` with these arguments where the root is, and returns what it printed.
    ///
    /// # Errors
    /// With its words when it fails.
    pub fn sluice<S: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<String, LabError> {
        self.root
            .namespace
            .succeed(&Program::new(&self.sluice).args(arguments))
    }

    /// Tells the root about services, by `sluice apply`.
    ///
    /// # Errors
    /// With its words when it fails.
    pub fn apply(&self, descriptor: &str) -> Result<String, LabError> {
        let file = self.scratch.file("services.json", descriptor)?;
        self.sluice([
            "apply".as_ref(),
            "-f".as_ref(),
            file.as_os_str(),
            "--socket".as_ref(),
            self.root.admin.as_os_str(),
        ])
    }

    /// Tells the root about services with nothing particular about them ([`Microservice::measured`]), of the application
    /// `bench` in the application namespace `app_namespace`.
    ///
    /// # Errors
    /// With the words of `sluice apply` when it fails.
    pub fn apply_measured<'a>(
        &self,
        app_namespace: &str,
        names: impl IntoIterator<Item = &'a String>,
    ) -> Result<(), LabError> {
        let services: Vec<Microservice<'a>> = names
            .into_iter()
            .map(|name| Microservice::measured(name))
            .collect();
        self.apply(&descriptor("bench", app_namespace, &services))
            .map(drop)
    }
}
