//! Two sites on one machine: a root, cluster managers and gateways, each a real `sluice` process in its own namespace.
//!
//! ```text
//!            root   cluster a   cluster b              management network: a switch, or a delay line
//!     mgmt0 ──┴────────┴──────────┴──┬────────┬──── ...
//!                                gateway 1  gateway 2  ...
//!      eth0 ─────────────────────────┴────────┴──── ...   the wire between the sites: a switch, or one cable
//! ```
//! Services live in further namespaces, which `sluice attach` joins to a gateway.

use super::clock::wait_for;
use super::delay::{DelayLine, End, Settings};
use super::error::LabError;
use super::http;
use super::netns::NetNs;
use super::process::{Process, Program};
use super::scratch::Scratch;
use super::tools;
use super::wire::{Switch, mtu_frames, offload, veth};
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a role may take to be ready.
const READY: Duration = Duration::from_secs(15);

/// What joins the gateways.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cable {
    Switch,
    /// One veth pair between exactly two gateways.
    Pair,
}

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
            log_level: "info".to_owned(),
        }
    }
}

/// One `sluice` process with its namespace, configuration and admin socket. Dropping it ends the process.
#[derive(Debug)]
pub struct Role {
    /// `root`, `cluster` or `gateway`.
    role: &'static str,
    process: Option<Process>,
    pub namespace: NetNs,
    sluice: PathBuf,
    pub config: PathBuf,
    pub admin: PathBuf,
    log: PathBuf,
    starts: u32,
}

impl Role {
    /// Starts the process; [`Role::ready`] waits for it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self) -> Result<(), LabError> {
        self.starts += 1;
        let log = if self.starts == 1 {
            self.log.clone()
        } else {
            self.log.with_extension(format!("{}.log", self.starts))
        };
        let program = Program::new(&self.sluice)
            .arg(self.role)
            .arg("--config")
            .arg(&self.config);
        self.process = Some(self.namespace.start(&program, &log)?);
        Ok(())
    }

    /// Waits until its admin socket says that it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready in time.
    pub fn ready(&mut self) -> Result<(), LabError> {
        let Some(process) = &mut self.process else {
            return self.start().and_then(|()| self.ready());
        };
        let admin = &self.admin;
        let what = format!("{} to be ready", self.namespace.name());
        let waited = wait_for(&what, READY, || {
            if process.ended().is_some() {
                return Ok(());
            }
            let seen = match http::request(admin, "GET", "/readyz", None, Duration::from_secs(1)) {
                Ok(answer) if answer.status == 200 => return Ok(()),
                Ok(answer) => format!("{} {}", answer.status, answer.body.trim()),
                Err(error) => error.to_string(),
            };
            Err(format!("{seen}; it said:\n{}", process.said_last()))
        });
        process.alive()?;
        waited
    }

    /// Changes its configuration, for its next start.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn configure(&self, change: impl FnOnce(String) -> String) -> Result<(), LabError> {
        let text = fs::read_to_string(&self.config).map_err(LabError::file(&self.config))?;
        fs::write(&self.config, change(text)).map_err(LabError::file(&self.config))
    }

    /// Ends it with SIGTERM, as a service manager does.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop(Duration::from_secs(5));
        }
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// What it logged since it was last started.
    #[must_use]
    pub fn said(&self) -> String {
        self.process.as_ref().map(Process::said).unwrap_or_default()
    }

    /// Fails when it is not running.
    ///
    /// # Errors
    /// With the last lines it said.
    pub fn alive(&mut self) -> Result<(), LabError> {
        match &mut self.process {
            Some(process) => process.alive(),
            None => Ok(()),
        }
    }

    /// Asks its admin socket.
    ///
    /// # Errors
    /// When it does not answer with JSON.
    pub fn ask(&self, path: &str) -> Result<serde_json::Value, LabError> {
        http::json(&self.admin, path)
    }
}

/// A gateway and where the others reach it.
#[derive(Debug)]
pub struct Gateway {
    pub role: Role,
    pub cluster: usize,
    /// On the wire between the sites.
    pub address: [IpAddr; 2],
    pub node_socket: PathBuf,
    pub state_dir: PathBuf,
}

impl Gateway {
    #[must_use]
    pub const fn namespace(&self) -> &NetNs {
        &self.role.namespace
    }
}

/// What `sluice attach` said.
#[derive(Clone, Debug)]
pub struct Attached {
    pub service: String,
    pub instance_number: u64,
    pub instance_ip: Vec<IpAddr>,
    pub ns_address: Vec<IpAddr>,
    /// Who resolves names for it.
    pub name_server: Vec<IpAddr>,
}

