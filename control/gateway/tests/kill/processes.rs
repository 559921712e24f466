//! One root and one cluster manager as processes, killed and started again on the same files and addresses.

use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const ROOT_PORT: u16 = 10_099;
const CLUSTER_PORT: u16 = 10_110;
const BROKER_PORT: u16 = 10_003;

pub(crate) struct Installation {
    directory: PathBuf,
    /// A loopback address of this process alone: the ports need not be free anywhere else.
    host: Ipv4Addr,
    root: Child,
    cluster: Child,
}

impl Drop for Installation {
    fn drop(&mut self) {
        for child in [&mut self.root, &mut self.cluster] {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Installation {
    pub(crate) fn start() -> Self {
        let pid = std::process::id();
        let [_, high, middle, low] = pid.to_be_bytes();
        let host = Ipv4Addr::new(127, 64 + (high & 63), middle, low.max(1));
        let directory = std::env::temp_dir().join(format!("sluice-kill-{pid}"));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        let at = directory.display();
        let config = format!(
            r#"[root]
listen = "{host}:{ROOT_PORT}"
data_dir = "{at}/root"
admin_socket = "{at}/root.sock"
subnet_rest_s = 86400

[cluster]
id = "site"
listen = "{host}:{CLUSTER_PORT}"
root = "{host}:{ROOT_PORT}"
data_dir = "{at}/cluster"
admin_socket = "{at}/cluster.sock"

[cluster.broker]
mode = "embedded"
listen = "{host}:{BROKER_PORT}"
"#
        );
        fs::write(directory.join("sluice.toml"), config).unwrap();
        let (root, cluster) = (spawn(&directory, "root"), spawn(&directory, "cluster"));
        Self {
            directory,
            host,
            root,
            cluster,
        }
    }

    pub(crate) fn root_address(&self) -> SocketAddr {
        (self.host, ROOT_PORT).into()
    }

    pub(crate) fn broker_address(&self) -> SocketAddr {
        (self.host, BROKER_PORT).into()
    }

    pub(crate) fn kill_root(&mut self) {
        kill(&mut self.root);
        self.root = spawn(&self.directory, "root");
    }

    pub(crate) fn kill_cluster(&mut self) {
        kill(&mut self.cluster);
        self.cluster = spawn(&self.directory, "cluster");
    }

    pub(crate) fn kill_both(&mut self) {
        kill(&mut self.root);
        self.kill_cluster();
        self.root = spawn(&self.directory, "root");
    }

    /// Neither has ended by itself.
    pub(crate) fn check(&mut self) {
        let ended = [("root", &mut self.root), ("cluster", &mut self.cluster)]
            .into_iter()
            .find_map(|(role, child)| Some((role, child.try_wait().unwrap()?)));
        if let Some((role, status)) = ended {
            panic!("sluice {role} ended by itself: {status}\n{}", self.logs());
        }
    }

    /// The end of what both have said.
    pub(crate) fn logs(&self) -> String {
        ["root", "cluster"]
            .map(|role| {
                let text = fs::read_to_string(log(&self.directory, role)).unwrap_or_default();
                let lines: Vec<_> = text.lines().collect();
                let last = lines[lines.len().saturating_sub(20)..].join("\n");
                format!("-- {role}\n{last}\n")
            })
            .concat()
    }
}

fn log(directory: &Path, role: &str) -> PathBuf {
    directory.join(format!("{role}.log"))
}

fn spawn(directory: &Path, role: &str) -> Child {
    let log: File = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log(directory, role))
        .unwrap();
    Command::new(env!("CARGO_BIN_EXE_sluice"))
        .arg(role)
        .arg("--config")
        .arg(directory.join("sluice.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// SIGKILL, and gone when this returns.
fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}
