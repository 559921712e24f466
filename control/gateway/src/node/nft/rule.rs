//! One rule: matches in the order they are written, then what happens. Reads like the line `nft list` prints.

use sluice_wire::{Family, Ip, Subnet};

use super::Match;
use super::attribute::{Attributes, read, text};

/// Which header a payload match counts from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Header {
    Link,
    Network,
    Transport,
}

/// A rule being written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rule {
    expressions: Attributes,
    comment: Option<String>,
}

const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

/// The 16-byte registers; 0 is the verdict.
const VERDICT: u32 = 0;
const FIRST: u32 = 1;
const SECOND: u32 = 2;

const META_PROTOCOL: u32 = 1;
const META_IN_NAME: u32 = 6;
const META_OUT_NAME: u32 = 7;
const META_FAMILY: u32 = 15;
const META_L4: u32 = 16;

const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
/// `NF_CT_STATE_BIT` of established and related.
const CT_ESTABLISHED_RELATED: u32 = 2 | 4;
/// `IPS_DST_NAT`.
const CT_DST_NAT: u32 = 1 << 5;

const RTN_LOCAL: u32 = 2;

/// `NFT_REJECT_*`.
const REJECT_UNREACHABLE: u32 = 0;
const REJECT_RESET: u32 = 1;

/// `NFT_PAYLOAD_CSUM_INET`: the checksum of RFC 1071.
const CHECKSUM_INET: u32 = 1;
/// `NFT_PAYLOAD_L4CSUM_PSEUDOHDR`: what is written counts in the transport header's checksum, too.
const CHECKSUM_PSEUDO_HEADER: u32 = 1;

impl Rule {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(super) const fn expressions(&self) -> &Attributes {
        &self.expressions
    }

    /// Text that `nft list` shows behind the rule, and by which we find it again. At most 127 bytes.
    pub(crate) fn comment(mut self, text: &str) -> Self {
        self.comment = Some(text.to_owned());
        self
    }

    /// As nft keeps it in the rule's user data: type 0, length, NUL-terminated text.
    pub(super) fn comment_data(&self) -> Option<Vec<u8>> {
        let text = self.comment.as_ref()?;
        let length = u8::try_from(text.len() + 1).ok()?;
        let mut data = vec![0, length];
        data.extend_from_slice(text.as_bytes());
        data.push(0);
        Some(data)
    }

    // Matches.

    pub(crate) fn in_device(self, name: &str) -> Self {
        self.meta(META_IN_NAME).compare(EQUAL, &device(name))
    }

    pub(crate) fn not_in_device(self, name: &str) -> Self {
        self.meta(META_IN_NAME).compare(NOT_EQUAL, &device(name))
    }

    pub(crate) fn out_device(self, name: &str) -> Self {
        self.meta(META_OUT_NAME).compare(EQUAL, &device(name))
    }

    pub(crate) fn not_out_device(self, name: &str) -> Self {
        self.meta(META_OUT_NAME).compare(NOT_EQUAL, &device(name))
    }

    /// The frame's EtherType.
    pub(crate) fn ether_type(self, number: u16) -> Self {
        self.meta(META_PROTOCOL)
            .compare(EQUAL, &number.to_be_bytes())
    }

    pub(crate) fn family(self, family: Family) -> Self {
        let number = match family {
            Family::V4 => 2,
            Family::V6 => 10,
        };
        self.meta(META_FAMILY).compare(EQUAL, &[number])
    }

    /// The protocol above IP, IPv6 extension headers skipped.
    pub(crate) fn l4(self, protocol: u8) -> Self {
        self.meta(META_L4).compare(EQUAL, &[protocol])
    }

    /// These bytes at `offset` of the header.
    pub(crate) fn bytes(self, header: Header, offset: u32, value: &[u8]) -> Self {
        self.payload(header, offset, value.len())
            .compare(EQUAL, value)
    }