/// What an instance is, for `attach`.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    Pid(u32),
    Namespace(&'a NetNs),
    /// A host on the LAN, by its addresses.
    Host([IpAddr; 2]),
}

/// Everything, running.
#[derive(Debug)]
pub struct Sites {
    pub root: Role,
    pub clusters: Vec<Role>,
    pub gateways: Vec<Gateway>,
    /// The wire between the gateways, when it is a switch.
    pub wire: Option<Switch>,
    _management: Management,
    sluice: PathBuf,
    pub scratch: Scratch,
}

#[derive(Debug)]
enum Management {
    Switch { _switch: Switch },
    Delayed { _line: DelayLine },
}

/// Host numbers on the management network.
const ROOT: u8 = 1;
const FIRST_CLUSTER: u8 = 2;
const FIRST_GATEWAY: u8 = 11;

fn management_address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 78, host)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a laboratory has few hosts"
)]
const fn host(first: u8, index: usize) -> u8 {
    first + index as u8
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
        let token = scratch.file("token", &token()?)?;
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
        let hosts = hosts(&root, &clusters, &gateways);
        let management = manage(&hosts, layout.managers_away)?;
        let wire = lay(&gateways, layout.cable)?;
        Ok(Self {
            root,
            clusters,
            gateways,
            wire,
            _management: management,
            sluice: sluice.to_owned(),
            scratch,
        })
    }

    /// Where a cluster manager (counted from 0) is on the management network.
    #[must_use]
    pub fn cluster_address(&self, index: usize) -> IpAddr {
        management_address(host(FIRST_CLUSTER, index)).into()
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
        for (index, gateway) in self.gateways.iter_mut().enumerate() {
            gateway.role.configure(|text| {
                let (kept, _) = text.split_once("[fastpath]").unwrap_or((&text, ""));
                format!("{kept}[fastpath]\n{}\n{fastpath}\n", core_of(index))
            })?;
            gateway.role.stop();
            gateway.role.start()?;
        }
        self.gateways
            .iter_mut()
            .try_for_each(|gateway| gateway.role.ready())
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

    /// Makes something an instance of a service at a gateway (counted from 0), by `sluice attach`.
    ///
    /// # Errors
    /// With its words when it fails.
    pub fn attach(
        &self,
        gateway: usize,
        service: &str,
        target: Target<'_>,
    ) -> Result<Attached, LabError> {
        let (flag, value) = match target {
            Target::Pid(pid) => ("--pid", pid.to_string()),
            Target::Namespace(namespace) => {
                ("--netns", namespace.path().to_string_lossy().into_owned())
            }
            Target::Host([v4, v6]) => ("--host", format!("{v4},{v6}")),
        };
        let admin = self.gateways[gateway]
            .role
            .admin
            .to_string_lossy()
            .into_owned();
        let text = self.sluice([
            "attach",
            "--service",
            service,
            flag,
            &value,
            "--socket",
            &admin,
            "-o",
            "json",
        ])?;
        attached(&text).ok_or_else(|| LabError::Reply {
            what: "the answer of sluice attach".to_owned(),
            text,
        })
    }

    /// The reverse, for one instance.
    ///
    /// # Errors
    /// With its words when it fails.
    pub fn detach(&self, gateway: usize, attached: &Attached) -> Result<(), LabError> {
        let admin = self.gateways[gateway]
            .role
            .admin
            .to_string_lossy()
            .into_owned();
        let number = attached.instance_number.to_string();
        self.sluice([
            "detach",
            "--service",
            &attached.service,
            "--instance",
            &number,
            "--socket",
            &admin,
        ])
        .map(drop)
    }
}

fn attached(text: &str) -> Option<Attached> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let addresses = |v4: &str, v6: &str| -> Option<Vec<IpAddr>> {
        let of = |key: &str| value.get(key)?.as_str()?.parse().ok();
        Some(vec![of(v4)?, of(v6)?])
    };
    Some(Attached {
        service: value.get("service")?.as_str()?.to_owned(),
        instance_number: value.get("instance_number")?.as_u64()?,
        instance_ip: addresses("instance_ip", "instance_ip_v6")?,
        ns_address: addresses("ns_ip", "ns_ip_v6")?,
        name_server: addresses("name_server", "name_server_v6")?,
    })
}

/// A token of 64 hexadecimal digits.
fn token() -> Result<String, LabError> {
    use std::io::Read;
    let mut bytes = [0; 32];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(LabError::file("/dev/urandom"))?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

struct Plan<'a> {
    sluice: &'a Path,
    scratch: &'a Scratch,
    token: &'a Path,
    layout: &'a Layout,
}

