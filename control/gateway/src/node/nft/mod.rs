//! A small nf_tables encoder over netlink: batches of tables, chains and rules, and the listing of chains and rules.
//!
//! An own one, because of what exists: `rustables` is GPL, `nftnl` needs the C libraries, `nftables` runs `nft`, and
//! `netlink-packet-netfilter` has no NAT, masquerade, fib or conntrack expressions. It knows exactly what the node's
//! wiring uses; layouts are those of `include/uapi/linux/netfilter/nf_tables.h`.

pub(crate) mod attribute;
mod rule;

pub(crate) use rule::{Header, Rule, octets};

use attribute::{Attributes, read};

use super::netlink::{NetlinkError, netfilter};

/// The families a table can belong to (`NFPROTO_*`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum TableFamily {
    Inet,
    Ip,
    Ip6,
    Netdev,
}

impl TableFamily {
    const fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Netdev => 5,
            Self::Ip6 => 10,
        }
    }
}

/// Where a base chain sits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hook<'a> {
    /// Before anything else sees a frame from this device.
    Ingress {
        device: &'a str,
    },
    /// After everything else, on its way out of this device. Linux 5.16 and newer.
    Egress {
        device: &'a str,
    },
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

/// A base chain; its policy is given apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BaseChain<'a> {
    pub(crate) name: &'a str,
    /// `filter` or `nat`.
    pub(crate) kind: &'a str,
    pub(crate) hook: Hook<'a>,
    pub(crate) priority: i32,
    pub(crate) policy_drop: bool,
}

/// A chain as the kernel lists it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ListedChain {
    pub(crate) family: TableFamily,
    pub(crate) table: String,
    pub(crate) name: String,
    /// `NF_INET_*` number of a base chain's hook.
    pub(crate) hook: Option<u32>,
    pub(crate) policy_drop: bool,
}

impl std::fmt::Display for ListedChain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let family = match self.family {
            TableFamily::Inet => "inet",
            TableFamily::Ip => "ip",
            TableFamily::Ip6 => "ip6",
            TableFamily::Netdev => "netdev",
        };
        write!(f, "{family} {} {}", self.table, self.name)
    }
}

/// A rule as the kernel lists it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ListedRule {
    pub(crate) handle: u64,
    pub(crate) comment: Option<String>,
    pub(crate) matches: Vec<Match>,
}

/// What a listed rule compares something with, as far as it can be told without knowing what that something is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Match {
    /// This value, in the byte order of the packet.
    Value(Vec<u8>),
    /// The elements of a set of its table.
    Set(String),
    /// An extension of iptables, with its data.
    Extension { name: String, data: Vec<u8> },
}

const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const LIST_CHAINS: u16 = 4;
const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const LIST_RULES: u16 = 7;
const DELETE_RULE: u16 = 8;
const LIST_ELEMENTS: u16 = 13;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// The `NF_INET_LOCAL_IN` hook number.
pub(crate) const HOOK_INPUT: u32 = 1;
/// The `NF_INET_FORWARD` hook number.
pub(crate) const HOOK_FORWARD: u32 = 2;

/// Changes that the kernel makes all together or not at all.
pub(crate) struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
    /// Where the last change starts; the kernel acknowledges that one.
    last_at: Option<usize>,
}

impl Batch {
    pub(crate) fn new() -> Self {
        let mut batch = Self {
            bytes: Vec::new(),
            sequence: 0,
            last_at: None,
        };
        batch.control(BATCH_BEGIN);
        batch
    }

    fn control(&mut self, kind: u16) {
        message(
            &mut self.bytes,
            kind,
            REQUEST,
            self.sequence,
            0,
            SUBSYSTEM,
            &Attributes::new(),
        );
        self.sequence += 1;
    }

    fn change(&mut self, kind: u16, flags: u16, family: TableFamily, attributes: &Attributes) {
        self.last_at = Some(self.bytes.len());
        message(
            &mut self.bytes,
            SUBSYSTEM << 8 | kind,
            REQUEST | flags,
            self.sequence,
            family.number(),
            0,
            attributes,
        );
        self.sequence += 1;
    }

