//! What is printed: paragraphs for people, JSON for machines.

use super::finding::{Finding, Severity};
use super::fix::Done;
use crate::output;
use serde_json::{Value, json};

/// Raised when a field changes its meaning.
const VERSION: u32 = 1;

/// How many findings are errors, warnings, notes and well.
fn counts(findings: &[Finding]) -> [(Severity, usize); 4] {
    [
        Severity::Error,
        Severity::Warning,
        Severity::Note,
        Severity::Ok,
    ]
    .map(|severity| {
        let of = findings
            .iter()
            .filter(|finding| finding.verdict.severity == severity);
        (severity, of.count())
    })
}

/// The JSON object of `-o json`.
pub(crate) fn json(findings: &[Finding], done: &[Done]) -> Value {
    let rows: Vec<Value> = findings
        .iter()
        .map(|finding| {
            let mut row = json!(finding);
            row["automatic"] = finding.verdict.change.is_some().into();
            row
        })
        .collect();
    let counts: serde_json::Map<String, Value> = counts(findings)
        .into_iter()
        .map(|(severity, count)| (severity.name().to_owned(), count.into()))
        .collect();
    json!({"version": VERSION, "counts": counts, "findings": rows, "changed": done})
}

/// Paragraphs, worst first; what is well only when `all`.
pub(crate) fn text(findings: &[Finding], done: &[Done], all: bool) -> String {
    let mut text = String::new();
    for change in done {
        match &change.error {
            None => text.push_str(&format!(
                "did     {}  (it was {})\n",
                change.command, change.former
            )),
            Some(error) => text.push_str(&format!("failed  {}: {error}\n", change.command)),
        }
    }
    if !done.is_empty() {
        text.push('\n');
    }
    for finding in findings {
        let verdict = &finding.verdict;
        if verdict.severity == Severity::Ok {
            if all {
                text.push_str(&format!(
                    "ok       {}: {}: {}\n",
                    finding.check, verdict.place, verdict.found
                ));
            }
            continue;
        }
        text.push_str(&format!(
            "{:<8} {}: {}: {}\n",
            verdict.severity.name(),
            finding.check,
            verdict.place,
            verdict.found
        ));
        text.push_str(&format!("  costs  {}\n", verdict.cost));
        let how = if verdict.change.is_some() {
            "  (--fix does it)"
        } else {
            ""
        };
        text.push_str(&format!("  fix    {}{how}\n\n", verdict.fix));
    }
    text.push_str(&summary(findings));
    text
}

fn summary(findings: &[Finding]) -> String {
    let parts: Vec<String> = counts(findings)
        .into_iter()
        .map(|(severity, count)| match (severity, count) {
            (Severity::Ok, count) => format!("{count} ok"),
            (severity, 1) => format!("1 {}", severity.name()),
            (severity, count) => format!("{count} {}s", severity.name()),
        })
        .collect();
    format!("{}\n", parts.join(", "))
}

/// Findings of warning or worse.
pub(crate) fn serious(findings: &[Finding]) -> usize {
    findings
        .iter()
        .filter(|finding| finding.verdict.severity >= Severity::Warning)
        .count()
}

/// Every rule with what it looks at.
pub(crate) fn rules() -> String {
    let rows: Vec<Vec<String>> = super::checks::ALL
        .iter()
        .map(|check| vec![check.id.to_owned(), check.about.to_owned()])
        .collect();
    output::table(&["CHECK", "WHAT SHOULD BE SO"], &rows)
}