impl Plan<'_> {
    fn role(&self, role: &'static str, name: &str, sections: &str) -> Result<Role, LabError> {
        let config = format!("[log]\nlevel = \"{}\"\n\n{sections}", self.layout.log_level);
        Ok(Role {
            role,
            process: None,
            namespace: NetNs::new(name)?,
            sluice: self.sluice.to_owned(),
            config: self.scratch.file(&format!("{name}.toml"), &config)?,
            admin: self.scratch.path().join(format!("{name}.sock")),
            log: self.scratch.path().join(format!("{name}.log")),
            starts: 0,
        })
    }

    fn path(&self, name: &str) -> String {
        self.scratch.path().join(name).display().to_string()
    }

    fn root(&self) -> Result<Role, LabError> {
        let sections = format!(
            "[root]\nlisten = \"{}:10099\"\ndata_dir = \"{}\"\nadmin_socket = \"{}\"\ntoken_file = \"{}\"\n",
            management_address(ROOT),
            self.path("root"),
            self.path("root.sock"),
            self.token.display()
        );
        self.role("root", "root", &sections)
    }

    fn cluster(&self, index: usize) -> Result<Role, LabError> {
        let name = format!("cluster-{}", letter(index));
        let own = management_address(host(FIRST_CLUSTER, index));
        let token = self.token.display();
        let sections = format!(
            "[cluster]\nid = \"{name}\"\nlisten = \"{own}:10110\"\nroot = \"{}:10099\"\nroot_token_file = \"{token}\"\n\
             data_dir = \"{}\"\nadmin_socket = \"{}\"\ntoken_file = \"{token}\"\n\n\
             [cluster.broker]\nlisten = \"{own}:10003\"\ntoken_file = \"{token}\"\n",
            management_address(ROOT),
            self.path(&name),
            self.path(&format!("{name}.sock")),
        );
        self.role("cluster", &name, &sections)
    }

    fn gateway(&self, index: usize) -> Result<Gateway, LabError> {
        let name = format!("gateway-{}", index + 1);
        let cluster = self.layout.gateways[index];
        let address = wire_address(index);
        let sections = format!(
            "[gateway]\nnode_id = \"{:024x}\"\ncluster = \"{}:10003\"\ncluster_token_file = \"{}\"\n\
             node_socket = \"{}\"\nadmin_socket = \"{}\"\nstate_dir = \"{}\"\nnode_address = \"{}\"\n{}\n\
             [fastpath]\n{}\n{}\n",
            0xed6e_0000 + index + 1,
            management_address(host(FIRST_CLUSTER, cluster)),
            self.token.display(),
            self.path(&format!("{name}-node.sock")),
            self.path(&format!("{name}.sock")),
            self.path(&name),
            address[0],
            self.layout.gateway,
            core_of(index),
            self.layout.fastpath,
        );
        Ok(Gateway {
            role: self.role("gateway", &name, &sections)?,
            cluster,
            address,
            node_socket: self.scratch.path().join(format!("{name}-node.sock")),
            state_dir: self.scratch.path().join(&name),
        })
    }
}

/// The `cores` line of a gateway: the workers of several gateways on one machine must not share the first core.
#[must_use]
fn core_of(index: usize) -> String {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("cores = [{}]", index % cores)
}

fn letter(index: usize) -> char {
    char::from(b'a' + host(0, index))
}

fn wire_address(index: usize) -> [IpAddr; 2] {
    let own = host(FIRST_GATEWAY, index);
    [
        Ipv4Addr::new(192, 168, 77, own).into(),
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, own.into()).into(),
    ]
}

fn hosts(root: &Role, clusters: &[Role], gateways: &[Gateway]) -> Vec<(NetNs, Ipv4Addr)> {
    let clusters = clusters
        .iter()
        .enumerate()
        .map(|(index, role)| (&role.namespace, host(FIRST_CLUSTER, index)));
    let gateways = gateways
        .iter()
        .enumerate()
        .map(|(index, gateway)| (gateway.namespace(), host(FIRST_GATEWAY, index)));
    std::iter::once((&root.namespace, ROOT))
        .chain(clusters)
        .chain(gateways)
        .map(|(namespace, number)| (namespace.clone(), management_address(number)))
        .collect()
}