    /// Makes the table if it is not there.
    pub(crate) fn table(&mut self, family: TableFamily, name: &str) {
        self.change(NEW_TABLE, CREATE, family, &Attributes::new().text(1, name));
    }

    /// Fails the batch when the table is not there: make it first.
    pub(crate) fn delete_table(&mut self, family: TableFamily, name: &str) {
        self.change(DELETE_TABLE, 0, family, &Attributes::new().text(1, name));
    }

    /// An empty table of that name, whatever was there before.
    pub(crate) fn fresh_table(&mut self, family: TableFamily, name: &str) {
        self.table(family, name);
        self.delete_table(family, name);
        self.table(family, name);
    }

    pub(crate) fn chain(&mut self, family: TableFamily, table: &str, chain: &BaseChain<'_>) {
        let (number, device) = match chain.hook {
            Hook::Ingress { device } => (0, Some(device)),
            Hook::Egress { device } => (1, Some(device)),
            Hook::Prerouting => (0, None),
            Hook::Input => (HOOK_INPUT, None),
            Hook::Forward => (HOOK_FORWARD, None),
            Hook::Output => (3, None),
            Hook::Postrouting => (4, None),
        };
        let mut hook = Attributes::new()
            .number(1, number)
            .number(2, chain.priority.cast_unsigned());
        if let Some(device) = device {
            hook = hook.text(3, device);
        }
        let attributes = Attributes::new()
            .text(1, table)
            .text(3, chain.name)
            .nested(4, &hook)
            .number(5, u32::from(!chain.policy_drop))
            .text(7, chain.kind);
        self.change(NEW_CHAIN, CREATE, family, &attributes);
    }

    /// With its rules. Fails the batch when the chain is not there.
    pub(crate) fn delete_chain(&mut self, family: TableFamily, table: &str, chain: &str) {
        let attributes = Attributes::new().text(1, table).text(3, chain);
        self.change(DELETE_CHAIN, 0, family, &attributes);
    }

    /// Adds `rule` at the end of the chain.
    pub(crate) fn append(&mut self, family: TableFamily, table: &str, chain: &str, rule: &Rule) {
        self.rule(CREATE | APPEND, family, table, chain, rule);
    }

    /// Adds `rule` at the head of the chain.
    pub(crate) fn insert(&mut self, family: TableFamily, table: &str, chain: &str, rule: &Rule) {
        self.rule(CREATE, family, table, chain, rule);
    }

    fn rule(&mut self, flags: u16, family: TableFamily, table: &str, chain: &str, rule: &Rule) {
        let mut attributes = Attributes::new()
            .text(1, table)
            .text(2, chain)
            .nested(4, rule.expressions());
        if let Some(comment) = rule.comment_data() {
            attributes = attributes.bytes(7, &comment);
        }
        self.change(NEW_RULE, flags, family, &attributes);
    }

    pub(crate) fn delete_rule(
        &mut self,
        family: TableFamily,
        table: &str,
        chain: &str,
        handle: u64,
    ) {
        let attributes = Attributes::new()
            .text(1, table)
            .text(2, chain)
            .bytes(3, &handle.to_be_bytes());
        self.change(DELETE_RULE, 0, family, &attributes);
    }

    /// Every rule of a chain; the chain stays.
    pub(crate) fn flush_chain(&mut self, family: TableFamily, table: &str, chain: &str) {
        let attributes = Attributes::new().text(1, table).text(2, chain);
        self.change(DELETE_RULE, 0, family, &attributes);
    }

    /// Gives the batch to the kernel. `what` names it in errors.
    pub(crate) fn commit(mut self, what: &str) -> Result<(), NetlinkError> {
        let Some(last_at) = self.last_at else {
            return Ok(());
        };
        // The flags field of the last change; a batch is acknowledged as a whole (older kernels do not acknowledge
        // its end marker).
        if let Some(flags) = self.bytes.get_mut(last_at + 6) {
            *flags |= ACKNOWLEDGE.to_ne_bytes()[0];
        }
        let last = self.sequence - 1;
        self.control(BATCH_END);
        netfilter(&self.bytes, last, what, |_| ())
    }
}

