//! The guard of a service port: what its instance may send.
//!
//! What comes from any other address is dropped. A socket that sends it is told at once, and not left to its timeouts.

use super::devices::Mac;
use super::nft::{BaseChain, Batch, Header, Hook, Rule, TableFamily, octets};
use super::rules::{Port, TABLE};
use sluice_wire::{Dual, Family, Ip};

const ETHER_IP: u16 = 0x0800;
const ETHER_ARP: u16 = 0x0806;
const ETHER_IP6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;

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

/// The chain of one service port; its policy is to drop.
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
}

fn from_instance(port: &Port<'_>, foreign: Foreign) -> Vec<Rule> {
    let mac = port.mac;
    let mut rules = vec![Rule::new().not_bytes(Header::Link, 6, &mac).count().drop()];
    if let Some(ip) = port.address.v4 {
        rules.extend(own_v4(mac, ip));
    }
    if let Some(ip) = port.address.v6 {
        rules.extend(discovery(mac, ip));
        rules.push(Rule::new().ether_type(ETHER_IP6).source_is(ip).accept());
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
fn discovery(mac: Mac, ip: Ip) -> Vec<Rule> {
    const ND_TARGET: u32 = 8;
    const ND_ADVERTISEMENT: u8 = 136;
    let icmp = || Rule::new().ether_type(ETHER_IP6).l4(ICMP6);
    // Router advertisements and redirects are a router's.
    let mut rules: Vec<Rule> = [134, 137]
        .map(|kind| icmp().bytes(Header::Transport, 0, &[kind]).count().drop())
        .into();
    // An advertisement may only be about the instance's own addresses.
    let mut advertisement = icmp().bytes(Header::Transport, 0, &[ND_ADVERTISEMENT]);
    for own in [ip, link_local(mac)] {
        advertisement = advertisement.not_bytes(Header::Transport, ND_TARGET, &octets(own));
    }
    rules.push(advertisement.count().drop());
    rules
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