fn manage(hosts: &[(NetNs, Ipv4Addr)], away: Option<Duration>) -> Result<Management, LabError> {
    if let Some(round_trip) = away {
        let ends: Vec<End> = hosts
            .iter()
            .map(|(namespace, address)| End {
                namespace: namespace.clone(),
                device: "mgmt0".to_owned(),
                addresses: vec![((*address).into(), 24)],
            })
            .collect();
        let settings = Settings {
            one_way: round_trip / 2,
            jitter: Duration::ZERO,
            lost_per_mille: 0,
            seed: 1,
        };
        let line = DelayLine::new(&ends, settings)?;
        calibrate(&line, hosts, round_trip)?;
        return Ok(Management::Delayed { _line: line });
    }
    let mut switch = Switch::new("management")?;
    for (namespace, address) in hosts {
        switch.join(namespace, "mgmt0", 1500)?;
        namespace.ip(&format!("address add {address}/24 dev mgmt0"))?;
    }
    Ok(Management::Switch { _switch: switch })
}

/// The line's thread needs a moment for every packet; the wait is shortened by what the fastest of many pings sees of
/// it, so that nothing arrives before its time.
fn calibrate(
    line: &DelayLine,
    hosts: &[(NetNs, Ipv4Addr)],
    round_trip: Duration,
) -> Result<(), LabError> {
    let (Some((_, to)), Some((from, _))) = (hosts.first(), hosts.last()) else {
        return Ok(());
    };
    let over = ping(from, (*to).into())?[0].saturating_sub(round_trip);
    line.set_one_way((round_trip.saturating_sub(over)) / 2);
    Ok(())
}

/// The mean round trip that ping sees.
///
/// # Errors
/// When nothing answers.
pub fn ping_round_trip(from: &NetNs, to: IpAddr) -> Result<Duration, LabError> {
    ping(from, to).map(|[_, mean]| mean)
}

/// The shortest and the mean round trip.
fn ping(from: &NetNs, to: IpAddr) -> Result<[Duration; 2], LabError> {
    let program = Program::new(tools::find("ping")?)
        .args(["-q", "-i", "0.01", "-c", "40"])
        .arg(to.to_string());
    let text = from.succeed(&program)?;
    // "rtt min/avg/max/mdev = 1.066/1.097/1.2/0.03 ms"
    let figures: Vec<Duration> = text
        .rsplit_once("= ")
        .map_or("", |(_, figures)| figures)
        .split('/')
        .filter_map(|figure| figure.parse::<f64>().ok())
        .map(|ms| Duration::from_secs_f64(ms / 1e3))
        .collect();
    match figures[..] {
        [shortest, mean, ..] => Ok([shortest, mean]),
        _ => Err(LabError::Reply {
            what: program.to_string(),
            text,
        }),
    }
}

fn lay(gateways: &[Gateway], cable: Cable) -> Result<Option<Switch>, LabError> {
    let wire = match (cable, gateways) {
        (Cable::Pair, [a, b]) => {
            let ends = [a, b].map(Gateway::namespace);
            veth((ends[0], "eth0"), (ends[1], "eth0"), 1500)?;
            for end in ends {
                mtu_frames(end, "eth0")?;
                offload(end, "eth0", &["gro", "on"])?;
            }
            None
        }
        _ => {
            let mut switch = Switch::new("wire")?;
            for gateway in gateways {
                switch.join(gateway.namespace(), "eth0", 1500)?;
            }
            Some(switch)
        }
    };
    for gateway in gateways {
        gateway.namespace().ip(&format!(
            "address add {}/24 dev eth0\naddress add {}/64 dev eth0 nodad",
            gateway.address[0], gateway.address[1]
        ))?;
    }
    Ok(wire)
}

/// A microservice of a descriptor in Oakestra's form.
#[derive(Clone, Copy, Debug)]
pub struct Microservice<'a> {
    pub name: &'a str,
    pub namespace: &'a str,
    /// Round-robin addresses; none = the root chooses.
    pub rr_ip: Option<[&'a str; 2]>,
}

/// A service descriptor (SLA v2.0) with these microservices.
#[must_use]
pub fn descriptor(app: &str, app_namespace: &str, microservices: &[Microservice<'_>]) -> String {
    let services: Vec<serde_json::Value> = microservices
        .iter()
        .map(|service| {
            let mut value = serde_json::json!({
                "microserviceID": "",
                "microservice_name": service.name,
                "microservice_namespace": service.namespace,
                "virtualization": "container",
                "code": "none",
                "memory": 0, "vcpus": 0, "storage": 0, "port": "",
            });
            if let Some([v4, v6]) = service.rr_ip {
                value["addresses"] = serde_json::json!({"rr_ip": v4, "rr_ip_v6": v6});
            }
            value
        })
        .collect();
    serde_json::json!({
        "sla_version": "v2.0",
        "customerID": "demo",
        "applications": [{
            "applicationID": "",
            "application_name": app,
            "application_namespace": app_namespace,
            "application_desc": "",
            "microservices": services,
        }],
    })
    .to_string()
}
