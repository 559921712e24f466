//! `profile`: what is known of NIC families, and which one this machine has.

use super::CliError;
use crate::config::Config;
use crate::hardware::{self, Choice};
use crate::output::{self, Format};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use sluice_hw_profiles::{Catalog, Link, Profile, Verified};

#[derive(Debug, Subcommand)]
pub(super) enum ProfileCommand {
    /// Say which profile fits an interface of this machine, why, and what it would set
    Detect(Detect),
    /// List all profiles
    List {
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Show a profile
    Show {
        name: String,
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
}

#[derive(Debug, Args)]
pub(super) struct Detect {
    /// The interface [default: the underlay]
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl ProfileCommand {
    pub(super) fn run(&self, config: &Config) -> Result<(), CliError> {
        match self {
            Self::Detect(detect) => {
                let choice = hardware::choose(config, detect.interface.as_deref())?;
                print(detect.output, &detected(config, &choice), detected_table);
            }
            Self::List { output } => {
                let catalog = hardware::catalog(config)?;
                let rows: Vec<Value> = catalog.profiles().map(|it| row(&catalog, it)).collect();
                print(*output, &rows.into(), |rows| {
                    let rows = rows.as_array().map_or(&[][..], Vec::as_slice);
                    output::json_table(super::read::PROFILES, rows)
                });
            }
            Self::Show { name, output } => {
                let catalog = hardware::catalog(config)?;
                let profile = catalog.named(name).ok_or_else(|| {
                    CliError::Asked(format!(
                        "there is no profile `{name}`; `sluice profile list` shows them"
                    ))
                })?;
                match output {
                    Format::Table => output::print(&profile.render()),
                    Format::Json => output::print_json(&shown(profile)),
                }
            }
        }
        Ok(())
    }
}

fn print(format: Format, answer: &Value, table: impl FnOnce(&Value) -> String) {
    match format {
        Format::Table => output::print(&table(answer)),
        Format::Json => output::print_json(answer),
    }
}

/// The choice, with the settings for both links.
fn detected(config: &Config, choice: &Choice) -> Value {
    let mut answer = choice.json();
    for link in [Link::Tun, Link::AfXdp] {
        let settings: serde_json::Map<String, Value> = choice
            .settings(config, link)
            .entries()
            .map(|(key, value)| (key.name().to_owned(), value.into()))
            .collect();
        answer[format!("set_with_{}", link.name())] = settings.into();
    }
    if let Some(profile) = &choice.profile {
        answer["notes"] = json!(profile.notes);
        answer["kernel_command_line"] = json!(profile.kernel_command_line);
    }
    answer
}

/// The keys of an answer as people read them: what it is, what fits, what that means.
const ORDER: &[&str] = &[
    "interface",
    "driver",
    "pci",
    "model",
    "machine",
    "xdp_features",
    "profile",
    "why",
    "recommended_link",
    "recommended_why",
    "zero_copy",
    "set_with_tun",
    "set_with_af_xdp",
    "kernel_command_line",
    "notes",
];

/// Scalars as key and value; lists and settings one a line beside their key.
fn detected_table(answer: &Value) -> String {
    let mut text = String::new();
    for &key in ORDER {
        let value = &answer[key];
        let lines: Vec<String> = match value {
            Value::Array(lines) => lines.iter().map(output::plain).collect(),
            Value::Object(settings) => settings
                .iter()
                .map(|(key, value)| format!("{key} = {}", output::plain(value)))
                .collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                text.push_str(&format!("{key:<20}  {}\n", output::plain(value)));
                continue;
            }
        };
        if lines.is_empty() {
            text.push_str(&format!("{key:<20}  -\n"));
        }
        for (index, line) in lines.iter().enumerate() {
            let key = if index == 0 { key } else { "" };
            text.push_str(&format!("{key:<20}  {line}\n"));
        }
    }
    text
}

fn row(catalog: &Catalog, profile: &Profile) -> Value {
    let name = profile.name.as_str();
    json!({
        "profile": name,
        "title": profile.title,
        "drivers": profile.rules.drivers,
        "link": profile.link.recommended.name(),
        "verified": match profile.verified {
            Verified::Docs => "docs",
            Verified::Lab => "lab",
        },
        "from": catalog.file(name).map_or_else(|| "shipped".to_owned(), |file| file.display().to_string()),
    })
}

/// A profile as JSON: the same keys as in its file.
fn shown(profile: &Profile) -> Value {
    serde_json::to_value(profile)
        .unwrap_or_else(|_| unreachable!("a profile has tables, lists, texts and numbers only"))
}
