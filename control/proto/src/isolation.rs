//! Who may call whom (thesis 3.3, R8): services of one application namespace and one service namespace, and whom a rule allows.
//!
//! A rule allows one direction: whoever `from` matches may begin conversations with whoever `to` matches, which may answer.
//! The rules that matter to a call are those whose `to` matches the callee, so they travel with the callee's job.

use crate::names::{PART_LENGTH_MAX, PARTS, ServiceName};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// Stands for any part of a name.
const ANY: &str = "*";

/// `app.appns.service.servicens`, where each part is a name or `*`. Kept in lower case: names are compared without case.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Pattern(Box<str>);

/// Why a text is no pattern.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum PatternError {
    #[error(
        "pattern `{pattern}` has {parts} parts; expected 4: app.appns.service.servicens, each a name or `*`"
    )]
    Parts { pattern: String, parts: usize },
    #[error(
        "{part} `{value}` in pattern `{pattern}` is neither `*` nor 1 to 30 characters of a-z, A-Z and 0-9"
    )]
    Part {
        pattern: String,
        part: &'static str,
        value: String,
    },
}

impl Pattern {
    /// Checks the grammar.
    ///
    /// # Errors
    /// Names the part that breaks it.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        // A hostile text is quoted only as far as a pattern could reach.
        let shown = || text.chars().take(128).collect();
        let parts = text.split('.').count();
        if parts != PARTS.len() {
            return Err(PatternError::Parts {
                pattern: shown(),
                parts,
            });
        }
        for (value, part) in text.split('.').zip(PARTS) {
            let is_name = (1..=PART_LENGTH_MAX).contains(&value.len())
                && value.bytes().all(|byte| byte.is_ascii_alphanumeric());
            if value != ANY && !is_name {
                return Err(PatternError::Part {
                    pattern: shown(),
                    part,
                    value: value.chars().take(64).collect(),
                });
            }
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }

    #[must_use]
    pub fn matches(&self, name: &ServiceName) -> bool {
        self.0
            .split('.')
            .zip(name.parts())
            .all(|(pattern, part)| pattern == ANY || pattern.eq_ignore_ascii_case(part))
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::parse(text)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Whoever matches `from` may call whoever matches `to`.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Rule {
    pub from: Pattern,
    pub to: Pattern,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.from, self.to)
    }
}

/// What instances of this installation's nodes may do, as configured.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Isolation {
    /// What no rule allows is refused.
    #[default]
    Enforce,
    /// What no rule allows is counted and logged, and goes on.
    Observe,
    /// Everybody may call everybody.
    Off,
}

impl Isolation {
    /// The words of the configuration.
    pub const WORDS: [&str; 3] = ["enforce", "observe", "off"];

    /// Reads a word of the configuration.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "enforce" => Some(Self::Enforce),
            "observe" => Some(Self::Observe),
            "off" => Some(Self::Off),
            _ => None,
        }
    }

    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
            Self::Off => "off",
        }
    }
}

/// Whether two services are of one application namespace and one service namespace.
#[must_use]
pub fn same_namespaces(one: &ServiceName, other: &ServiceName) -> bool {
    let ([_, app_ns, _, service_ns], [_, other_app_ns, _, other_service_ns]) =
        (one.parts(), other.parts());
    app_ns.eq_ignore_ascii_case(other_app_ns) && service_ns.eq_ignore_ascii_case(other_service_ns)
}

