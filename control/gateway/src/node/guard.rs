//! The guard of a service port: what its instance may send, and under which address.
//!
//! An instance that moved here goes on with the address that it had where it ran first, because its sockets are bound to
//! it. Only its own namespace knows that address: the port writes the NsIP into what the instance sends, and the kept
//! address into what is sent to it.
//!
//! ```text
//!   eth-sluice ── kept address ──► port: MAC, source ── NsIP ──► bridge, gateway, firewall
//!              ◄─ kept address ───       destination ◄─ NsIP ──
//! ```
//!
//! What comes from any other address is dropped. A socket that sends it is told at once, and not left to its timeouts.

use super::devices::Mac;
use super::nft::{BaseChain, Batch, Header, Hook, Rule, TableFamily, octets};
use super::rules::{Port, TABLE};
use sluice_wire::{Dual, Family, Ip};

const ETHER_IP: u16 = 0x0800;
const ETHER_ARP: u16 = 0x0806;
const ETHER_IP6: u16 = 0x86dd;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;

/// Destination unreachable, time exceeded, parameter problem.
const ICMP_ERRORS: [u8; 3] = [3, 11, 12];
/// The same with "packet too big" (RFC 4443).
const ICMP6_ERRORS: [u8; 4] = [1, 2, 3, 4];

/// Of each kind, for a foreign source: enough for every socket of an application, and no work for who floods.
const ANSWERS_PER_SECOND: u64 = 100;
const ANSWERS_AT_ONCE: u32 = 50;
/// "Communication administratively prohibited": an error for UDP sockets, too (RFC 1812, 5.2.7.1).
const PROHIBITED: u8 = 13;
/// "Source address failed ingress/egress policy" (RFC 4443, 3.1).
const SOURCE_FAILED: u8 = 5;

/// What the guard needs of the kernel beyond dropping.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Foreign {
    /// Senders are told. `CONFIG_NFT_REJECT_NETDEV`, Linux 5.11 and newer.
    Told,
    /// They are not.
    Dropped,
}

/// The chains of one service port; the policy of what it sends is to drop.
pub(super) fn add(batch: &mut Batch, port: &Port<'_>, foreign: Foreign) {
    let chain = BaseChain {
        name: port.device,
        kind: "filter",
        hook: Hook::Ingress {
            device: port.device,
        },
        priority: 0,
        policy_drop: true,
    };
    batch.chain(TableFamily::Netdev, TABLE, &chain);
    for rule in from_instance(port, foreign) {
        batch.append(TableFamily::Netdev, TABLE, port.device, &rule);
    }
    let rules = to_instance(port);
    if !rules.is_empty() {
        let name = to_name(port.device);
        let chain = BaseChain {
            name: &name,
            hook: Hook::Egress {
                device: port.device,
            },
            policy_drop: false,
            ..chain
        };
        batch.chain(TableFamily::Netdev, TABLE, &chain);
        for rule in rules {
            batch.append(TableFamily::Netdev, TABLE, &name, &rule);
        }
    }
}

/// The names of a port's chains. The second one is there only when an address is kept.
pub(super) fn names(device: &str) -> [String; 2] {
    [device.to_owned(), to_name(device)]
}

fn to_name(device: &str) -> String {
    format!("{device}-to")
}

fn from_instance(port: &Port<'_>, foreign: Foreign) -> Vec<Rule> {
    let mac = port.mac;
    let mut rules = vec![Rule::new().not_bytes(Header::Link, 6, &mac).count().drop()];
    if let Some(ip) = port.address.v4 {
        match port.kept.v4 {
            Some(kept) => rules.extend(renamed(kept, ip)),
            None => rules.extend(own_v4(mac, ip)),
        }
    }
    if let Some(ip) = port.address.v6 {
        rules.extend(discovery(mac, ip, port.kept.v6.is_some()));
        match port.kept.v6 {
            Some(kept) => rules.extend(renamed(kept, ip)),
            None => rules.push(Rule::new().ether_type(ETHER_IP6).source_is(ip).accept()),
        }
        // Neighbour discovery and multicast reports use the link-local address.
        let icmp = Rule::new().ether_type(ETHER_IP6).l4(ICMP6);
        rules.push(icmp.source_is(link_local(mac)).accept());
    }
    if foreign == Foreign::Told {
        rules.extend(told(port.address));
    }
    rules.push(Rule::new().count().drop());
    rules
}

fn own_v4(mac: Mac, ip: Ip) -> [Rule; 2] {
    const ARP_SENDER_MAC: u32 = 8;
    const ARP_SENDER_IP: u32 = 14;
    [
        Rule::new().ether_type(ETHER_IP).source_is(ip).accept(),
        Rule::new()
            .ether_type(ETHER_ARP)
            .bytes(Header::Network, ARP_SENDER_MAC, &mac)
            .bytes(Header::Network, ARP_SENDER_IP, &octets(ip))
            .accept(),
    ]
}

