//! What a name means: `app.appns.service.servicens.<any|n>.<policy|none>.local` (thesis 3.6.2), nothing, or not ours.

use crate::names::ServiceName;
use crate::table_query::Policy;
use hickory_proto::rr::Name;
use std::str::FromStr;
use thiserror::Error;

/// The suffix that every installation has.
pub const LOCAL: &str = "local";

/// Labels before the suffix.
const LABELS: usize = 6;

/// Which address of a service is meant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Choice {
    /// `any.<policy>`: the ServiceIP of that policy.
    Policy(Policy),
    /// `<n>.none`: the InstanceIP of that instance.
    Instance(u32),
}

/// What a name is about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Subject {
    Service {
        service: ServiceName,
        choice: Choice,
        /// The zone it is in, for negative answers.
        apex: Name,
    },
    /// The suffix itself.
    Apex(Name),
    /// Under a suffix of ours, but outside of the grammar.
    Nothing(Name),
    /// Somebody else's.
    Foreign,
}

/// Why a suffix cannot be one.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error(
    "`{0}` is no suffix for names; expected labels of a-z, 0-9 and -, like \"svc.example\", other than \"local\""
)]
pub struct ZoneError(String);

/// The suffixes under which services have names.
#[derive(Clone, Debug)]
pub struct Zones(Vec<Name>);

impl Zones {
    /// `.local`, and a second suffix if there is one (without regard to case and to a final dot).
    ///
    /// # Errors
    /// When the second suffix is no host name, or is `local` again.
    pub fn new(second: Option<&str>) -> Result<Self, ZoneError> {
        let mut suffixes =
            vec![Name::from_ascii(format!("{LOCAL}.")).map_err(|_| ZoneError(LOCAL.to_owned()))?];
        if let Some(text) = second {
            let error = || ZoneError(text.to_owned());
            let bare = text.strip_suffix('.').unwrap_or(text);
            let is_label = |label: &str| {
                (1..=63).contains(&label.len())
                    && label
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'-')
                    && !label.starts_with('-')
                    && !label.ends_with('-')
            };
            // Six parts of at most 30 letters must still fit into the 255 bytes of a name.
            if bare.len() > 60 || !bare.split('.').all(is_label) {
                return Err(error());
            }
            let name =
                Name::from_ascii(format!("{}.", bare.to_ascii_lowercase())).map_err(|_| error())?;
            if suffixes[0].zone_of(&name) {
                return Err(error());
            }
            suffixes.push(name);
        }
        Ok(Self(suffixes))
    }

    /// Says what a name means, without regard to case.
    #[must_use]
    pub fn subject(&self, name: &Name) -> Subject {
        let Some(apex) = self.0.iter().find(|suffix| suffix.zone_of(name)) else {
            return Subject::Foreign;
        };
        let below = usize::from(name.num_labels()) - usize::from(apex.num_labels());
        if below == 0 {
            return Subject::Apex(apex.clone());
        }
        match service(name, below) {
            Some((service, choice)) => Subject::Service {
                service,
                choice,
                apex: apex.clone(),
            },
            None => Subject::Nothing(apex.clone()),
        }
    }
}

/// Reads the labels before the suffix, of which there are `below`.
fn service(name: &Name, below: usize) -> Option<(ServiceName, Choice)> {
    if below != LABELS {
        return None;
    }
    let mut labels = [""; LABELS];
    for (label, bytes) in labels.iter_mut().zip(name.iter()) {
        *label = std::str::from_utf8(bytes).ok()?;
    }
    let [app, app_ns, service, service_ns, instance, policy] = labels;
    let choice = choice(instance, policy)?;
    // A dot inside a label would make another name of it; the grammar of the parts forbids it.
    let is_plain = |part: &&str| part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if ![app, app_ns, service, service_ns].iter().all(is_plain) {
        return None;
    }
    Some((
        ServiceName::of_parts(app, app_ns, service, service_ns).ok()?,
        choice,
    ))
}

fn choice(instance: &str, policy: &str) -> Option<Choice> {
    if instance.eq_ignore_ascii_case("any") {
        return [("rr", Policy::RoundRobin), ("closest", Policy::Closest)]
            .into_iter()
            .find(|(word, _)| policy.eq_ignore_ascii_case(word))
            .map(|(_, policy)| Choice::Policy(policy));
    }
    // One spelling for each number: no sign, no leading zero.
    let is_number = instance == "0"
        || (instance.bytes().all(|byte| byte.is_ascii_digit()) && !instance.starts_with('0'));
    (is_number && policy.eq_ignore_ascii_case("none"))
        .then(|| u32::from_str(instance).ok())
        .flatten()
        .map(Choice::Instance)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(text: &str) -> Subject {
        let zones = Zones::new(Some("Svc.Example")).unwrap();
        zones.subject(&Name::from_ascii(text).unwrap())
    }

    fn choice_of(text: &str) -> Option<Choice> {
        match subject(text) {
            Subject::Service {
                service, choice, ..
            } => {
                assert_eq!(service, ServiceName::parse("a.b.c.d").unwrap());
                Some(choice)
            }
            Subject::Nothing(_) => None,
            other @ (Subject::Apex(_) | Subject::Foreign) => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn the_grammar_and_nothing_else() {
        let round_robin = Some(Choice::Policy(Policy::RoundRobin));
        for (name, expected) in [
            ("a.b.c.d.any.rr.local.", round_robin),
            ("A.b.C.d.ANY.Rr.LocaL.", round_robin),
            ("a.b.c.d.any.rr.svc.example.", round_robin),
            (
                "a.b.c.d.any.closest.local.",
                Some(Choice::Policy(Policy::Closest)),
            ),
            ("a.b.c.d.0.none.local.", Some(Choice::Instance(0))),
            (
                "a.b.c.d.4294967295.none.SVC.EXAMPLE.",
                Some(Choice::Instance(u32::MAX)),
            ),
            ("a.b.c.d.4294967296.none.local.", None),
            ("a.b.c.d.00.none.local.", None),
            ("a.b.c.d.1a.none.local.", None),
            ("a.b.c.d.0.rr.local.", None),
            ("a.b.c.d.any.none.local.", None),
            ("a.b.c.d.any.hc.local.", None),
            ("a.b.c.d.any.local.", None),
            ("x.a.b.c.d.any.rr.local.", None),
            ("a-b.b.c.d.any.rr.local.", None),
            ("any.rr.local.", None),
            ("printer.local.", None),
            ("a\\.a.b.c.d.any.rr.local.", None),
            ("a\\.b.c.d.e.any.rr.local.", None),
        ] {
            assert_eq!(choice_of(name), expected, "{name}");
        }
    }

    #[test]
    fn the_rest_is_somebody_elses() {
        assert!(matches!(subject("local."), Subject::Apex(_)));
        assert!(matches!(subject("SVC.example."), Subject::Apex(_)));
        for name in ["example.", "a.b.c.d.any.rr.localx.", "notsvc.example.", "."] {
            assert_eq!(subject(name), Subject::Foreign, "{name}");
        }
    }

    #[test]
    fn a_second_suffix_is_a_host_name() {
        for wrong in [
            "",
            ".",
            "local",
            "LOCAL.",
            "svc.local",
            "a..b",
            "-a",
            "a_b",
            "a b",
        ] {
            assert!(Zones::new(Some(wrong)).is_err(), "{wrong}");
        }
        assert!(Zones::new(Some("internal.")).is_ok());
    }
}