/// Whether `caller` may begin a conversation with `callee`. `rules` are all rules, or those whose `to` matches the callee.
pub fn may_call<'a>(
    caller: &ServiceName,
    callee: &ServiceName,
    rules: impl IntoIterator<Item = &'a Rule>,
) -> bool {
    same_namespaces(caller, callee)
        || rules
            .into_iter()
            .any(|rule| rule.from.matches(caller) && rule.to.matches(callee))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ServiceName {
        text.parse().unwrap()
    }

    fn rule(from: &str, to: &str) -> Rule {
        Rule {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
        }
    }

    #[test]
    fn the_same_two_namespaces_may_talk_whatever_the_application() {
        let web = name("shop.acme.web.prod");
        assert!(may_call(&web, &name("billing.ACME.api.Prod"), []));
        assert!(!may_call(&web, &name("shop.acme.web.test"), []));
        assert!(!may_call(&web, &name("shop.other.web.prod"), []));
    }

    #[test]
    fn a_rule_allows_one_direction() {
        let (web, api) = (name("shop.acme.web.prod"), name("bank.money.api.prod"));
        let rules = [rule("*.acme.*.prod", "Bank.money.API.*")];
        assert!(may_call(&web, &api, &rules));
        assert!(!may_call(&api, &web, &rules));
        assert!(!may_call(&web, &name("bank.money.ledger.prod"), &rules));
        assert!(!may_call(&name("shop.acme.web.test"), &api, &rules));
    }

    #[test]
    fn an_error_names_the_part() {
        let error = |text: &str| Pattern::parse(text).unwrap_err().to_string();
        assert_eq!(
            error("a.*.c"),
            "pattern `a.*.c` has 3 parts; expected 4: app.appns.service.servicens, each a name or `*`"
        );
        assert_eq!(
            error("a.b.web*.d"),
            "service name `web*` in pattern `a.b.web*.d` is neither `*` nor 1 to 30 characters of a-z, A-Z and 0-9"
        );
        assert!(error("a..c.d").starts_with("application namespace ``"));
        assert!(error(&format!("a.b.c.{}", "x".repeat(31))).starts_with("service namespace `xxx"));
    }

    #[test]
    fn a_rule_is_written_in_lower_case() {
        let text = r#"{"from":"*.acme.*.prod","to":"bank.money.api.*"}"#;
        let read: Rule = serde_json::from_str(
            &text
                .to_uppercase()
                .replace("FROM", "from")
                .replace("TO", "to"),
        )
        .unwrap();
        assert_eq!(read, rule("*.acme.*.prod", "bank.money.api.*"));
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        assert!(serde_json::from_str::<Rule>(r#"{"from":"a.b.c","to":"*.*.*.*"}"#).is_err());
    }

    /// Every name of a small alphabet against a model that compares lists of words.
    #[test]
    fn evaluation_is_that_of_a_naive_model() {
        const WORDS: [&str; 3] = ["a", "B", "b"];
        let words = |bits: u16, wild: bool| -> Vec<&str> {
            (0..4)
                .map(|part| match (bits >> (part * 2)) & 3 {
                    3 if wild => ANY,
                    word => WORDS[usize::from(word % 3)],
                })
                .collect()
        };
        bolero::check!()
            .with_type::<(u16, u16, Vec<(u16, u16)>)>()
            .for_each(|(caller, callee, rules)| {
                let (caller, callee) = (words(*caller, false), words(*callee, false));
                let rules: Vec<_> = rules
                    .iter()
                    .take(8)
                    .map(|(from, to)| (words(*from, true), words(*to, true)))
                    .collect();
                let same = |one: &str, other: &str| one.to_lowercase() == other.to_lowercase();
                let fits = |pattern: &[&str], name: &[&str]| {
                    (0..4).all(|part| pattern[part] == "*" || same(pattern[part], name[part]))
                };
                let expected = (same(caller[1], callee[1]) && same(caller[3], callee[3]))
                    || rules
                        .iter()
                        .any(|(from, to)| fits(from, &caller) && fits(to, &callee));
                let parsed: Vec<_> = rules
                    .iter()
                    .map(|(from, to)| rule(&from.join("."), &to.join(".")))
                    .collect();
                let (caller, callee) = (name(&caller.join(".")), name(&callee.join(".")));
                assert_eq!(may_call(&caller, &callee, &parsed), expected);
                // Those that travel with the callee decide the same.
                let own = parsed.iter().filter(|rule| rule.to.matches(&callee));
                assert_eq!(may_call(&caller, &callee, own), expected);
            });
    }

    /// Any text: no panic, and what is accepted is written as it was read, but for its case.
    #[test]
    fn any_text_is_a_pattern_or_a_named_error() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            if let Ok(pattern) = Pattern::parse(&text) {
                assert_eq!(pattern.to_string(), text.to_ascii_lowercase());
                assert_eq!(Pattern::parse(&pattern.to_string()), Ok(pattern));
            }
        });
    }
}
