//! The kernel's IPsec policies: tunnel datagrams that one of them covers are the kernel's to encrypt, decrypt or refuse.

use super::netlink::{self, NetlinkError};
use super::nft::attribute::read;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use rustix::io::Errno;
use sluice_wire::{Ip, Subnet};

/// Which way a policy looks: `XFRM_POLICY_IN` and `XFRM_POLICY_OUT`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Direction {
    In,
    Out,
}

/// A policy that does more than to let datagrams pass. `None` is any address.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Policy {
    direction: Direction,
    source: Option<Subnet>,
    destination: Option<Subnet>,
}

/// All policies that UDP datagrams may meet. Ports and priorities are left to the kernel: what looks covered goes to it,
/// and it decides.
#[derive(Debug, Default)]
pub(crate) struct Policies(Vec<Policy>);

impl Policies {
    /// Those in force now; none on a kernel without IPsec.
    pub(crate) fn read() -> Result<Self, NetlinkError> {
        /// `XFRM_MSG_GETPOLICY`.
        const GET: u16 = 0x15;
        const HEADER: u32 = 16;
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut request = HEADER.to_ne_bytes().to_vec();
        request.extend_from_slice(&GET.to_ne_bytes());
        request.extend_from_slice(&flags.to_ne_bytes());
        request.extend_from_slice(&1_u32.to_ne_bytes());
        request.extend_from_slice(&[0; 4]);
        let mut policies = Vec::new();
        let asked = netlink::ipsec(&request, "listing IPsec policies", |message| {
            policies.extend(policy(message));
        });
        match asked {
            Ok(()) => Ok(Self(policies)),
            Err(NetlinkError::Socket { source, .. })
                if Errno::from_io_error(&source) == Some(Errno::PROTONOSUPPORT) =>
            {
                Ok(Self::default())
            }
            Err(error) => Err(error),
        }
    }

    /// Whether one covers datagrams that leave from `source` for `destination`.
    pub(crate) fn cover_sent(&self, source: Ip, destination: Ip) -> bool {
        self.0.iter().any(|policy| {
            policy.direction == Direction::Out
                && contains(policy.source, source)
                && contains(policy.destination, destination)
        })
    }

    /// Whether one covers datagrams that come for `own`, from wherever.
    pub(crate) fn cover_received(&self, own: Ip) -> bool {
        self.0
            .iter()
            .any(|policy| policy.direction == Direction::In && contains(policy.destination, own))
    }
}

fn contains(range: Option<Subnet>, ip: Ip) -> bool {
    range.is_none_or(|range| range.contains(ip))
}

/// One `XFRM_MSG_NEWPOLICY`: netlink header, `struct xfrm_userpolicy_info`, attributes. `None` for what no tunnel datagram
/// meets: another protocol's, another direction's, an XFRM interface's (which has routes of its own), one that only
/// lets pass.
fn policy(message: &[u8]) -> Option<Policy> {
    const INFO: usize = 16;
    const INFO_LEN: usize = 168;
    const UDP: u8 = 17;
    const ALLOW: u8 = 0;
    const TEMPLATES: u16 = 5;
    const INTERFACE: u16 = 31;
    let info = message.get(INFO..INFO + INFO_LEN)?;
    let attributes = || read(message.get(INFO + INFO_LEN..).unwrap_or_default());
    let direction = match info[160] {
        0 => Direction::In,
        1 => Direction::Out,
        _ => return None,
    };
    let has_work = attributes().any(|(kind, _)| kind == TEMPLATES) || info[161] != ALLOW;
    let of_interface = attributes()
        .any(|(kind, value)| kind == INTERFACE && value.iter().any(|&octet| octet != 0));
    if !matches!(info[44], 0 | UDP) || !has_work || of_interface {
        return None;
    }
    let family = u16::from_ne_bytes([info[40], info[41]]);
    Some(Policy {
        direction,
        destination: range(family, &info[..16], info[42])?,
        source: range(family, &info[16..32], info[43])?,
    })
}

/// The inner `None` is any address, the outer one a family that is none of ours.
#[expect(
    clippy::option_option,
    reason = "two different absences, both said above"
)]
fn range(family: u16, octets: &[u8], length: u8) -> Option<Option<Subnet>> {
    const INET: u16 = 2;
    const INET6: u16 = 10;
    let ip = match family {
        0 => return Some(None),
        INET => Ip::v4(*octets.first_chunk()?),
        INET6 => Ip::v6(*octets.first_chunk()?),
        _ => return None,
    };
    // A length of 0 covers a family whole; so does what the kernel would not have taken.
    Some(Some(Subnet::new(ip, length).unwrap_or(whole(ip)?)))
}

fn whole(ip: Ip) -> Option<Subnet> {
    let any = if ip.is_v4() {
        Ip::v4([0; 4])
    } else {
        Ip::v6([0; 16])
    };
    Subnet::new(any, 0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel lists `ip xfrm policy add src 192.0.2.0/24 dst 198.51.100.7 dir out ...`.
    fn message(direction: u8, action: u8, protocol: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; 16 + 168];
        let info = &mut bytes[16..];
        info[..4].copy_from_slice(&[198, 51, 100, 7]);
        info[16..20].copy_from_slice(&[192, 0, 2, 0]);
        info[40..42].copy_from_slice(&2_u16.to_ne_bytes());
        (info[42], info[43], info[44]) = (32, 24, protocol);
        (info[160], info[161]) = (direction, action);
        for (kind, value) in attributes {
            let len = u16::try_from(4 + value.len()).unwrap();
            bytes.extend_from_slice(&len.to_ne_bytes());
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(value);
        }
        bytes
    }

    #[test]
    fn a_policy_covers_what_its_selector_says() {
        let template: (u16, &[u8]) = (5, &[0; 64]);
        let ip = |text: &str| text.parse::<Ip>().unwrap();
        let sent = |bytes: &[u8], from: &str, to: &str| {
            Policies(policy(bytes).into_iter().collect()).cover_sent(ip(from), ip(to))
        };
        let out = message(1, 0, 0, &[template]);
        assert!(sent(&out, "192.0.2.9", "198.51.100.7"));
        assert!(!sent(&out, "192.0.3.9", "198.51.100.7"));
        assert!(!sent(&out, "192.0.2.9", "198.51.100.8"));
        assert!(!sent(&out, "2001:db8::1", "2001:db8::2"));
        let blocked = message(1, 1, 17, &[]);
        assert!(sent(&blocked, "192.0.2.9", "198.51.100.7"));
        for other in [
            message(1, 0, 0, &[]),
            message(1, 0, 6, &[template]),
            message(2, 0, 0, &[template]),
            message(1, 0, 0, &[template, (31, &[1, 0, 0, 0])]),
        ] {
            assert_eq!(policy(&other), None);
        }
        let own = Policies(policy(&message(0, 0, 0, &[template])).into_iter().collect());
        assert!(own.cover_received(ip("198.51.100.7")));
        assert!(!own.cover_received(ip("198.51.100.8")));
        assert!(!own.cover_sent(ip("192.0.2.9"), ip("198.51.100.7")));
        for len in 0..out.len() - 68 {
            assert_eq!(policy(&out[..len]), None, "cut to {len}");
        }
    }
}
