//! Rows signed by the cluster: a gateway takes where an instance runs from nobody else, so that the broker between the two
//! need not be trusted for it.
//!
//! Ed25519 (RFC 8032) over the bytes that [`Signed::of`] writes. It is deterministic: one key and one row are one signature.

use crate::message::{FormerPlace, InstanceEntry, NodeEntry, NodeKey, ServiceIpEntry};
use crate::names::ServiceName;
use base64ct::{Base64, Encoding};
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sluice_wire::Ip;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

/// What the bytes begin with: they mean this and nothing else that the key may once sign.
const PURPOSE: &[u8] = b"sluice row 1\0";
/// The same of an answer about a node.
const NODE_PURPOSE: &[u8] = b"sluice node 1\0";
const SIGNATURE_LEN: usize = 64;
const SIGNATURE_TEXT_LEN: usize = 88;

/// The key of a cluster manager, with which it signs its rows. It never prints its secret half.
#[derive(Clone)]
pub struct Signer {
    pair: Arc<Ed25519KeyPair>,
    public: ClusterKey,
}

impl Signer {
    /// The key of 32 secret bytes that nobody can predict.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed)
            .unwrap_or_else(|_| unreachable!("any 32 bytes are a seed"));
        let mut public = [0; 32];
        public.copy_from_slice(pair.public_key().as_ref());
        Self {
            pair: Arc::new(pair),
            public: ClusterKey(NodeKey::from_bytes(public)),
        }
    }

    /// By which others verify.
    #[must_use]
    pub const fn public(&self) -> ClusterKey {
        self.public
    }

    /// Signs a row.
    #[must_use]
    pub fn sign(&self, row: &Signed) -> Signature {
        let mut bytes = [0; SIGNATURE_LEN];
        bytes.copy_from_slice(self.pair.sign(&row.0).as_ref());
        Signature(bytes)
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.public)
    }
}

/// The public half of a [`Signer`]: base64 of 32 bytes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct ClusterKey(NodeKey);

impl ClusterKey {
    /// Whether the key's owner signed the row.
    #[must_use]
    pub fn verifies(&self, row: &Signed, signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0.as_bytes())
            .verify(&row.0, &signature.0)
            .is_ok()
    }
}

impl fmt::Display for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ClusterKey {
    type Err = crate::message::NotAKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// A signature: base64 of 64 bytes.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Signature([u8; SIGNATURE_LEN]);

/// Why a text is no signature.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("a signature is 88 characters, base64 of 64 bytes")]
pub struct NotASignature;

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; SIGNATURE_TEXT_LEN];
        f.write_str(
            Base64::encode(&self.0, &mut text)
                .unwrap_or_else(|_| unreachable!("64 bytes are 88 characters of base64")),
        )
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({self})")
    }
}

impl FromStr for Signature {
    type Err = NotASignature;

