//! Answers as they leave: written once per change of a job, for all nodes that are told the same.

use super::isolation::Standing;
use super::{Answerer, ServiceName};
use crate::message::{NodeId, write};

/// An answer without its `query_key`.
#[derive(Clone, Debug)]
struct Written {
    before_key: Vec<u8>,
    after_key: Vec<u8>,
}

impl Written {
    /// `text` is an answer whose `query_key` is empty.
    fn new(app_name: &str, mut text: Vec<u8>) -> Option<Self> {
        let before = br#"{"app_name":,"query_key":"#.len() + write(&app_name).len();
        if text.get(before..before + 2)? != br#""""# {
            return None;
        }
        let after_key = text.split_off(before + 2);
        text.truncate(before);
        Some(Self {
            before_key: text,
            after_key,
        })
    }

    fn with_key(&self, query_key: &str) -> Vec<u8> {
        let key = write(&query_key);
        [&self.before_key, &key, &self.after_key]
            .map(Vec::as_slice)
            .concat()
    }
}

/// What nodes are told of a job, until it changes; it depends on the node only by where it stands, unless rows are pruned.
#[derive(Clone, Debug, Default)]
pub(super) struct Bodies {
    calls: Option<Written>,
    answers: Option<Written>,
}

impl Bodies {
    fn of(&mut self, standing: Standing) -> Option<&mut Option<Written>> {
        match standing {
            Standing::Calls => Some(&mut self.calls),
            Standing::Answers => Some(&mut self.answers),
            Standing::Nothing | Standing::Unsaid => None,
        }
    }
}

impl Answerer {
    /// The text of what `node` is told of a job, with the key that it asked for; `None` like [`Answerer::result`].
    pub(super) fn body(
        &mut self,
        name: &ServiceName,
        node: &NodeId,
        query_key: &str,
    ) -> Option<Vec<u8>> {
        let known = self.jobs.get(name)?;
        if known.job.instance_list.len() > self.settings.instances_max {
            self.sign(name);
            return self.slow_body(name, node, query_key);
        }
        let standing = self.standing(node, known);
        let bodies = &mut self.jobs.get_mut(name)?.bodies;
        if let Some(written) = bodies.of(standing)? {
            let body = written.with_key(query_key);
            debug_assert_eq!(
                Some(&body),
                self.slow_body(name, node, query_key).as_ref(),
                "{name} changed, and its answer was kept"
            );
            return Some(body);
        }
        self.sign(name);
        let result = self.result(self.jobs.get(name)?, node, "")?;
        let written = Written::new(&result.app_name, write(&result));
        *self.jobs.get_mut(name)?.bodies.of(standing)? = written.clone();
        match written {
            Some(written) => Some(written.with_key(query_key)),
            None => self.slow_body(name, node, query_key),
        }
    }

    fn slow_body(&self, name: &ServiceName, node: &NodeId, query_key: &str) -> Option<Vec<u8>> {
        let result = self.result(self.jobs.get(name)?, node, query_key)?;
        Some(write(&result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{InstanceEntry, TableQueryResult};

    /// The fast way is the slow way, whatever the texts are.
    #[test]
    fn a_key_put_in_later_is_as_if_it_had_been_there() {
        bolero::check!()
            .with_type::<(String, String, u32)>()
            .for_each(|(app_name, query_key, number)| {
                let result = |query_key: &str| TableQueryResult {
                    app_name: app_name.clone(),
                    query_key: query_key.to_owned(),
                    instance_list: vec![InstanceEntry {
                        instance_number: *number,
                        ..InstanceEntry::default()
                    }],
                    ..TableQueryResult::default()
                };
                let written = Written::new(app_name, write(&result(""))).unwrap();
                assert_eq!(written.with_key(query_key), write(&result(query_key)));
            });
    }
}
