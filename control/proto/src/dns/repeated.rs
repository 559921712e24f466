//! Answers as they left, for the same query of the same instance: applications ask for the names of few services again and
//! again, and reading and writing messages would be most of what the server does itself.

use super::names::Service;
use super::reply::HEADER;
use sluice_wire::Ip;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Answers kept. When there are more, all are forgotten: whoever varies its queries makes them cost what they cost anyway.
const ANSWERS_MAX: usize = 1024;
/// The longest query whose answer is kept, in bytes: a name of full length and usual EDNS options.
const QUERY_MAX: usize = 320;
/// Bytes of a message's id, in which repeated queries differ.
const ID: usize = 2;

#[derive(Debug)]
struct Answer {
    bytes: Vec<u8>,
    service: Arc<Service>,
}

/// See the module. Holds for one snapshot of the names.
#[derive(Debug, Default)]
pub(super) struct Repeated {
    answers: HashMap<Vec<u8>, Answer>,
    /// Room for the key that is looked for.
    key: Vec<u8>,
}

impl Repeated {
    /// The answer to the query, if it was kept; its service is in use.
    pub(super) fn answer(&mut self, query: &[u8], from: Ip) -> Option<Vec<u8>> {
        let id = query.get(..ID).filter(|_| is_kept(query))?;
        write_key(&mut self.key, query, from);
        let answer = self.answers.get(&self.key)?;
        answer.service.touch();
        let mut bytes = answer.bytes.clone();
        bytes.get_mut(..ID)?.copy_from_slice(id);
        Some(bytes)
    }

    /// Keeps an answer that names addresses of `service`.
    pub(super) fn keep(&mut self, query: &[u8], from: Ip, bytes: &[u8], service: &Arc<Service>) {
        if !is_kept(query) || bytes.len() < HEADER {
            return;
        }
        if self.answers.len() >= ANSWERS_MAX {
            self.answers.clear();
        }
        let mut key = Vec::new();
        write_key(&mut key, query, from);
        let answer = Answer {
            bytes: bytes.to_vec(),
            service: Arc::clone(service),
        };
        self.answers.insert(key, answer);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.answers.len()
    }

    /// Other names are known, or others may ask.
    pub(super) fn clear(&mut self) {
        self.answers.clear();
    }
}

const fn is_kept(query: &[u8]) -> bool {
    HEADER < query.len() && query.len() <= QUERY_MAX
}

/// Everything that an answer depends on, but its id: flags and EDNS included, and the question in its own letters.
fn write_key(key: &mut Vec<u8>, query: &[u8], from: Ip) {
    key.clear();
    match IpAddr::from(from) {
        IpAddr::V4(ip) => {
            key.push(4);
            key.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            key.push(6);
            key.extend_from_slice(&ip.octets());
        }
    }
    key.extend_from_slice(query.get(ID..).unwrap_or_default());
}