/// All chains of the IPv4, IPv6 and inet families.
pub(crate) fn list_chains() -> Result<Vec<ListedChain>, NetlinkError> {
    let mut found = Vec::new();
    for family in [TableFamily::Ip, TableFamily::Ip6, TableFamily::Inet] {
        list(LIST_CHAINS, family, &Attributes::new(), |body| {
            let (mut table, mut name, mut hook, mut policy_drop) = (None, None, None, false);
            for (kind, value) in read(body) {
                match kind {
                    1 => table = attribute::text(value),
                    3 => name = attribute::text(value),
                    4 => {
                        hook = read(value)
                            .find(|(kind, _)| *kind == 1)
                            .and_then(|(_, value)| attribute::number(value));
                    }
                    5 => policy_drop = attribute::number(value) == Some(0),
                    _ => (),
                }
            }
            if let (Some(table), Some(name)) = (table, name) {
                found.push(ListedChain {
                    family,
                    table,
                    name,
                    hook,
                    policy_drop,
                });
            }
        })?;
    }
    Ok(found)
}

/// The rules of one chain, in order.
pub(crate) fn list_rules(
    family: TableFamily,
    table: &str,
    chain: &str,
) -> Result<Vec<ListedRule>, NetlinkError> {
    let mut found = Vec::new();
    let filter = Attributes::new().text(1, table).text(2, chain);
    list(LIST_RULES, family, &filter, |body| {
        let (mut handle, mut comment, mut here) = (None, None, false);
        let mut matches = Vec::new();
        for (kind, value) in read(body) {
            match kind {
                2 => here = attribute::text(value).as_deref() == Some(chain),
                3 => handle = value.try_into().ok().map(u64::from_be_bytes),
                4 => matches = rule::matches(value),
                7 => comment = rule::comment(value),
                _ => (),
            }
        }
        if let Some(handle) = handle.filter(|_| here) {
            found.push(ListedRule {
                handle,
                comment,
                matches,
            });
        }
    })?;
    Ok(found)
}

/// The keys of a set's elements; of a range, its two ends.
pub(crate) fn list_elements(
    family: TableFamily,
    table: &str,
    set: &str,
) -> Result<Vec<Vec<u8>>, NetlinkError> {
    let mut found = Vec::new();
    let filter = Attributes::new().text(1, table).text(2, set);
    list(LIST_ELEMENTS, family, &filter, |body| {
        for (_, elements) in read(body).filter(|(kind, _)| *kind == 3) {
            for (_, element) in read(elements) {
                let key = read(element).find(|(kind, _)| *kind == 1);
                let value = key.and_then(|(_, key)| read(key).find(|(kind, _)| *kind == 1));
                found.extend(value.map(|(_, value)| value.to_vec()));
            }
        }
    })?;
    Ok(found)
}

fn list(
    kind: u16,
    family: TableFamily,
    filter: &Attributes,
    mut each: impl FnMut(&[u8]),
) -> Result<(), NetlinkError> {
    let mut bytes = Vec::new();
    message(
        &mut bytes,
        SUBSYSTEM << 8 | kind,
        REQUEST | DUMP,
        1,
        family.number(),
        0,
        filter,
    );
    netfilter(&bytes, 1, "listing nf_tables", |reply| {
        // After the netlink header (16 bytes) comes nfgenmsg (4 bytes), then attributes.
        if let Some(body) = reply.get(20..) {
            each(body);
        }
    })
}

fn message(
    out: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    family: u8,
    resource: u16,
    attributes: &Attributes,
) {
    let body = attributes.as_bytes();
    let length = u32::try_from(20 + body.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&flags.to_ne_bytes());
    out.extend_from_slice(&sequence.to_ne_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&[family, 0]);
    out.extend_from_slice(&resource.to_be_bytes());
    out.extend_from_slice(body);
}
