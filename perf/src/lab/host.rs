//! Where a part of a measurement runs: a namespace of this laboratory, this machine, or another one by a remote shell.

use super::error::LabError;
use super::netns::{NetNs, with_open_signals};
use super::process::Program;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::process::{Child, Command};

/// A place for processes with a network of its own.
#[derive(Clone, Debug)]
pub enum Host {
    Namespace(NetNs),
    /// This machine as it is.
    Here,
    /// Another machine: programs are started by `shell`, to which the host's name and the command are appended.
    Remote {
        shell: Vec<String>,
        name: String,
    },
    /// A namespace of one of the others, by the name that `ip netns` knows.
    Inside {
        host: Box<Self>,
        namespace: String,
    },
}

impl From<&NetNs> for Host {
    fn from(namespace: &NetNs) -> Self {
        Self::Namespace(namespace.clone())
    }
}

/// A network device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Device {
    pub index: u32,
    pub mac: [u8; 6],
}

impl Host {
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Namespace(namespace) => namespace.name(),
            Self::Here => "this machine",
            Self::Remote { name, .. } => name,
            Self::Inside { namespace, .. } => namespace,
        }
    }

    /// The namespace of that name at this host.
    #[must_use]
    pub fn inside(&self, namespace: &str) -> Self {
        Self::Inside {
            host: Box::new(self.clone()),
            namespace: namespace.to_owned(),
        }
    }

    /// The program by which this one is started from here.
    pub(super) fn reached(&self, program: &Program) -> Program {
        match self {
            Self::Namespace(_) | Self::Here => program.clone(),
            Self::Remote { shell, name } => {
                let mut prefix = shell.clone();
                prefix.push(name.clone());
                program.through(&prefix)
            }
            Self::Inside { host, namespace } => {
                let enter = ["ip", "netns", "exec", namespace].map(str::to_owned);
                host.reached(&program.through(&enter))
            }
        }
    }

    /// Starts what [`Host::reached`] returned.
    pub(super) fn spawn(&self, mut command: Command) -> io::Result<Child> {
        match self {
            Self::Namespace(namespace) => {
                namespace.run(move || with_open_signals(|| command.spawn()))
            }
            Self::Here | Self::Remote { .. } => with_open_signals(|| command.spawn()),
            Self::Inside { host, .. } => host.spawn(command),
        }
    }

    /// Runs a program there that must succeed, and returns what it said on standard output.
    ///
    /// # Errors
    /// When it cannot be started or ends with another status than 0.
    pub fn succeed(&self, program: &Program) -> Result<String, LabError> {
        let program = self.reached(program);
        let output = program.finish(|command| self.spawn(command))?;
        program.judge(&output, self.name())
    }

    /// Reads a file as a process there sees it (`/proc/net` is its network's).
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, path: &str) -> Result<String, LabError> {
        match self {
            Self::Namespace(namespace) => namespace.read(path),
            Self::Here => fs::read_to_string(path).map_err(LabError::file(path)),
            Self::Remote { .. } | Self::Inside { .. } => {
                self.succeed(&Program::new("cat").arg(path))
            }
        }
    }

    /// Gives `ip` the commands, one a line, each without the word `ip`.
    ///
    /// # Errors
    /// With what `ip` said, when one fails.
    pub fn ip(&self, commands: &str) -> Result<(), LabError> {
        let program = Program::new("ip").args(["-batch", "-"]).input(commands);
        self.succeed(&program).map(drop)
    }

    /// Gives `nft` a script.
    ///
    /// # Errors
    /// With what `nft` said, when it refuses.
    pub fn nft(&self, script: &str) -> Result<(), LabError> {
        let program = Program::new("nft").args(["-f", "-"]).input(script);
        self.succeed(&program).map(drop)
    }

    /// What `ip` says about a device.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn device(&self, name: &str) -> Result<Device, LabError> {
        let program = Program::new("ip").args(["-j", "link", "show", "dev", name]);
        let text = self.succeed(&program)?;
        parse(&text).ok_or_else(|| LabError::Reply {
            what: format!("`{program}` at {}", self.name()),
            text,
        })
    }

    /// The first IPv4 address of a device.
    ///
    /// # Errors
    /// When it has none.
    pub fn address(&self, name: &str) -> Result<Ipv4Addr, LabError> {
        let program = Program::new("ip").args(["-j", "-4", "address", "show", "dev", name]);
        let text = self.succeed(&program)?;
        parse_address(&text).ok_or_else(|| LabError::Reply {
            what: format!("`{program}` at {}, for an IPv4 address,", self.name()),
            text,
        })
    }
}

fn parse_address(text: &str) -> Option<Ipv4Addr> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let first = value.get(0)?.get("addr_info")?.get(0)?;
    first.get("local")?.as_str()?.parse().ok()
}

fn parse(text: &str) -> Option<Device> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let link = value.get(0)?;
    Some(Device {
        index: u32::try_from(link.get("ifindex")?.as_u64()?).ok()?,
        mac: mac(link.get("address")?.as_str()?)?,
    })
}

/// Six octets as two hexadecimal digits each, with colons between.
#[must_use]
pub fn mac(text: &str) -> Option<[u8; 6]> {
    let octet = |text: &str| {
        let is_plain = text.len() == 2 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        is_plain.then(|| u8::from_str_radix(text, 16).ok())?
    };
    let octets: Option<Vec<u8>> = text.split(':').map(octet).collect();
    octets?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_read_from_what_ip_says() {
        let text = r#"[{"ifindex":7,"link":"eth0","ifname":"wire","mtu":1500,"address":"02:00:00:00:00:0a"}]"#;
        let device = Device {
            index: 7,
            mac: [2, 0, 0, 0, 0, 10],
        };
        assert_eq!(parse(text), Some(device));
        let text =
            r#"[{"ifindex":7,"addr_info":[{"family":"inet","local":"192.0.2.7","prefixlen":24}]}]"#;
        assert_eq!(parse_address(text), Some(Ipv4Addr::new(192, 0, 2, 7)));
        assert_eq!(parse_address(r#"[{"ifindex":7,"addr_info":[]}]"#), None);
        assert_eq!(parse("[{}]"), None);
        for wrong in [
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "2:0:0:0:0:a",
            "02:00:00:00:00:+a",
        ] {
            assert_eq!(mac(wrong), None, "{wrong}");
        }
    }
}
