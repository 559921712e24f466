//! The plan of a laboratory: who has which address, name and configuration.

use super::super::error::LabError;
use super::super::netns::NetNs;
use super::super::scratch::Scratch;
use super::Layout;
use super::role::{Gateway, Role};
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// Host numbers on the management network.
const ROOT: u8 = 1;
const FIRST_CLUSTER: u8 = 2;
const FIRST_GATEWAY: u8 = 11;

fn management_address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 78, host)
}

/// A cluster manager's address, counted from 0.
pub(super) fn cluster_address(index: usize) -> Ipv4Addr {
    management_address(host(FIRST_CLUSTER, index))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a laboratory has few hosts"
)]
const fn host(first: u8, index: usize) -> u8 {
    first + index as u8
}

pub(super) struct Plan<'a> {
    pub(super) sluice: &'a Path,
    pub(super) scratch: &'a Scratch,
    pub(super) token: &'a Path,
    pub(super) layout: &'a Layout,
}

impl Plan<'_> {
    fn role(&self, role: &'static str, name: &str, sections: &str) -> Result<Role, LabError> {
        let config = format!("[log]\nlevel = \"{}\"\n\n{sections}", self.layout.log_level);
        Role::new(role, name, self.sluice, self.scratch, &config)
    }

    fn path(&self, name: &str) -> String {
        self.scratch.path().join(name).display().to_string()
    }

    pub(super) fn root(&self) -> Result<Role, LabError> {
        let sections = format!(
            "[root]\nlisten = \"{}:10099\"\ndata_dir = \"{}\"\nadmin_socket = \"{}\"\ntoken_file = \"{}\"\n",
            management_address(ROOT),
            self.path("root"),
            self.path("root.sock"),
            self.token.display()
        );
        self.role("root", "root", &sections)
    }

    pub(super) fn cluster(&self, index: usize) -> Result<Role, LabError> {
        let name = format!("cluster-{}", letter(index));
        let own = cluster_address(index);
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

    pub(super) fn gateway(&self, index: usize) -> Result<Gateway, LabError> {
        let name = format!("gateway-{}", index + 1);
        let cluster = self.layout.gateways[index];
        let address = wire_address(index);
        let sections = format!(
            "[gateway]\nnode_id = \"{:024x}\"\ncluster = \"{}:10003\"\ncluster_token_file = \"{}\"\n\
             node_socket = \"{}\"\nadmin_socket = \"{}\"\nstate_dir = \"{}\"\nnode_address = \"{}\"\n{}\n\
             [tunnel]\n{}\n\
             [fastpath]\n{}\n{}\n",
            0xed6e_0000 + index + 1,
            cluster_address(cluster),
            self.token.display(),
            self.path(&format!("{name}-node.sock")),
            self.path(&format!("{name}.sock")),
            self.path(&name),
            address[0],
            self.layout.gateway,
            self.layout.tunnel,
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
pub(super) fn core_of(index: usize) -> String {
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

pub(super) fn hosts(
    root: &Role,
    clusters: &[Role],
    gateways: &[Gateway],
) -> Vec<(NetNs, Ipv4Addr)> {
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

/// A token of 64 hexadecimal digits.
pub(super) fn token() -> Result<String, LabError> {
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
