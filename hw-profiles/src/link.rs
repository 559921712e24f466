//! Which link carries packets: AF_XDP where everything it needs is there, else TUN, with the reason.

use crate::facts::Facts;
use crate::profile::{Profile, Xdp, ZeroCopy};
use serde::{Deserialize, Serialize};

/// A way of packets between the wire and a worker.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// Sockets that the driver fills, past the kernel's stack.
    AfXdp,
    /// A TUN device and UDP sockets: works everywhere.
    Tun,
}

impl Link {
    /// As in files and in status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AfXdp => "af_xdp",
            Self::Tun => "tun",
        }
    }
}

/// The link that fits, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LinkChoice {
    pub link: Link,
    pub why: String,
    /// Whether the driver takes the socket's memory as its own; `false` with TUN.
    pub zero_copy: bool,
}

/// The link for an interface with that profile. The first obstacle to AF_XDP decides; what cannot be asked is believed
/// from the profile, and the reason says so.
#[must_use]
pub fn link_for(profile: &Profile, facts: &Facts) -> LinkChoice {
    let tun = |why: String| LinkChoice {
        link: Link::Tun,
        why,
        zero_copy: false,
    };
    let kernel = &facts.kernel;
    let driver = facts.driver.as_deref().unwrap_or("no driver");
    if profile.link.recommended == Link::Tun {
        return tun(format!("profile {} recommends it", profile.name));
    }
    if kernel.xdp_sockets == Some(false) {
        return tun(
            "the kernel has no AF_XDP sockets; one built with CONFIG_XDP_SOCKETS=y has, and a systemd unit must name \
             AF_XDP in RestrictAddressFamilies"
                .to_owned(),
        );
    }
    if kernel.may_load == Some(false) {
        return tun(
            "this process may not load XDP programs; it needs CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF (or CAP_SYS_ADMIN)"
                .to_owned(),
        );
    }
    match kernel.native_xdp() {
        Some(false) => {
            return tun(format!(
                "driver {driver} has no native XDP with redirect, says the kernel (xdp-features {:#x}); generic XDP \
                 would be slower than TUN",
                kernel.xdp_features.unwrap_or(0)
            ));
        }
        None if profile.link.xdp == Xdp::Generic => {
            return tun(format!(
                "driver {driver} has no native XDP, says profile {}; generic XDP would be slower than TUN",
                profile.name
            ));
        }
        Some(true) | None => {}
    }
    let (zero_copy, how) = match (kernel.zero_copy(), profile.link.zero_copy) {
        (Some(true), _) => (true, "zero copy, says the kernel"),
        (Some(false), _) => (
            false,
            "copy mode: the driver has no zero copy, says the kernel",
        ),
        (None, ZeroCopy::Yes) => (
            true,
            "zero copy, says the profile: this kernel cannot be asked",
        ),
        (None, ZeroCopy::No) => (false, "copy mode, says the profile"),
        (None, ZeroCopy::Kernel) => (
            false,
            "copy mode: zero copy depends on the driver's version, and this kernel cannot be asked",
        ),
    };
    LinkChoice {
        link: Link::AfXdp,
        why: format!("driver {driver} has native XDP; {how}"),
        zero_copy,
    }
}
