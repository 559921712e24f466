//! The cables: veth pairs, switches, frames of MTU size, loss, and what went over them.

use super::error::LabError;
use super::host::Host;
use super::netns::NetNs;
use super::process::Program;
use super::tools;

/// Joins two namespaces; the ends are called `a.1` and `b.1` and are up.
///
/// # Errors
/// When `ip` refuses.
pub fn veth(a: (&NetNs, &str), b: (&NetNs, &str), mtu: u16) -> Result<(), LabError> {
    a.0.ip(&format!(
        "link add {} mtu {mtu} type veth peer name {} mtu {mtu} netns {}\nlink set {} up",
        a.1,
        b.1,
        b.0.path().display(),
        a.1
    ))?;
    b.0.ip(&format!("link set {} up", b.1))
}

/// A namespace with a bridge in it, to which any number of hosts are joined.
#[derive(Debug)]
pub struct Switch {
    namespace: NetNs,
    ports: Vec<String>,
}

impl Switch {
    /// # Errors
    /// When the kernel refuses.
    pub fn new(name: &str) -> Result<Self, LabError> {
        let namespace = NetNs::new(name)?;
        namespace
            .ip("link add switch type bridge stp_state 0 mcast_snooping 0\nlink set switch up")?;
        for key in ["iptables", "ip6tables", "arptables"] {
            // A kernel without br_netfilter has nothing to switch off.
            let _ = namespace.sysctl(&format!("net/bridge/bridge-nf-call-{key}"), "0");
        }
        Ok(Self {
            namespace,
            ports: Vec::new(),
        })
    }

    #[must_use]
    pub const fn namespace(&self) -> &NetNs {
        &self.namespace
    }

    /// Gives `host` a device `device` that ends at a port of this switch. Frames on the cable have MTU size.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn join(&mut self, host: &NetNs, device: &str, mtu: u16) -> Result<(), LabError> {
        let port = format!("port{}", self.ports.len());
        veth((host, device), (&self.namespace, &port), mtu)?;
        self.namespace
            .ip(&format!("link set {port} master switch"))?;
        mtu_frames(host, device)?;
        mtu_frames(&self.namespace, &port)?;
        // The host's network card merges what it receives; the switch must not, or loss would hit whole trains.
        offload(host, device, &["gro", "on"])?;
        self.ports.push(port);
        Ok(())
    }

    /// Drops `percent` of the frames at every port, at random. 0 ends it.
    ///
    /// # Errors
    /// When `nft` refuses.
    pub fn lose(&self, percent: u8) -> Result<(), LabError> {
        let ports: Vec<&str> = self.ports.iter().map(String::as_str).collect();
        lose(&self.namespace, &ports, percent)
    }
}

/// Drops `percent` of the frames that come in at `devices`, at random. 0 ends it.
///
/// # Errors
/// When `nft` refuses.
pub fn lose(namespace: &NetNs, devices: &[&str], percent: u8) -> Result<(), LabError> {
    let mut script = "table netdev loss\ndelete table netdev loss\n".to_owned();
    if percent > 0 {
        script.push_str(&format!(
            "table netdev loss {{\nchain ingress {{\ntype filter hook ingress devices = {{ {} }} priority 0\n\
             numgen random mod 100 < {percent} counter drop\n}}\n}}\n",
            devices.join(", ")
        ));
    }
    namespace.nft(&script)
}

/// Makes the sender cut super-frames before they reach the cable, as a network card's wire does. Segmentation stays
/// the kernel's work, done as late as possible; checksums stay the card's.
///
/// # Errors
/// When `ethtool` refuses.
pub fn mtu_frames(namespace: &NetNs, device: &str) -> Result<(), LabError> {
    let segmentation = [
        "tx-tcp-segmentation",
        "tx-tcp-ecn-segmentation",
        "tx-tcp-mangleid-segmentation",
        "tx-tcp6-segmentation",
        "tx-udp-segmentation",
        "tx-udp_tnl-segmentation",
        "tx-udp_tnl-csum-segmentation",
        "tx-gre-segmentation",
        "tx-gre-csum-segmentation",
        "tx-ipxip4-segmentation",
        "tx-ipxip6-segmentation",
        "tx-sctp-segmentation",
    ];
    let off: Vec<&str> = segmentation
        .iter()
        .flat_map(|name| [*name, "off"])
        .collect();
    offload(namespace, device, &off)
}

/// `ethtool -K device <settings>`.
///
/// # Errors
/// When `ethtool` refuses.
pub fn offload(namespace: &NetNs, device: &str, settings: &[&str]) -> Result<(), LabError> {
    let program = Program::new(tools::find("ethtool")?)
        .args(["-K", device])
        .args(settings);
    namespace.succeed(&program).map(drop)
}

/// What a device has carried.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Carried {
    pub received_bytes: u64,
    pub received_frames: u64,
    pub sent_bytes: u64,
    pub sent_frames: u64,
}

impl Carried {
    /// What was carried since `earlier`.
    #[must_use]
    pub const fn since(&self, earlier: &Self) -> Self {
        Self {
            received_bytes: self.received_bytes - earlier.received_bytes,
            received_frames: self.received_frames - earlier.received_frames,
            sent_bytes: self.sent_bytes - earlier.sent_bytes,
            sent_frames: self.sent_frames - earlier.sent_frames,
        }
    }
}

/// Reads the counters of a device.
///
/// # Errors
/// When there is no such device.
pub fn carried(host: &Host, device: &str) -> Result<Carried, LabError> {
    let text = host.read("/proc/net/dev")?;
    let line = text.lines().find_map(|line| {
        let (name, counters) = line.split_once(':')?;
        (name.trim() == device).then_some(counters)
    });
    let fields: Vec<u64> = line
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect();
    match (fields.first(), fields.get(1), fields.get(8), fields.get(9)) {
        (Some(&received_bytes), Some(&received_frames), Some(&sent_bytes), Some(&sent_frames)) => {
            Ok(Carried {
                received_bytes,
                received_frames,
                sent_bytes,
                sent_frames,
            })
        }
        _ => Err(LabError::Reply {
            what: format!("/proc/net/dev of {} about {device}", host.name()),
            text,
        }),
    }
}
