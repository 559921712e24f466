//! Signatures of rows: made once for each change of a row, whoever is told of it and however often.

use super::answer::instance_ips;
use super::{Answerer, Known};
use crate::message::{InstanceEntry, IpType, ServiceIpEntry};
use crate::names::ServiceName;
use crate::signature::{ClusterKey, Signature, Signed, Signer};
use std::collections::BTreeMap;

/// Of the rows of one job.
#[derive(Clone, Debug, Default)]
pub(super) struct Signatures {
    /// The revision that they are of.
    revision: Option<u64>,
    /// By instance number: what was signed, in short, and its signature.
    rows: BTreeMap<u32, ([u8; 32], Signature)>,
}

impl Known {
    /// The instances as they are now, each with the addresses by which it is found.
    pub(super) fn rows(&self) -> Vec<InstanceEntry> {
        let mut entries = self.entries();
        for entry in &mut entries {
            entry.service_ip.clone_from(&self.job.service_ip_list);
            let own = ServiceIpEntry::new(IpType::instance(), instance_ips(entry));
            entry.service_ip.push(own);
        }
        entries
    }

    /// The signature of a row as it is now; `None` when rows are not signed, or have changed since they were.
    pub(super) fn signature(&self, number: u32) -> Option<Signature> {
        let is_current = self.signatures.revision == Some(self.revision);
        let (_, signature) = self.signatures.rows.get(&number).filter(|_| is_current)?;
        Some(*signature)
    }
}

impl Answerer {
    /// By which nodes verify what they are told; `None`: it is not signed.
    #[must_use]
    pub fn signing_key(&self) -> Option<ClusterKey> {
        self.settings.signer.as_ref().map(Signer::public)
    }

    /// Signs the rows of a job that changed since they were signed.
    pub(super) fn sign(&mut self, name: &ServiceName) {
        let (Some(signer), Some(known)) = (&self.settings.signer, self.jobs.get_mut(name)) else {
            return;
        };
        if known.signatures.revision == Some(known.revision) {
            return;
        }
        let before = std::mem::take(&mut known.signatures.rows);
        let signed = known.rows().into_iter().map(|entry| {
            let row = Signed::of(&known.job.job_name, &entry);
            let digest = row.digest(None);
            let same = before.get(&entry.instance_number);
            let signature = match same.filter(|(before, _)| *before == digest) {
                Some((_, signature)) => *signature,
                None => signer.sign(&row),
            };
            (entry.instance_number, (digest, signature))
        });
        known.signatures = Signatures {
            revision: Some(known.revision),
            rows: signed.collect(),
        };
    }
}
