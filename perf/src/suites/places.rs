//! Where the parts of a suite run when they are not namespaces of this machine: hosts and interfaces, as arguments say them.

use crate::lab::Host;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A host and interfaces on it: `[USER@]HOST[/NETNS]:INTERFACE[,INTERFACE]`, without `HOST` this machine. `NETNS` is a network
/// namespace of that host, as `ip netns` names them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    host: Option<String>,
    namespace: Option<String>,
    pub interfaces: Vec<String>,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| {
            Err(format!(
                "`{text}` {what}; expected [USER@]HOST[/NETNS]:INTERFACE, like root@10.0.0.7:eth1 or root@gw/client:eth0, or INTERFACE of this machine"
            ))
        };
        let (host, interfaces) = match text.rsplit_once(':') {
            Some(("", _)) => return wrong("names no host before its colon"),
            Some((host, interfaces)) => (Some(host.to_owned()), interfaces),
            None => (None, text),
        };
        let (host, namespace) = match host.as_deref().map(|host| host.split_once('/')) {
            Some(Some((host, namespace))) => (
                (!host.is_empty()).then(|| host.to_owned()),
                Some(namespace.to_owned()),
            ),
            Some(None) | None => (host, None),
        };
        // What a remote shell could take for an option or for more than one word.
        let plain = |name: &str| {
            let odd = |letter: char| !(letter.is_alphanumeric() || "@.-_:[]%".contains(letter));
            !name.starts_with('-') && !name.contains(odd)
        };
        if !host.as_deref().is_none_or(plain) {
            return wrong("names a host that cannot be");
        }
        if namespace
            .as_deref()
            .is_some_and(|name| name.is_empty() || !plain(name))
        {
            return wrong("names a network namespace that cannot be");
        }
        let interfaces: Vec<String> = interfaces.split(',').map(str::to_owned).collect();
        for interface in &interfaces {
            if !(1..=15).contains(&interface.len()) || !plain(interface) || interface.contains(':')
            {
                return wrong("names an interface that cannot be");
            }
        }
        Ok(Self {
            host,
            namespace,
            interfaces,
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.host.as_deref().unwrap_or_default())?;
        if let Some(namespace) = &self.namespace {
            write!(f, "/{namespace}")?;
        }
        if self.host.is_some() || self.namespace.is_some() {
            f.write_str(":")?;
        }
        f.write_str(&self.interfaces.join(","))
    }
}

impl Place {
    /// The host, reached by `shell`.
    #[must_use]
    pub fn machine(&self, shell: &[String]) -> Host {
        self.host.as_ref().map_or(Host::Here, |name| Host::Remote {
            shell: shell.to_vec(),
            name: name.clone(),
        })
    }

    /// The network namespace on that host, or the host when none was named.
    #[must_use]
    pub fn host(&self, shell: &[String]) -> Host {
        let machine = self.machine(shell);
        match &self.namespace {
            Some(namespace) => machine.inside(namespace),
            None => machine,
        }
    }

    /// Whether it is a namespace of the host that `other` is on.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self.namespace.is_some() && self.host == other.host
    }
}

/// What a suite over hosts is told, in place of the namespaces it would make.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Places {
    /// Sends frames out of its one interface, or is the instance that calls: a namespace at `dut`.
    pub generator: Place,
    /// The device under test: frames come in at the first of its two interfaces and leave by the second.
    pub dut: Place,
    /// Counts what arrives at its one interface; its namespace is the instance that is called.
    pub sink: Place,
    /// Another instance at `dut`, which floods.
    pub flooder: Option<Place>,
    /// What starts a command at a host whose name follows, like `ssh`.
    pub shell: Vec<String>,
    /// The gateway of the device under test, and with connections the sink's, each configured there.
    pub gateway: Gateway,
}

/// A gateway that stands on its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Gateway {
    /// The commands that start it, and stop it.
    pub start: Vec<String>,
    pub stop: Vec<String>,
    /// Its configuration file, which suites with connections change for their runs.
    pub config: String,
    pub call: Call,
}

/// A call that the gateway carries to the sink: `CALLER,DIALLED,CALLED`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Call {
    /// The NsIP of an instance of its own.
    pub caller: Ipv4Addr,
    /// A ServiceIP or InstanceIP.
    pub dialled: Ipv4Addr,
    /// The NsIP that it stands for, on the sink's node.
    pub called: Ipv4Addr,
}

impl FromStr for Call {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let addresses: Result<Vec<Ipv4Addr>, _> = text.split(',').map(str::parse).collect();
        match addresses.as_deref() {
            Ok(&[caller, dialled, called]) => Ok(Self {
                caller,
                dialled,
                called,
            }),
            _ => Err(format!(
                "`{text}` is not CALLER,DIALLED,CALLED: three IPv4 addresses, like 10.18.0.2,10.30.0.5,10.18.0.66: the NsIP \
                 of an instance at --dut, the service address it dials, and the NsIP of its only instance, at --sink"
            )),
        }
    }
}