    pub(crate) fn not_bytes(self, header: Header, offset: u32, value: &[u8]) -> Self {
        self.payload(header, offset, value.len())
            .compare(NOT_EQUAL, value)
    }

    pub(crate) fn source_in(self, subnet: Subnet) -> Self {
        self.prefix(source_at(subnet.family()), subnet, EQUAL)
    }

    pub(crate) fn destination_in(self, subnet: Subnet) -> Self {
        self.prefix(destination_at(subnet.family()), subnet, EQUAL)
    }

    pub(crate) fn not_destination_in(self, subnet: Subnet) -> Self {
        self.prefix(destination_at(subnet.family()), subnet, NOT_EQUAL)
    }

    pub(crate) fn source_is(self, ip: Ip) -> Self {
        let at = source_at(ip.family());
        self.bytes(Header::Network, at, &octets(ip))
    }

    pub(crate) fn destination_is(self, ip: Ip) -> Self {
        let at = destination_at(ip.family());
        self.bytes(Header::Network, at, &octets(ip))
    }

    /// So many packets a second, after a first few; the others do not match.
    pub(crate) fn at_most(self, per_second: u64, at_once: u32) -> Self {
        let data = Attributes::new()
            .bytes(1, &per_second.to_be_bytes())
            .bytes(2, &1_u64.to_be_bytes())
            .number(3, at_once);
        self.expression("limit", &data)
    }

    /// The packet is for an address of this host.
    pub(crate) fn destination_is_local(self) -> Self {
        let data = Attributes::new()
            .number(1, FIRST)
            .number(2, 3)
            .number(3, 1 << 1);
        self.expression("fib", &data)
            .compare(EQUAL, &RTN_LOCAL.to_ne_bytes())
    }

    pub(crate) fn established_or_related(self) -> Self {
        self.conntrack(CT_STATE, CT_ESTABLISHED_RELATED)
    }

    /// A port mapping brought it here.
    pub(crate) fn destination_translated(self) -> Self {
        self.conntrack(CT_STATUS, CT_DST_NAT)
    }

    // What happens.

    pub(crate) fn accept(self) -> Self {
        self.verdict(1)
    }

    pub(crate) fn drop(self) -> Self {
        self.verdict(0)
    }

    pub(crate) fn count(self) -> Self {
        let zero = 0u64.to_be_bytes();
        self.expression(
            "counter",
            &Attributes::new().bytes(1, &zero).bytes(2, &zero),
        )
    }

    /// Drops the packet of a TCP connection, whose sender gets a reset. Needs [`Rule::l4`].
    pub(crate) fn reset(self) -> Self {
        self.expression("reject", &Attributes::new().number(1, REJECT_RESET))
    }

    /// Drops the packet, whose sender gets an ICMP "unreachable" of that code (of the family that the rule is for).
    pub(crate) fn unreachable(self, code: u8) -> Self {
        let data = Attributes::new()
            .number(1, REJECT_UNREACHABLE)
            .bytes(2, &[code]);
        self.expression("reject", &data)
    }

    /// Writes another source address, into the checksums above as well.
    pub(crate) fn write_source(self, ip: Ip) -> Self {
        self.write_address(source_at(ip.family()), ip)
    }

    /// Writes another destination address, into the checksums above as well.
    pub(crate) fn write_destination(self, ip: Ip) -> Self {
        self.write_address(destination_at(ip.family()), ip)
    }

    /// Writes `value` at `offset` of the transport header; the sum at `sum` covers it.
    pub(crate) fn write_transport(self, offset: u32, value: &[u8], sum: u32) -> Self {
        let data = written(Header::Transport, offset, value.len())
            .number(6, CHECKSUM_INET)
            .number(7, sum);
        self.load(FIRST, value).expression("payload", &data)
    }

    fn write_address(self, offset: u32, ip: Ip) -> Self {
        /// Of the IPv4 header's own checksum.
        const SUM: u32 = 10;
        let value = octets(ip);
        let data = written(Header::Network, offset, value.len());
        let data = match ip.family() {
            Family::V4 => data.number(6, CHECKSUM_INET).number(7, SUM),
            Family::V6 => data,
        };
        self.load(FIRST, &value)
            .expression("payload", &data.number(8, CHECKSUM_PSEUDO_HEADER))
    }