    fn from_str(text: &str) -> Result<Self, NotASignature> {
        if text.len() != SIGNATURE_TEXT_LEN {
            return Err(NotASignature);
        }
        let mut bytes = [0; SIGNATURE_LEN];
        match Base64::decode(text, &mut bytes) {
            Ok(decoded) if decoded.len() == SIGNATURE_LEN => Ok(Self(bytes)),
            _ => Err(NotASignature),
        }
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The bytes of a row, or of what is said about a node, that are signed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Signed(Vec<u8>);

impl Signed {
    /// Everything of a row that says what an instance is and where, in a fixed order, each part with its length, numbers
    /// big-endian; "Rows that are signed" in `control/README.md` has the table. What depends on the node that is told, as
    /// `reply_only`, is not part of it, nor is `kept_ip`, which concerns only the node where the instance runs.
    #[must_use]
    pub fn of(job: &ServiceName, entry: &InstanceEntry) -> Self {
        let mut bytes = Bytes(PURPOSE.to_vec());
        bytes.part(job.as_str().to_ascii_lowercase().as_bytes());
        bytes.0.extend(entry.instance_number.to_be_bytes());
        bytes.0.extend(entry.epoch.to_be_bytes());
        bytes.part(entry.worker_id.as_deref().unwrap_or_default().as_bytes());
        bytes.key(entry.public_key);
        for ip in [
            entry.instance_ip,
            entry.instance_ip_v6,
            entry.namespace_ip,
            entry.namespace_ip_v6,
            entry.host_ip,
        ] {
            bytes.ip(ip);
        }
        bytes.0.extend(entry.host_port.unwrap_or(0).to_be_bytes());
        bytes.0.push(entry.answers_probes.into());
        bytes.count(entry.service_ip.len());
        for service_ip in &entry.service_ip {
            bytes.service_ip(service_ip);
        }
        bytes.count(entry.former.len());
        for former in &entry.former {
            bytes.former(former);
        }
        Self(bytes.0)
    }

    /// All that is said about a node: its public key, its id, its address and its tunnel port, in the same way.
    #[must_use]
    pub fn of_node(node: &NodeEntry) -> Self {
        let mut bytes = Bytes(NODE_PURPOSE.to_vec());
        bytes.key(Some(node.public_key));
        bytes.part(node.worker_id.as_deref().unwrap_or_default().as_bytes());
        bytes.ip(Some(node.host_ip.into()));
        bytes.0.extend(node.host_port.to_be_bytes());
        Self(bytes.0)
    }

    /// SHA-256 of the bytes and the signature: what was verified once need not be again.
    #[must_use]
    pub fn digest(&self, signature: Option<&Signature>) -> [u8; 32] {
        let signature = signature.map_or(&[][..], |signature| &signature.0);
        let whole = [&self.0, signature].concat();
        let mut short = [0; 32];
        short.copy_from_slice(digest(&SHA256, &whole).as_ref());
        short
    }
}

struct Bytes(Vec<u8>);

impl Bytes {
    fn count(&mut self, count: usize) {
        let count = u32::try_from(count)
            .unwrap_or_else(|_| unreachable!("a message is shorter than 1 MiB"));
        self.0.extend(count.to_be_bytes());
    }

    fn part(&mut self, part: &[u8]) {
        self.count(part.len());
        self.0.extend(part);
    }

    fn key(&mut self, key: Option<NodeKey>) {
        self.part(key.as_ref().map_or(&[][..], |key| key.as_bytes()));
    }

    fn ip(&mut self, ip: Option<Ip>) {
        match ip.map(IpAddr::from) {
            Some(IpAddr::V4(ip)) => self.part(&ip.octets()),
            Some(IpAddr::V6(ip)) => self.part(&ip.octets()),
            None => self.part(&[]),
        }
    }

    fn service_ip(&mut self, entry: &ServiceIpEntry) {
        self.part(String::from(entry.ip_type.clone()).as_bytes());
        self.ip(entry.address);
        self.ip(entry.address_v6);
    }

    fn former(&mut self, former: &FormerPlace) {
        self.ip(Some(former.host_ip.into()));
        self.0.extend(former.host_port.to_be_bytes());
        self.key(former.public_key);
        self.0.extend(former.left_s.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::IpType;
    use sluice_wire::Dual;

    fn job() -> ServiceName {
        "a.b.C.d".parse().unwrap()
    }

    fn entry() -> InstanceEntry {
        InstanceEntry {
            instance_number: 1,
            worker_id: Some("n1".to_owned()),
            instance_ip: Some(Ip::v4([10, 30, 0, 1])),
            namespace_ip: Some(Ip::v4([10, 18, 0, 2])),
            host_ip: Some(Ip::v4([192, 0, 2, 1])),
            host_port: Some(50103),
            answers_probes: true,
            public_key: Some(NodeKey::from_bytes([7; 32])),
            service_ip: vec![ServiceIpEntry::new(
                IpType::RoundRobin,
                Dual {
                    v4: Some(Ip::v4([10, 30, 50, 2])),
                    v6: None,
                },
            )],
            former: vec![FormerPlace {
                host_ip: [192, 0, 2, 9].into(),
                host_port: 50104,
                left_s: 5,
                public_key: None,
            }],
            epoch: 3,
            ..InstanceEntry::default()
        }
    }

    fn signer() -> Signer {
        Signer::from_seed(&[1; 32])
    }

    /// RFC 8032 section 7.1, test 1: the key of a seed is the standard's.
    #[test]
    fn a_seed_makes_the_key_of_rfc_8032() {
        let seed = [
            0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec,
            0x2c, 0xc4, 0x44, 0x49, 0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03,
            0x1c, 0xae, 0x7f, 0x60,
        ];
        let key = Signer::from_seed(&seed).public().to_string();
        assert_eq!(key, "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=");
    }

    /// The bytes are a promise to others: other releases, and other programs.
    #[test]
    fn the_signed_bytes_are_as_documented() {
        let part = |bytes: &[u8]| {
            let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
            [&length[..], bytes].concat()
        };
        let expected = [
            b"sluice row 1\0".to_vec(),
            part(b"a.b.c.d"),
            vec![0, 0, 0, 1],
            vec![0, 0, 0, 0, 0, 0, 0, 3],
            part(b"n1"),
            part(&[7; 32]),
            part(&[10, 30, 0, 1]),
            part(&[]),
            part(&[10, 18, 0, 2]),
            part(&[]),
            part(&[192, 0, 2, 1]),
            vec![0xc3, 0xb7],
            vec![1],
            vec![0, 0, 0, 1],
            part(b"RR"),
            part(&[10, 30, 50, 2]),
            part(&[]),
            vec![0, 0, 0, 1],
            part(&[192, 0, 2, 9]),
            vec![0xc3, 0xb8],
            part(&[]),
            vec![0, 0, 0, 0, 0, 0, 0, 5],
        ];
        assert_eq!(Signed::of(&job(), &entry()).0, expected.concat());
        // What depends on who is told.
        let told = InstanceEntry {
            reply_only: true,
            cluster_id: Some("c1".to_owned()),
            ..entry()
        };
        assert_eq!(Signed::of(&job(), &told), Signed::of(&job(), &entry()));
    }

    /// The same of an answer about a node, of which every byte is signed.
    #[test]
    fn what_is_said_about_a_node_is_signed_as_documented() {
        let node = NodeEntry {
            public_key: NodeKey::from_bytes([7; 32]),
            worker_id: Some("n1".to_owned()),
            host_ip: [192, 0, 2, 1].into(),
            host_port: 50103,
            signature: None,
        };
        let expected = [
            b"sluice node 1\0\0\0\0\x20".as_slice(),
            &[7; 32],
            b"\0\0\0\x02n1",
            &[0, 0, 0, 4, 192, 0, 2, 1],
            &[0xc3, 0xb7],
        ];
        assert_eq!(Signed::of_node(&node).0, expected.concat());
        let signature = signer().sign(&Signed::of_node(&node));
        let changes: [fn(&mut NodeEntry); 4] = [
            |node| node.public_key = NodeKey::from_bytes([8; 32]),
            |node| node.worker_id = None,
            |node| node.host_ip = [192, 0, 2, 2].into(),
            |node| node.host_port = 50104,
        ];
        for change in changes {
            let mut changed = node.clone();
            change(&mut changed);
            let bytes = Signed::of_node(&changed);
            assert!(!signer().public().verifies(&bytes, &signature));
        }
    }

    #[test]
    fn every_change_of_what_is_signed_is_seen() {
        let (signer, row) = (signer(), Signed::of(&job(), &entry()));
        let signature = signer.sign(&row);
        assert!(signer.public().verifies(&row, &signature));
        assert_eq!(signer.sign(&row), signature, "always the same");
        let other = Signer::from_seed(&[2; 32]).public();
        assert!(!other.verifies(&row, &signature));
        let ip = |last| Some(Ip::v4([10, 30, 0, last]));
        let changes: [fn(&mut InstanceEntry); 14] = [
            |row| row.instance_number = 2,
            |row| row.epoch = 2,
            |row| row.worker_id = Some("n2".to_owned()),
            |row| row.worker_id = None,
            |row| row.public_key = None,
            |row| row.public_key = Some(NodeKey::from_bytes([8; 32])),
            |row| row.host_port = Some(50104),
            |row| row.answers_probes = false,
            |row| row.former.clear(),
            |row| row.former[0].left_s = 6,
            |row| row.former[0].public_key = Some(NodeKey::from_bytes([8; 32])),
            |row| row.service_ip.clear(),
            |row| row.service_ip[0].address = None,
            |row| row.service_ip[0].ip_type = IpType::Closest,
        ];
        let mut changed: Vec<InstanceEntry> = Vec::new();
        for change in changes {
            let mut row = entry();
            change(&mut row);
            changed.push(row);
        }
        for field in 0..5 {
            let mut row = entry();
            let fields = [
                &mut row.instance_ip,
                &mut row.instance_ip_v6,
                &mut row.namespace_ip,
                &mut row.namespace_ip_v6,
                &mut row.host_ip,
            ];
            for (index, address) in fields.into_iter().enumerate() {
                if index == field {
                    *address = ip(9);
                }
            }
            changed.push(row);
        }
        for changed in changed {
            let row = Signed::of(&job(), &changed);
            assert!(!signer.public().verifies(&row, &signature), "{changed:?}");
        }
        let other_job = Signed::of(&"a.b.e.d".parse().unwrap(), &entry());
        assert!(!signer.public().verifies(&other_job, &signature));
    }

    #[test]
    fn a_signature_survives_its_text_and_any_other_text_is_refused() {
        let signature = signer().sign(&Signed::of(&job(), &entry()));
        let text = signature.to_string();
        assert_eq!(text.parse(), Ok(signature));
        for wrong in [&text[..87], "", &"=".repeat(88), &"A".repeat(88)] {
            assert_eq!(wrong.parse::<Signature>(), Err(NotASignature), "{wrong}");
        }
        bolero::check!().with_type::<String>().for_each(|text| {
            let _ = text.parse::<Signature>();
        });
    }

    #[test]
    fn the_secret_half_does_not_print_itself() {
        let signer = signer();
        assert_eq!(
            format!("{signer:?}"),
            format!("Signer({})", signer.public())
        );
    }
}
