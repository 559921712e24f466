//! The demonstration's world: who runs where.
//!
//! ```text
//! site a: gateway 1: web 0, a client beside it, the bulk server      gateway 2: web 1
//! site b: gateway 3: web 2                                           gateway 4: the client
//! ```

use super::Family;
use super::web::{Files, Web};
use sluice_perf::lab::scratch::Scratch;
use sluice_perf::lab::sites::{Attached, Gateway, Layout, Microservice, Sites, Target, descriptor};
use sluice_perf::lab::{LabError, NetNs, Process, Program, tools};
use sluice_perf::peers::route::Route;
use sluice_perf::peers::vxlan::Node;
use sluice_perf::traffic::tcp;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Output;

pub(super) const WEB: &str = "demo.sluice.web.prod";
const BULK: &str = "demo.sluice.bulk.prod";
const CLIENT: &str = "demo.sluice.client.prod";
const WEB_IP: [&str; 2] = ["10.30.80.80", "fdff:2000::80"];
const BULK_IP: [&str; 2] = ["10.30.80.52", "fdff:2000::52"];
/// The gateways (counted from 0) of the web servers.
const WEB_AT: [usize; 3] = [0, 1, 2];
const BULK_AT: usize = 0;
const CLIENT_AT: usize = 3;
/// The other client is beside the first web server.
const NEIGHBOUR_AT: usize = WEB_AT[0];

/// An attached namespace, whose programs resolve names at its gateway.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) namespace: NetNs,
    pub(super) attached: Attached,
    /// What `/etc/resolv.conf` is for its programs.
    pub(super) resolv_conf: PathBuf,
}

impl Place {
    pub(super) fn new(
        sites: &Sites,
        namespace: NetNs,
        attached: Attached,
    ) -> Result<Self, LabError> {
        let servers = attached.name_server.iter();
        let text: String = servers.map(|ip| format!("nameserver {ip}\n")).collect();
        let file = format!("{}-resolv.conf", namespace.name());
        let resolv_conf = sites.scratch.file(&file, &text)?;
        Ok(Self {
            namespace,
            attached,
            resolv_conf,
        })
    }

    /// Runs a program there to its end.
    pub(super) fn output(&self, program: &Program) -> Result<Output, LabError> {
        self.namespace.output(&program.resolving(&self.resolv_conf))
    }
}

/// Everything the steps use. Fields go in this order: processes before the gateways they talk through.
#[derive(Debug)]
pub(super) struct Demo {
    pub(super) webs: Vec<Web>,
    _iperf: [Process; 2],
    /// Plain kernel routing between the nodes of the client and of the bulk server.
    pub(super) route: Route,
    pub(super) bulk: NetNs,
    pub(super) client: Place,
    pub(super) neighbour: Place,
    pub(super) files: Files,
    pub(super) sites: Sites,
}

impl Demo {
    /// Builds and starts everything. `sluice` is this program.
    pub(super) fn new(sluice: &Path, scratch: Scratch, link: &str) -> Result<Self, LabError> {
        for name in [
            "nginx",
            "curl",
            "iperf3",
            "ping",
            "sha256sum",
            "tcpdump",
            "ip",
            "nft",
            "ethtool",
            "setpriv",
            "getent",
            "unshare",
        ] {
            tools::find(name)?;
        }
        let layout = Layout {
            fastpath: format!("link = \"{link}\"\n"),
            ..Layout::two_sites()
        };
        let sites = Sites::new(sluice, scratch, &layout)?;
        let service = |name, rr_ip| Microservice {
            name,
            namespace: "prod",
            rr_ip,
        };
        sites.apply(&descriptor(
            "demo",
            "sluice",
            &[
                service("web", Some(WEB_IP)),
                service("bulk", Some(BULK_IP)),
                service("client", None),
            ],
        ))?;
        let files = Files::new(&sites.scratch)?;
        let webs = WEB_AT
            .iter()
            .zip(0..)
            .map(|(&gateway, number)| Web::new(&sites, &files, gateway, number))
            .collect::<Result<Vec<_>, _>>()?;
        let bulk = NetNs::new("bulk")?;
        sites.attach(BULK_AT, BULK, Target::Namespace(&bulk))?;
        let route = route(&sites)?;
        let iperf = [
            tcp::server(&bulk, &sites.scratch.path().join("iperf3.log"))?,
            tcp::server(
                &route.server,
                &sites.scratch.path().join("iperf3-route.log"),
            )?,
        ];
        let client = |name, gateway| {
            let namespace = NetNs::new(name)?;
            let attached = sites.attach(gateway, CLIENT, Target::Namespace(&namespace))?;
            Place::new(&sites, namespace, attached)
        };
        Ok(Self {
            webs,
            _iperf: iperf,
            route,
            bulk,
            client: client("client", CLIENT_AT)?,
            neighbour: client("neighbour", NEIGHBOUR_AT)?,
            files,
            sites,
        })
    }

    /// The name of the web servers' round-robin ServiceIP.
    pub(super) fn web_name() -> String {
        format!("{WEB}.any.rr.local")
    }

    /// The round-robin ServiceIP of the web servers.
    pub(super) fn web_service(&self, family: Family) -> IpAddr {
        address(WEB_IP, family)
    }

    /// The ServiceIP of the bulk server.
    pub(super) fn bulk_service(&self, family: Family) -> IpAddr {
        address(BULK_IP, family)
    }

    /// Starts again what the demonstration has stopped and killed.
    pub(super) fn mend(&mut self) -> Result<(), LabError> {
        self.sites.start_managers()?;
        for web in &mut self.webs {
            web.mend(&self.sites, &self.files)?;
        }
        Ok(())
    }
}

fn route(sites: &Sites) -> Result<Route, LabError> {
    let [client_at, server_at] = [CLIENT_AT, BULK_AT].map(|index| &sites.gateways[index]);
    let node = |gateway: &Gateway| (gateway.namespace().clone(), gateway.address);
    let ((client, client_ip), (server, server_ip)) = (node(client_at), node(server_at));
    Route::new(
        Node {
            namespace: &client,
            address: client_ip[0],
        },
        Node {
            namespace: &server,
            address: server_ip[0],
        },
        [client_ip[1], server_ip[1]],
    )
}

fn address(pair: [&str; 2], family: Family) -> IpAddr {
    pair[family.index()]
        .parse()
        .unwrap_or_else(|_| unreachable!("the addresses above are well-formed"))
}