    pub(crate) fn masquerade(self) -> Self {
        self.expression("masq", &Attributes::new())
    }

    /// Connection tracking shall not see the packet (only in a raw chain).
    pub(crate) fn no_track(self) -> Self {
        self.expression("notrack", &Attributes::new())
    }

    pub(crate) fn translate_destination(self, ip: Ip, port: u16) -> Self {
        let family = match ip.family() {
            Family::V4 => 2,
            Family::V6 => 10,
        };
        let data = Attributes::new()
            .number(1, 1)
            .number(2, family)
            .number(3, FIRST)
            .number(5, SECOND);
        self.load(FIRST, &octets(ip))
            .load(SECOND, &port.to_be_bytes())
            .expression("nat", &data)
    }

    /// Destination translation that leaves the port.
    pub(crate) fn translate_destination_address(self, ip: Ip) -> Self {
        self.translate_address(1, ip)
    }

    pub(crate) fn translate_source_address(self, ip: Ip) -> Self {
        self.translate_address(0, ip)
    }

    fn translate_address(self, kind: u32, ip: Ip) -> Self {
        let family = match ip.family() {
            Family::V4 => 2,
            Family::V6 => 10,
        };
        let data = Attributes::new()
            .number(1, kind)
            .number(2, family)
            .number(3, FIRST);
        self.load(FIRST, &octets(ip)).expression("nat", &data)
    }

    // The expressions below all this.

    fn meta(self, key: u32) -> Self {
        self.expression("meta", &Attributes::new().number(2, key).number(1, FIRST))
    }

    fn payload(self, header: Header, offset: u32, length: usize) -> Self {
        let data = Attributes::new().number(1, FIRST);
        self.expression("payload", &place(data, header, offset, length))
    }

    fn prefix(self, offset: u32, subnet: Subnet, operation: u32) -> Self {
        let network = octets(subnet.network());
        let mut mask = vec![0; network.len()];
        for (index, byte) in mask.iter_mut().enumerate() {
            let bits = usize::from(subnet.length())
                .saturating_sub(index * 8)
                .min(8);
            *byte = !(0xff_u8
                .checked_shr(u32::try_from(bits).unwrap_or(8))
                .unwrap_or(0));
        }
        let length = u32::try_from(network.len()).unwrap_or(u32::MAX);
        let data = Attributes::new()
            .number(1, FIRST)
            .number(2, FIRST)
            .number(3, length)
            .nested(4, &Attributes::new().bytes(1, &mask))
            .nested(5, &Attributes::new().bytes(1, &vec![0; network.len()]));
        self.payload(Header::Network, offset, network.len())
            .expression("bitwise", &data)
            .compare(operation, &network)
    }

    fn conntrack(self, key: u32, any_of: u32) -> Self {
        let mask = Attributes::new()
            .number(1, FIRST)
            .number(2, FIRST)
            .number(3, 4)
            .nested(4, &Attributes::new().bytes(1, &any_of.to_ne_bytes()))
            .nested(5, &Attributes::new().bytes(1, &[0; 4]));
        self.expression("ct", &Attributes::new().number(1, FIRST).number(2, key))
            .expression("bitwise", &mask)
            .compare(NOT_EQUAL, &[0; 4])
    }

    fn compare(self, operation: u32, value: &[u8]) -> Self {
        let data = Attributes::new()
            .number(1, FIRST)
            .number(2, operation)
            .nested(3, &Attributes::new().bytes(1, value));
        self.expression("cmp", &data)
    }

    fn load(self, register: u32, value: &[u8]) -> Self {
        let data = Attributes::new()
            .number(1, register)
            .nested(2, &Attributes::new().bytes(1, value));
        self.expression("immediate", &data)
    }