/// What `--flooder` must be.
pub(super) const A_FLOODER: &str =
    "one interface of a second instance at the device under test, HOST/NETNS:INTERFACE";

impl Places {
    /// # Errors
    /// When a place has too few or too many interfaces.
    pub fn checked(self) -> Result<Self, String> {
        for (name, place, count, what) in [
            (
                "--generator",
                &self.generator,
                1,
                "one interface, which it sends by",
            ),
            ("--dut", &self.dut, 2, "two interfaces, SERVICE,UNDERLAY"),
            (
                "--sink",
                &self.sink,
                1,
                "one interface, which it receives at",
            ),
        ] {
            // Instances need no interface of the service side.
            let given = place.interfaces.len();
            let underlay_only = name == "--dut" && given == 1 && self.has_instances();
            if given != count && !underlay_only {
                return Err(format!("{name} {place}: expected {what}"));
            }
        }
        if let Some(flooder) = &self.flooder
            && !(flooder.is_within(&self.dut) && flooder.interfaces.len() == 1)
        {
            return Err(format!("--flooder {flooder}: expected {A_FLOODER}"));
        }
        Ok(self)
    }

    /// Whether the ends are instances, which can have connections: a namespace at the device under test, and one at the sink.
    #[must_use]
    pub fn has_instances(&self) -> bool {
        self.generator.is_within(&self.dut) && self.sink.namespace.is_some()
    }

    /// What a part that needs connections says when there can be none.
    #[must_use]
    pub fn no_instances(&self, part: &str) -> String {
        format!(
            "{part} measures connections between instances in network namespaces, as TUN mode has them: --generator must be one \
             at the device under test (HOST/NETNS:INTERFACE), --sink one at its host; --generator {}, --dut {} and --sink {} are not",
            self.generator, self.dut, self.sink
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_host_and_interfaces() {
        for (text, host, interfaces) in [
            ("eth0", None, &["eth0"][..]),
            (
                "me@10.0.0.7:eth1,eth2.5",
                Some("me@10.0.0.7"),
                &["eth1", "eth2.5"],
            ),
            ("[fe80::1%eth9]:eth1", Some("[fe80::1%eth9]"), &["eth1"]),
            ("root@gw/client:eth0", Some("root@gw"), &["eth0"]),
            ("/client:eth0", None, &["eth0"]),
        ] {
            let place: Place = text.parse().unwrap();
            assert_eq!(
                (place.host.as_deref(), &place.interfaces[..]),
                (
                    host,
                    &interfaces
                        .iter()
                        .map(|name| (*name).to_owned())
                        .collect::<Vec<_>>()[..]
                )
            );
            assert_eq!(place.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_place_is_named_beside_the_form_of_one() {
        for text in [
            ":eth0",
            "host:",
            "",
            "host:eth0,",
            "-oProxyCommand=x:eth0",
            "a b:eth0",
            "h:a-name-much-too-long",
            "h:-e",
            "h/:eth0",
            "h/a/b:eth0",
        ] {
            let error = text.parse::<Place>().unwrap_err();
            assert!(
                error.contains(&format!("`{text}`")) && error.contains("USER@"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_call_has_three_addresses() {
        let call: Call = "10.18.0.2,10.30.0.5,10.18.0.66".parse().unwrap();
        assert_eq!(call.dialled, Ipv4Addr::new(10, 30, 0, 5));
        for text in ["10.18.0.2,10.30.0.5", "10.18.0.2,10.30.0.5,x", ""] {
            let error = text.parse::<Call>().unwrap_err();
            assert!(
                error.contains(text) && error.contains("CALLER,DIALLED,CALLED"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_device_under_test_has_two_interfaces() {
        let place = |text: &str| text.parse::<Place>().unwrap();
        let places = |dut: &str| Places {
            generator: place("a:eth0"),
            dut: place(dut),
            sink: place("c:eth0"),
            flooder: None,
            shell: vec!["ssh".to_owned()],
            gateway: Gateway {
                start: Vec::new(),
                stop: Vec::new(),
                config: String::new(),
                call: "10.18.0.2,10.30.0.5,10.18.0.66".parse().unwrap(),
            },
        };
        assert!(places("b:eth0,eth1").checked().is_ok());
        let instances = Places {
            generator: place("b/client:eth0"),
            sink: place("c/server:eth0"),
            ..places("b:eth1")
        };
        assert!(instances.has_instances() && instances.clone().checked().is_ok());
        let elsewhere = Places {
            dut: place("d:eth1"),
            ..instances
        };
        assert!(!elsewhere.has_instances() && elsewhere.checked().is_err());
        let error = places("b:eth0").checked().unwrap_err();
        assert!(
            error.contains("--dut b:eth0") && error.contains("SERVICE,UNDERLAY"),
            "{error}"
        );
    }
}