/// What the instance may not say about neighbours.
fn discovery(mac: Mac, ip: Ip, is_kept: bool) -> Vec<Rule> {
    const ND_TARGET: u32 = 8;
    const ND_ADVERTISEMENT: u8 = 136;
    let icmp = || Rule::new().ether_type(ETHER_IP6).l4(ICMP6);
    // Router advertisements and redirects are a router's.
    let mut rules: Vec<Rule> = [134, 137]
        .map(|kind| icmp().bytes(Header::Transport, 0, &[kind]).count().drop())
        .into();
    // An advertisement may only be about the instance's own addresses. A kept one is nobody's business: both ends have
    // static neighbours then.
    let mut advertisement = icmp().bytes(Header::Transport, 0, &[ND_ADVERTISEMENT]);
    let known = (!is_kept).then_some(ip);
    for own in known.into_iter().chain([link_local(mac)]) {
        advertisement = advertisement.not_bytes(Header::Transport, ND_TARGET, &octets(own));
    }
    rules.push(advertisement.count().drop());
    rules
}

/// What is sent from the kept address goes on as the NsIP's, and so does what an error quotes: a packet to it.
fn renamed(kept: Ip, ns_ip: Ip) -> Vec<Rule> {
    let from = || Rule::new().ether_type(ether_type(kept)).source_is(kept);
    let mut rules = quoted(from, QUOTED_DESTINATION, kept, ns_ip);
    rules.push(from().write_source(ns_ip).accept());
    rules
}

fn to_instance(port: &Port<'_>) -> Vec<Rule> {
    let pairs = [
        (port.address.v4, port.kept.v4),
        (port.address.v6, port.kept.v6),
    ];
    let mut rules = Vec::new();
    for (ns_ip, kept) in pairs.into_iter().filter_map(|(ip, kept)| ip.zip(kept)) {
        let to = || {
            Rule::new()
                .ether_type(ether_type(ns_ip))
                .destination_is(ns_ip)
        };
        rules.extend(quoted(to, QUOTED_SOURCE, ns_ip, kept));
        rules.push(to().write_destination(kept));
    }
    rules
}

/// Where an ICMP error has an address of the packet that it quotes, from its own header on: IPv4 and IPv6.
type Quoted = (u32, u32);
const QUOTED_SOURCE: Quoted = (8 + 12, 8 + 8);
const QUOTED_DESTINATION: Quoted = (8 + 16, 8 + 24);

/// Rewrites an address in the quote of the errors among `which`.
fn quoted(which: impl Fn() -> Rule, at: Quoted, from: Ip, to: Ip) -> Vec<Rule> {
    // The quoted IPv4 header has a checksum of its own, and where that is right the error's is, too.
    const QUOTED_SUM: u32 = 8 + 10;
    const ICMP6_SUM: u32 = 2;
    let (protocol, kinds, at, sum): (_, &[u8], _, _) = match from.family() {
        Family::V4 => (ICMP, &ICMP_ERRORS, at.0, QUOTED_SUM),
        Family::V6 => (ICMP6, &ICMP6_ERRORS, at.1, ICMP6_SUM),
    };
    let rules = kinds.iter().map(|kind| {
        which()
            .l4(protocol)
            .bytes(Header::Transport, 0, &[*kind])
            .bytes(Header::Transport, at, &octets(from))
            .write_transport(at, &octets(to), sum)
    });
    rules.collect()
}

/// Answers to whoever sends from an address that is not its own.
fn told(address: Dual<Ip>) -> Vec<Rule> {
    let few = |ip: Ip, protocol: u8| {
        Rule::new()
            .ether_type(ether_type(ip))
            .l4(protocol)
            .at_most(ANSWERS_PER_SECOND, ANSWERS_AT_ONCE)
            .count()
    };
    let answers = address.iter().flat_map(|ip| {
        let code = match ip.family() {
            Family::V4 => PROHIBITED,
            Family::V6 => SOURCE_FAILED,
        };
        [few(ip, TCP).reset(), few(ip, UDP).unreachable(code)]
    });
    answers.collect()
}

const fn ether_type(ip: Ip) -> u16 {
    match ip.family() {
        Family::V4 => ETHER_IP,
        Family::V6 => ETHER_IP6,
    }
}

/// RFC 4291 appendix A.
fn link_local(mac: Mac) -> Ip {
    let [a, b, c, d, e, f] = mac;
    Ip::v6([
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        a ^ 2,
        b,
        c,
        0xff,
        0xfe,
        d,
        e,
        f,
    ])
}