    fn verdict(self, code: u32) -> Self {
        let verdict = Attributes::new().nested(2, &Attributes::new().number(1, code));
        self.expression(
            "immediate",
            &Attributes::new().number(1, VERDICT).nested(2, &verdict),
        )
    }

    fn expression(mut self, name: &str, data: &Attributes) -> Self {
        let one = Attributes::new().text(1, name).nested(2, data);
        self.expressions = self.expressions.nested(1, &one);
        self
    }
}

/// What is in the first register goes there.
fn written(header: Header, offset: u32, length: usize) -> Attributes {
    place(Attributes::new().number(5, FIRST), header, offset, length)
}

/// `length` bytes at `offset` of the header.
fn place(data: Attributes, header: Header, offset: u32, length: usize) -> Attributes {
    let base = match header {
        Header::Link => 0,
        Header::Network => 1,
        Header::Transport => 2,
    };
    data.number(2, base)
        .number(3, offset)
        .number(4, u32::try_from(length).unwrap_or(u32::MAX))
}

/// The comment in a rule's user data.
pub(super) fn comment(data: &[u8]) -> Option<String> {
    // User data is type, length, value with one byte each, unlike everything around it.
    let mut rest = data;
    while let [kind, length, after @ ..] = rest {
        let (value, next) = after.split_at_checked(usize::from(*length))?;
        if *kind == 0 {
            return text(value);
        }
        rest = next;
    }
    None
}

/// What the expressions of a listed rule compare with.
pub(super) fn matches(expressions: &[u8]) -> Vec<Match> {
    read(expressions)
        .filter_map(|(_, expression)| {
            let name = read(expression).find(|(kind, _)| *kind == 1)?.1;
            let data = read(expression).find(|(kind, _)| *kind == 2)?.1;
            let of = |wanted: u16| {
                read(data)
                    .find(|(kind, _)| *kind == wanted)
                    .map(|(_, value)| value)
            };
            match text(name)?.as_str() {
                "cmp" => Some(Match::Value(
                    read(of(3)?).find(|(kind, _)| *kind == 1)?.1.to_vec(),
                )),
                "lookup" => Some(Match::Set(text(of(1)?)?)),
                "match" => Some(Match::Extension {
                    name: text(of(1)?)?,
                    data: of(3)?.to_vec(),
                }),
                _ => None,
            }
        })
        .collect()
}

/// Interface names compare with their terminating NUL, as iptables writes them: without it a name is a prefix.
fn device(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

pub(crate) fn octets(ip: Ip) -> Vec<u8> {
    match ip.family() {
        Family::V4 => ip.octets_v4().to_vec(),
        Family::V6 => ip.octets_v6().to_vec(),
    }
}

const fn source_at(family: Family) -> u32 {
    match family {
        Family::V4 => 12,
        Family::V6 => 8,
    }
}

const fn destination_at(family: Family) -> u32 {
    match family {
        Family::V4 => 16,
        Family::V6 => 24,
    }
}

#[cfg(test)]
mod tests {
    use super::super::attribute::{number, read, text};
    use super::*;

    #[test]
    fn a_comment_is_found_again() {
        let rule = Rule::new().accept().comment("sluice");
        assert_eq!(
            comment(&rule.comment_data().unwrap()).as_deref(),
            Some("sluice")
        );
    }

    /// As the kernel's answers are read: attributes in attributes, and comments in them.
    fn take(bytes: &[u8]) {
        let _ = comment(bytes);
        for (_, value) in read(bytes) {
            let _ = comment(value);
            for (_, inner) in read(value) {
                let _ = (text(inner), number(inner));
            }
        }
    }

    #[test]
    fn any_answer_ends_without_panic() {
        bolero::check!().for_each(take);
        let kept = crate::node::corpus("nft");
        for bytes in &kept {
            for length in 0..=bytes.len() {
                take(&bytes[..length]);
            }
        }
        assert!(kept.len() >= 7, "the corpus is there");
    }
}
