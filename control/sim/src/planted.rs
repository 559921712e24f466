//! Eleven mistakes that are easily made, to show that a seed finds each. They are made at the seams between the real values,
//! so nothing of them is in the code that gateways and managers run.

/// A mistake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Bug {
    /// The root answers before the write is on disk, and forgets it when it is killed then.
    AcknowledgeBeforeSync,
    /// A root that starts anew tells nobody what it had to tell, nor that it started anew.
    NoticeLostOnRestart,
    /// A number that is given again is not told from the instance that had it before.
    EpochNotBumped,
    /// A gateway takes whatever comes last for the newest, although answers overtake each other.
    RevisionIgnored,
    /// A gateway ends the flows to an instance that an answer does not list.
    PrunedIsWithdrawn,
    /// A gateway forgets a service that packets use all the time.
    UsedInterestExpires,
    /// A manager goes on answering an instance that its node has withdrawn.
    WithdrawnIsAnswered,
    /// A node gives an NsIP to the next instance at once.
    AddressWithoutRest,
    /// A reply is given to the flow whose reply came before.
    WrongReverseKey,
    /// What once could not be resolved is believed to be unavailable for ever.
    NegativeForEver,
    /// A gateway believes whatever its broker says about instances.
    SignatureIgnored,
}

impl Bug {
    pub const ALL: [Self; 11] = [
        Self::AcknowledgeBeforeSync,
        Self::NoticeLostOnRestart,
        Self::EpochNotBumped,
        Self::RevisionIgnored,
        Self::PrunedIsWithdrawn,
        Self::UsedInterestExpires,
        Self::WithdrawnIsAnswered,
        Self::AddressWithoutRest,
        Self::WrongReverseKey,
        Self::NegativeForEver,
        Self::SignatureIgnored,
    ];

    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AcknowledgeBeforeSync => "acknowledge-before-sync",
            Self::NoticeLostOnRestart => "notice-lost-on-restart",
            Self::EpochNotBumped => "epoch-not-bumped",
            Self::RevisionIgnored => "revision-ignored",
            Self::PrunedIsWithdrawn => "pruned-is-withdrawn",
            Self::UsedInterestExpires => "used-interest-expires",
            Self::WithdrawnIsAnswered => "withdrawn-is-answered",
            Self::AddressWithoutRest => "address-without-rest",
            Self::WrongReverseKey => "wrong-reverse-key",
            Self::NegativeForEver => "negative-for-ever",
            Self::SignatureIgnored => "signature-ignored",
        }
    }
}

/// A root's answer as [`Bug::EpochNotBumped`] has it.
pub(crate) fn without_epochs(body: &[u8]) -> Vec<u8> {
    fn level(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Object(fields) => {
                for (key, value) in fields {
                    if key == "epoch" {
                        *value = 1.into();
                    } else {
                        level(value);
                    }
                }
            }
            serde_json::Value::Array(values) => values.iter_mut().for_each(level),
            serde_json::Value::Null
            | serde_json::Value::Bool(_)
            | serde_json::Value::Number(_)
            | serde_json::Value::String(_) => {}
        }
    }
    let Ok(mut value) = serde_json::from_slice(body) else {
        return body.to_vec();
    };
    level(&mut value);
    value.to_string().into_bytes()
}

/// A cluster's answer as [`Bug::RevisionIgnored`] has it: each newer than the one that came before.
pub(crate) fn as_newest(body: &[u8], arrivals: u64) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<serde_json::Value>(body) else {
        return body.to_vec();
    };
    if let Some(revision) = value.get_mut("revision") {
        *revision = serde_json::json!([u32::MAX, arrivals]);
    }
    value.to_string().into_bytes()
}
